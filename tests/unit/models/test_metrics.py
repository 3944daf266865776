"""Metrics are declared once and follow the naming rules of Prometheus."""

import re
from functools import partial
from operator import sub
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from iot_models import metrics
from iot_models.declared_metrics import METRICS, Metric
from support.samples import sample_value

ROOT = Path(__file__).parents[3]


def test_names_are_unique_and_start_with_iot() -> None:
    names = [each.name for each in METRICS]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"iot_[a-z]+(_[a-z]+)*", name) for name in names)


@pytest.mark.parametrize("each", METRICS, ids=lambda each: each.name)
def test_the_name_of_a_metric_matches_its_kind(each: Metric) -> None:
    assert each.kind in {"counter", "gauge", "histogram"}
    assert each.service in {"api", "writer", "canary"}
    assert each.meaning.endswith(".")
    assert each.name.endswith("_total") == (each.kind == "counter")
    assert each.unit or each.kind != "histogram"
    assert each.unit in {"", "seconds", "bytes", "readings"}
    assert each.family.endswith(each.unit)


def test_no_metric_was_renamed() -> None:
    """Dashboards and alerts of users rely on names, kinds and labels."""
    declared = {f"{each.name} {each.kind} {','.join(each.labels)}".rstrip() for each in METRICS}
    recorded = (ROOT / "tests/fixtures/metric_names.txt").read_text(encoding="utf-8").splitlines()
    assert set(recorded) - declared == set()


def test_an_undeclared_metric_is_refused() -> None:
    for make in (metrics.spec_of, metrics.counter, metrics.gauge, metrics.histogram):
        with pytest.raises(KeyError):
            make("iot_nothing_total")


def test_each_metric_is_registered_once_in_a_process() -> None:
    counter = metrics.counter("iot_unknown_passwords_total")
    before = sample_value("iot_unknown_passwords_total") or 0
    assert metrics.counter("iot_unknown_passwords_total") is counter
    counter.inc()
    assert sample_value("iot_unknown_passwords_total") == before + 1
    histogram = metrics.histogram("iot_drain_seconds")
    assert metrics.histogram("iot_drain_seconds") is histogram


def test_series_that_start_at_0_have_one_label() -> None:
    for each in METRICS:
        assert not each.initial_labels or len(each.labels) == 1
    metrics.gauge("iot_job_last_success_timestamp_seconds")
    name = "iot_job_last_success_timestamp_seconds"
    assert sample_value(name, {"job_name": "retention"}) is not None


def test_only_declared_labels_are_accepted() -> None:
    counter = metrics.counter("iot_drains_total")
    counter.labels(outcome="a test").inc()
    assert sample_value("iot_drains_total", {"outcome": "a test"}) == 1
    with pytest.raises(ValueError, match="label"):
        counter.labels(other="x")


def test_pending_numbers_are_there_when_metrics_are_read() -> None:
    """Observations get into the buckets that prometheus_client would choose."""
    metrics.observe_all("iot_stored_after_seconds", [100])
    stored_in = partial(sample_value, "iot_stored_after_seconds_bucket")
    assert (stored_in({"le": "60.0"}) or 0) < (stored_in({"le": "300.0"}) or 0)
    names = "iot_segment_bytes", "iot_put_body_bytes"
    values = (0, 255, 256, 257, 1024, 2**24, 2**24 + 1, 10**9)
    direct, _ = map(metrics.histogram, names)
    pending = metrics.pending_observations(names[1])

    def samples(name: str) -> list[float]:
        (family,) = (each for each in REGISTRY.collect() if each.name == name)
        return [each.value for each in family.samples if not each.name.endswith("_created")]

    already = [samples(name) for name in names]
    metrics.observe_all(names[0], values)
    for value in values:
        direct.observe(value)
        pending.values += (value, value)
    added = [
        list(map(sub, samples(name), earlier)) for name, earlier in zip(names, already, strict=True)
    ]
    assert added[0] == added[1]
    assert added[0][0] == 6
    before = metrics.value_of("iot_vault_cache_hits_total")
    metrics.pending_count("iot_vault_cache_hits_total").value += 2
    assert metrics.value_of("iot_vault_cache_hits_total") == before + 2
