"""Metrics are declared once, in the forms Prometheus expects."""

import re

import pytest
from prometheus_client import REGISTRY

from iot_models import metrics
from iot_models.metrics import METRICS


def test_names_are_distinct_and_ours() -> None:
    names = [each.name for each in METRICS]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"iot_[a-z]+(_[a-z]+)*", name) for name in names)


@pytest.mark.parametrize("each", METRICS, ids=lambda each: each.name)
def test_each_is_of_a_known_kind_and_named_for_it(each: metrics.Metric) -> None:
    assert each.kind in {"counter", "gauge", "histogram"}
    assert each.service in {"api", "writer", "canary"}
    assert each.meaning.endswith(".")
    assert each.name.endswith("_total") == (each.kind == "counter")
    assert each.name.endswith("_seconds") or each.kind != "histogram"


def test_what_is_not_declared_is_refused() -> None:
    for make in (metrics.spec_of, metrics.counter, metrics.gauge, metrics.histogram):
        with pytest.raises(KeyError):
            make("iot_nothing_total")


def test_each_is_made_once_in_a_process() -> None:
    counter = metrics.counter("iot_unknown_passwords_total")
    before = REGISTRY.get_sample_value("iot_unknown_passwords_total") or 0
    assert metrics.counter("iot_unknown_passwords_total") is counter
    counter.inc()
    assert REGISTRY.get_sample_value("iot_unknown_passwords_total") == before + 1
    histogram = metrics.histogram("iot_drain_seconds")
    assert metrics.histogram("iot_drain_seconds") is histogram


def test_what_begins_at_0_is_a_value_of_the_one_label() -> None:
    for each in METRICS:
        assert not each.initial_labels or len(each.labels) == 1
    metrics.gauge("iot_job_last_success_timestamp_seconds")
    name = "iot_job_last_success_timestamp_seconds"
    assert REGISTRY.get_sample_value(name, {"job_name": "retention"}) is not None


def test_labels_are_those_declared() -> None:
    counter = metrics.counter("iot_drains_total")
    counter.labels(outcome="a test").inc()
    assert REGISTRY.get_sample_value("iot_drains_total", {"outcome": "a test"}) == 1
    with pytest.raises(ValueError, match="label"):
        counter.labels(other="x")
