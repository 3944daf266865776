"""Metrics are declared once and follow the naming rules of Prometheus."""

import re

import pytest
from prometheus_client import REGISTRY

from iot_models import metrics
from iot_models.metrics import METRICS


def test_names_are_unique_and_start_with_iot() -> None:
    names = [each.name for each in METRICS]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"iot_[a-z]+(_[a-z]+)*", name) for name in names)


@pytest.mark.parametrize("each", METRICS, ids=lambda each: each.name)
def test_the_name_of_a_metric_matches_its_kind(each: metrics.Metric) -> None:
    assert each.kind in {"counter", "gauge", "histogram"}
    assert each.service in {"api", "writer", "canary"}
    assert each.meaning.endswith(".")
    assert each.name.endswith("_total") == (each.kind == "counter")
    assert each.name.endswith("_seconds") or each.kind != "histogram"


def test_an_undeclared_metric_is_refused() -> None:
    for make in (metrics.spec_of, metrics.counter, metrics.gauge, metrics.histogram):
        with pytest.raises(KeyError):
            make("iot_nothing_total")


def test_each_metric_is_registered_once_in_a_process() -> None:
    counter = metrics.counter("iot_unknown_passwords_total")
    before = REGISTRY.get_sample_value("iot_unknown_passwords_total") or 0
    assert metrics.counter("iot_unknown_passwords_total") is counter
    counter.inc()
    assert REGISTRY.get_sample_value("iot_unknown_passwords_total") == before + 1
    histogram = metrics.histogram("iot_drain_seconds")
    assert metrics.histogram("iot_drain_seconds") is histogram


def test_series_that_start_at_0_have_one_label() -> None:
    for each in METRICS:
        assert not each.initial_labels or len(each.labels) == 1
    metrics.gauge("iot_job_last_success_timestamp_seconds")
    name = "iot_job_last_success_timestamp_seconds"
    assert REGISTRY.get_sample_value(name, {"job_name": "retention"}) is not None


def test_only_declared_labels_are_accepted() -> None:
    counter = metrics.counter("iot_drains_total")
    counter.labels(outcome="a test").inc()
    assert REGISTRY.get_sample_value("iot_drains_total", {"outcome": "a test"}) == 1
    with pytest.raises(ValueError, match="label"):
        counter.labels(other="x")
