"""The metrics of a writer, including those that alerts use."""

import time
from collections.abc import Callable

import pytest
from prometheus_client import REGISTRY
from redis.exceptions import ConnectionError as RedisConnectionError

from integration.writer.sending import Sender
from iot_models import metrics
from iot_models.metrics import spec_of
from iot_writer import jobs
from iot_writer.drain.drain import DrainOutcome
from iot_writer.writer import Writer

PASSWORD = b"p"


def drains(outcome: str) -> float:
    return REGISTRY.get_sample_value("iot_drains_total", {"outcome": outcome}) or 0


def last_success(job: str) -> float | None:
    return REGISTRY.get_sample_value("iot_job_last_success_timestamp_seconds", {"job_name": job})


@pytest.fixture
def ours(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> Writer:
    """The writer that the jobs use."""
    monkeypatch.setattr(jobs, "current", lambda: writer)
    return writer


def test_metrics_of_alerts_exist_from_the_start() -> None:
    metrics.create_metrics("writer")
    for name in ("iot_drains_total", "iot_job_last_success_timestamp_seconds"):
        (label,) = spec_of(name).labels
        for value in spec_of(name).initial_labels:
            assert REGISTRY.get_sample_value(name, {label: value}) is not None
    assert REGISTRY.get_sample_value("iot_entries_dead_total") is not None


@pytest.mark.parametrize(
    ("job", "do"), [("partitions", jobs.make_partitions), ("retention", jobs.enforce_retention)]
)
def test_a_finished_job_records_its_time(
    job: str, do: Callable[[], int], ours: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics.create_metrics("writer")
    before = time.time()
    do()
    done = last_success(job)
    assert done is not None
    assert before <= done <= time.time()

    def away() -> None:
        raise RuntimeError("away")

    monkeypatch.setattr(ours, "postgres", away)
    with pytest.raises(RuntimeError):
        do()
    assert last_success(job) == done


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(RedisConnectionError("gone"), "redis_away"), (ValueError("a defect"), "failed")],
)
def test_a_failed_drain_is_counted(
    error: Exception,
    outcome: str,
    ours: Writer,
    sender: Sender,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sender.send(PASSWORD)
    before = drains(outcome)

    def fail(*_: object) -> None:
        raise error

    with monkeypatch.context() as broken:
        broken.setattr(ours.drain, "run", fail)
        if outcome == "failed":
            with pytest.raises(type(error)):
                jobs.drain(sender.shard(PASSWORD))
        else:
            assert jobs.drain(sender.shard(PASSWORD)) == outcome
    assert drains(outcome) == before + 1
    assert sender.waiting() == 1
    assert jobs.drain(sender.shard(PASSWORD)) == "stored"
    sender.check_all()


def test_each_drain_outcome_is_declared() -> None:
    outcomes = {"postgres_away", "redis_away", "failed", *DrainOutcome}
    assert set(spec_of("iot_drains_total").initial_labels) == outcomes
