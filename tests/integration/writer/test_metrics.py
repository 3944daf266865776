"""The metrics of a writer, including those that alerts use."""

import time
from collections.abc import Callable
from typing import Any, cast

import pytest
from prometheus_client import REGISTRY
from redis.exceptions import ConnectionError as RedisConnectionError

from integration.writer.sending import Sender
from iot_models import metrics
from iot_models.metrics import spec_of
from iot_writer import jobs
from iot_writer.drain.drain import DrainOutcome
from iot_writer.writer import Writer
from support.keys import KEYS
from support.samples import sample_value

PASSWORD = b"p"


def drains(outcome: str) -> float:
    return sample_value("iot_drains_total", {"outcome": outcome}) or 0


def last_success(job: str) -> float | None:
    return sample_value("iot_job_last_success_timestamp_seconds", {"job_name": job})


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
            assert sample_value(name, {label: value}) is not None
    assert sample_value("iot_entries_dead_total") is not None


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


def sample(name: str, **labels: str) -> float:
    return sample_value(name, labels) or 0.0


@pytest.mark.usefixtures("ours")
def test_a_drain_measures_what_it_does(sender: Sender) -> None:
    sizes = [f"iot_drain_{what}_bytes_total" for what in ("read", "content", "written")]
    steps = {
        "iot_drain_postgres_seconds_count": ("ledger", "insert", "commit"),
        "iot_drain_redis_seconds_count": ("read", "hot_window", "remove"),
    }
    ages = ("iot_stored_after_seconds", "iot_readable_after_seconds")

    def measured() -> list[float]:
        names = [*sizes, "iot_segment_bytes_sum", "iot_segment_readings_sum"]
        return [
            *map(sample, names),
            *(sample(name, step=step) for name, each in steps.items() for step in each),
            *(sample(f"{age}_count") for age in ages),
        ]

    before, sums = measured(), [sample(f"{age}_sum") for age in ages]
    sender.send(PASSWORD, 1000)
    assert jobs.drain(sender.shard(PASSWORD)) == "stored"
    added = [now - earlier for now, earlier in zip(measured(), before, strict=True)]
    read, content, written, segment_bytes, segment_readings, *counts = added
    assert content == sum(16 + len(str(number)) + 1 for number in range(1000)) - 1
    assert 0 < written < content
    assert 0 < read < content
    assert (segment_bytes, segment_readings) == (written, 1000)
    assert all(count >= 1 for count in counts)
    stored, readable = (sample(f"{age}_sum") - sum_ for age, sum_ in zip(ages, sums, strict=True))
    assert 0 < stored < readable


def test_readings_are_counted_once_if_their_stream_is_not_trimmed(
    ours: Writer, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("iot_readings_stored_total", "iot_segments_stored_total", "iot_entries_repeated_total")

    def lost(*_: object) -> None:
        raise RedisConnectionError("gone")

    before = [sample(name) for name in names]
    sender.send(PASSWORD, 3)
    with monkeypatch.context() as broken:
        broken.setattr(ours.backlog, "remove", lost)
        assert jobs.drain(sender.shard(PASSWORD)) == "redis_away"
    assert [sample(name) - earlier for name, earlier in zip(names, before, strict=True)] == [
        3,
        1,
        0,
    ]
    assert jobs.drain(sender.shard(PASSWORD)) == "repeated"
    assert [sample(name) - earlier for name, earlier in zip(names, before, strict=True)] == [
        3,
        1,
        1,
    ]


def test_a_drain_after_a_failed_one_is_a_retry(
    ours: Writer, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender.send(PASSWORD)
    monkeypatch.setattr(jobs, "_drain_failed", False)
    before = sample("iot_drain_retries_total")

    def fail(*_: object) -> None:
        raise RedisConnectionError("gone")

    with monkeypatch.context() as broken:
        broken.setattr(ours.drain, "run", fail)
        jobs.drain(sender.shard(PASSWORD))
    assert sample("iot_drain_retries_total") == before
    for _ in range(2):
        jobs.drain(sender.shard(PASSWORD))
    assert sample("iot_drain_retries_total") == before + 1


@pytest.mark.parametrize(
    ("traceparent", "traces"),
    [(f"00-{'a1' * 16}-{'b2' * 8}-01", 2), (f"00-{'c3' * 16}", 0), ('00-"} 1\n', 0)],
)
@pytest.mark.usefixtures("ours")
def test_the_age_of_a_traced_entry_has_its_trace_as_exemplar(
    sender: Sender, traceparent: str, traces: int
) -> None:
    """The field of an entry may be any text."""
    sender.send(PASSWORD)
    stream = KEYS.stream(sender.shard(PASSWORD))
    ((entry_id, fields),) = cast("list[tuple[bytes, dict[Any, Any]]]", sender.redis.xrange(stream))
    sender.redis.xdel(stream, entry_id)
    sender.redis.xadd(stream, {**fields, "p": traceparent})
    assert jobs.drain(sender.shard(PASSWORD)) == "stored"
    exemplars = [
        (family.name, sample.exemplar.labels["trace_id"])
        for family in REGISTRY.collect()
        for sample in family.samples
        if sample.exemplar
    ]
    trace = traceparent.partition("-")[2][:32]
    found = {name for name, each in exemplars if each == trace}
    assert found == {"iot_stored_after_seconds", "iot_readable_after_seconds"} or traces == 0
    assert len(found) == traces
