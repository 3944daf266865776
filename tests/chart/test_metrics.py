"""Alerts, dashboards and scalers use metrics that the service has."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from chart.expressions import SERIES, mistakes, series
from chart.release import Pod, Release, annotations, strings, title
from chart.rendering import ROOT, rendered
from chart.schemas import NEWEST

MONITORED = ["pod-monitor", "service-monitor"]
EVERYTHING = "service-monitor"
"""The set of values with all alerts at their default thresholds."""


def alerts(release: Release) -> list[dict[str, Any]]:
    """Return the alerts of a release."""
    return [
        rule
        for each in release.of("PrometheusRule")
        for group in each["spec"]["groups"]
        for rule in group["rules"]
    ]


def dashboards(release: Release) -> list[dict[str, Any]]:
    """Return the dashboards of a release."""
    return [
        json.loads(text)
        for each in release.of("ConfigMap")
        if each["metadata"]["labels"].get("app.kubernetes.io/component") == "dashboards"
        for text in each["data"].values()
    ]


def queries(value: object) -> Iterator[str]:
    """Yield the expressions in a dashboard."""
    if isinstance(value, dict):
        if isinstance(value.get("expr"), str):
            yield value["expr"]
        for each in value.values():
            yield from queries(each)
    elif isinstance(value, list):
        for each in value:
            yield from queries(each)


@pytest.fixture(params=MONITORED)
def monitored(request: pytest.FixtureRequest) -> Release:
    """A release with a monitor, alerts and dashboards."""
    return rendered(request.param, NEWEST)


def test_unknown_series_and_labels_are_found() -> None:
    assert mistakes('sum(rate(iot_drains_total{outcome="failed", namespace="x"}[5m]))') == []
    assert mistakes("iot_drain_total > 0") == ["there is no iot_drain_total"]
    assert mistakes("iot_drain_seconds > 0") == ["there is no iot_drain_seconds"]
    assert mistakes("rate(iot_drain_seconds_bucket[5m]) > 0") == []
    assert mistakes('iot_dead_letters{shard=~"1|2"}') == ["iot_dead_letters has no label ['shard']"]
    assert mistakes('iot_dead_letters{namespace="a=b, c=d"}') == []


def test_alerts_use_existing_series(monitored: Release) -> None:
    found = alerts(monitored)
    assert len(found) > 10
    wrong = {each["alert"]: said for each in found if (said := mistakes(each["expr"]))}
    assert wrong == {}
    assert all(list(series(each["expr"])) for each in found)


def test_dashboards_use_existing_series(monitored: Release) -> None:
    found = dashboards(monitored)
    assert found
    for each in found:
        expressions = list(queries(each))
        assert len(expressions) > 3, each["title"]
        wrong = {text: said for text in expressions if (said := mistakes(text))}
        assert wrong == {}, each["title"]
        for text in strings(each):
            for name in re.findall(r"\blabel_values\(\s*(iot_\w+)", text):
                assert name in SERIES, each["title"]


def test_dashboards_are_valid_for_grafana(monitored: Release) -> None:
    """Uids and panel ids are unique, and the data source is a variable."""
    found = dashboards(monitored)
    assert len({each["uid"] for each in found}) == len(found)
    for each in found:
        assert each["title"]
        assert each["schemaVersion"] >= 36
        assert not each.get("id")
        panels = [panel for outer in each["panels"] for panel in (outer, *outer.get("panels", ()))]
        ids = [panel["id"] for panel in panels]
        assert len(ids) == len(set(ids)), each["title"]
        variables = {variable["name"] for variable in each["templating"]["list"]}
        used = set(re.findall(r"\$\{?(\w+)", " ".join(queries(each))))
        assert {name for name in used if not name.startswith("__")} <= variables, each["title"]
        for panel in panels:
            if panel["type"] != "row":
                assert panel["datasource"]["uid"].strip("${}") in variables, panel["title"]


def test_dashboards_have_the_label_of_the_sidecar() -> None:
    for name, label, value in [
        ("pod-monitor", "grafana_dashboard", "1"),
        ("service-monitor", "mine", "yes"),
    ]:
        labels = [each["metadata"]["labels"] for each in rendered(name, NEWEST).of("ConfigMap")]
        assert [each for each in labels if each.get(label) == value]


def test_alerts_have_a_summary_and_a_runbook_url(monitored: Release) -> None:
    for each in alerts(monitored):
        assert each["labels"]["severity"] in {"critical", "warning", "info"}, each["alert"]
        told = each["annotations"]
        assert told["summary"], each["alert"]
        assert told["description"], each["alert"]
        assert told["runbook_url"].endswith(f"#{each['alert'].lower()}"), each["alert"]


def test_every_alert_has_a_runbook() -> None:
    """The anchor of each runbook_url is a heading of docs/runbooks.md."""
    text = (ROOT / "docs/runbooks.md").read_text(encoding="utf-8")
    headings = {
        re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    }
    wanted = {
        each["annotations"]["runbook_url"].partition("#")[2]
        for each in alerts(rendered(EVERYTHING, NEWEST))
    }
    assert wanted <= headings


def test_alerts_can_be_disabled_and_configured() -> None:
    by_default = {each["alert"]: each for each in alerts(rendered("service-monitor", NEWEST))}
    changed = {each["alert"]: each for each in alerts(rendered("pod-monitor", NEWEST))}
    assert set(by_default) - set(changed) == {"IotSlow"}
    assert "> 0.01" in by_default["IotErrors"]["expr"]
    assert "> 0.001" in changed["IotErrors"]["expr"]
    assert changed["IotErrors"]["labels"]["team"] == "sensors"


def test_alerts_on_the_canary_need_the_canary() -> None:
    """Without a canary, the alert IotCanarySilent would never resolve."""
    with_it = {each["alert"] for each in alerts(rendered(EVERYTHING, NEWEST))}
    without = {each["alert"] for each in alerts(rendered("rules-alone", NEWEST))}
    assert without < with_it
    assert all("Canary" in name for name in with_it - without)
    assert not [name for name in without if "Canary" in name]


def test_monitors_select_every_pod_with_metrics(monitored: Release) -> None:
    reached = {
        each.component
        for each in monitored.pods
        for monitor in monitored.of("PodMonitor")
        if has_metrics(each)
        and monitor["spec"]["selector"]["matchLabels"].items() <= each.labels.items()
    }
    for monitor in monitored.of("ServiceMonitor"):
        selector = monitor["spec"]["selector"]["matchLabels"]
        for service in monitored.of("Service"):
            if selector.items() <= service["metadata"]["labels"].items():
                reached.add(service["spec"]["selector"]["app.kubernetes.io/component"])
    assert reached == {"api", "writer", "canary"}


def has_metrics(pod: Pod) -> bool:
    """Return whether a pod has a port named `metrics`."""
    return any(
        port["name"] == "metrics"
        for container in pod.containers
        for port in container.get("ports") or ()
    )


def test_monitors_select_the_namespace_of_the_release(monitored: Release) -> None:
    for each in monitored.of("PodMonitor", "ServiceMonitor"):
        wanted = {"matchNames": [monitored.namespace]}
        assert each["spec"].get("namespaceSelector", wanted) == wanted, title(each)


def test_annotated_pods_name_their_port() -> None:
    for pod in rendered("annotated-metrics", NEWEST).pods:
        if has_metrics(pod):
            (container,) = pod.containers
            (port,) = (each for each in container["ports"] if each["name"] == "metrics")
            assert (
                annotations({"metadata": pod.metadata}).items()
                >= {
                    "prometheus.io/scrape": "true",
                    "prometheus.io/port": str(port["containerPort"]),
                    "prometheus.io/path": "/metrics",
                }.items()
            )


@pytest.mark.parametrize("name", ["keda", "keda-prometheus", "production"])
def test_keda_scales_by_existing_series(name: str) -> None:
    release = rendered(name, NEWEST)
    (scaled,) = release.of("ScaledObject")
    assert scaled["spec"]["minReplicaCount"] >= 1
    triggers = scaled["spec"]["triggers"]
    assert triggers
    for each in triggers:
        given = each["metadata"]
        if each["type"] == "prometheus":
            assert mistakes(given["query"]) == []
            assert list(series(given["query"]))
            assert float(given["threshold"]) > 0
        else:
            assert given["format"] == "prometheus"
            assert given["valueLocation"] in SERIES
            assert SERIES[given["valueLocation"]] == set(), (
                "metrics-api can't read series with labels"
            )
            assert float(given["targetValue"]) > 0
            found = re.fullmatch(r"http://([^.]+)\.([^.]+)\.svc:(\d+)/metrics", given["url"])
            assert found
            assert found[2] == release.namespace
            service = release.named("Service")[found[1]]
            assert int(found[3]) in [port["port"] for port in service["spec"]["ports"]]
