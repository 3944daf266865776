"""The chart renders with every set of values, and Kubernetes accepts the objects."""

import re
from collections.abc import Iterator, Mapping

import pytest
import yaml

from chart.matrix import MATRIX, ValuesSet, merged
from chart.release import Release, annotations, hooks, name_of, title
from chart.rendering import CHART, linted, objects, rendered, template
from chart.schemas import NEWEST, OLDEST, VERSIONS, mistakes

LABEL = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
SERVICE = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
AS_A_WHOLE = {"annotations", "behavior"}


def test_lint_finds_nothing(values_set: str) -> None:
    said = linted(MATRIX[values_set])
    assert "0 chart(s) failed" in said
    assert "[WARNING]" not in said


@pytest.mark.parametrize("kubernetes", VERSIONS)
def test_kubernetes_accepts_every_object(values_set: str, kubernetes: str) -> None:
    found = {
        title(each): said
        for each in rendered(values_set, kubernetes).objects
        if (said := mistakes(each, kubernetes))
    }
    assert found == {}


def _names(values: Mapping[str, object]) -> Iterator[str]:
    """Yield the name of each value, except names in maps that templates copy as a whole."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value and name not in AS_A_WHOLE:
            yield from _names(value)
        else:
            yield name


def test_templates_use_every_value() -> None:
    files = [*(CHART / "templates").rglob("*.*"), CHART / "alerts.yaml"]
    words = {word for path in files for word in re.findall(r"\w+", path.read_text("utf-8"))}
    values = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
    assert set(_names(values)) <= words


def test_schemas_of_the_oldest_and_a_newer_kubernetes_are_used() -> None:
    assert [int(each.partition(".")[2]) for each in (OLDEST, NEWEST)] == [30, 37]


def test_invalid_objects_are_found() -> None:
    """The schemas refuse an unknown field, a wrong type, a missing field and an unknown kind."""
    fine = rendered("own-stores", NEWEST).of("Service")[0]
    assert mistakes(fine, NEWEST) == []
    spec = fine["spec"]
    for broken in (
        {**fine, "spec": {**spec, "selectr": {}}},
        {**fine, "spec": {**spec, "ports": [{"port": "http"}]}},
        {**fine, "spec": {**spec, "ports": [{"name": "http"}]}},
        {**fine, "kind": "Servce"},
        {**fine, "apiVersion": "v2"},
    ):
        assert mistakes(broken, NEWEST), broken


def test_names_of_objects_are_unique(release: Release) -> None:
    names = [
        (each["apiVersion"].partition("/")[0], each["kind"], name_of(each))
        for each in release.objects
    ]
    assert sorted(names) == sorted(set(names))


def test_names_and_labels_are_valid(release: Release) -> None:
    for each in release.objects:
        name = name_of(each)
        assert SUBDOMAIN.fullmatch(name), title(each)
        # Pods have the name of their Job or StatefulSet, with a suffix, as a label.
        longest = {"Job": 63, "StatefulSet": 52, "CronJob": 52, "Service": 63}
        assert len(name) <= longest.get(each["kind"], 253), title(each)
        if each["kind"] == "Service":
            assert SERVICE.fullmatch(name), title(each)
        for labels in (each["metadata"].get("labels", {}), *(p.labels for p in release.pods)):
            for key, value in labels.items():
                assert len(value) <= 63, f"{title(each)}: {key}"
                assert LABEL.fullmatch(value), f"{title(each)}: {key}={value}"


def test_every_object_has_the_labels_of_the_release(release: Release) -> None:
    values = MATRIX[release.name]
    for each in release.objects:
        if name_of(each) in {f"{values.release}-of-mine", f"{values.release}-text"}:
            continue
        labels = each["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == values.release, title(each)
        assert labels["app.kubernetes.io/managed-by"] == "Helm", title(each)
        assert {f"app.kubernetes.io/{name}" for name in ("name", "component", "version")} <= set(
            labels
        ), title(each)
        assert labels["helm.sh/chart"].startswith("iot-sensor-"), title(each)
        assert each["metadata"].get("namespace", values.namespace) == values.namespace


def test_no_object_is_cluster_scoped(release: Release) -> None:
    """A user with rights in one namespace can install the chart."""
    of_the_cluster = {"ClusterRole", "ClusterRoleBinding", "Namespace", "CustomResourceDefinition"}
    assert not of_the_cluster & {each["kind"] for each in release.objects}


def test_a_release_contains_no_secret(release: Release) -> None:
    assert release.of("Secret") == []


def test_hooks_use_events_of_helm(release: Release) -> None:
    known = {f"{when}-{what}" for when in ("pre", "post") for what in ("install", "upgrade")}
    for each in release.objects:
        assert hooks(each) <= known | {"test"}, title(each)


def test_a_label_of_an_object_replaces_the_common_label() -> None:
    """The label used to be rendered twice."""
    common = {"commonLabels": {"release": "other", "grafana_dashboard": "0"}}
    values = ValuesSet(merged(MATRIX["pod-monitor"].values, common))
    made = objects(template(values, "--kube-version", NEWEST))
    labels = {name_of(each): each["metadata"]["labels"] for each in made}
    kinds = {each["kind"]: each["metadata"]["labels"]["release"] for each in made}
    assert kinds["PodMonitor"] == kinds["PrometheusRule"] == "prometheus"
    assert kinds["Service"] == "other"
    assert labels["iot-iot-sensor-overview"]["grafana_dashboard"] == "1"


def test_the_pod_of_helm_test_has_the_extras_of_jobs() -> None:
    release = rendered("extras", NEWEST)
    pod, container = release.runs("test")
    assert pod.labels["example.org/team"] == "sensors"
    assert annotations(pod.owner)["example.org/team"] == "sensors"
    assert {"name": "IOT_LOG_LEVEL", "value": "DEBUG"} in container["env"]
