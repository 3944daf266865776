"""The charts, options and helm commands of the e2e tests."""

import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from chart.rendering import CHART
from chart.schemas import NEWEST, mistakes
from e2e.helm import Helm, HelmError, Names, current_chart, previous_chart
from e2e.options import NotEnabledError, read
from e2e.release import NAME, Release
from e2e.test_accepted import OPTIONAL_KINDS
from e2e.test_upgrade import CHANGE
from system.e2e.api_server import ApiServer

ASK = {"IOT_E2E": "1"}
GIVEN = {**ASK, "IOT_E2E_TAG": "1.2", "IOT_E2E_REGISTRY": "registry.example.org:5000/iot"}


@pytest.fixture
def helm(tmp_path: Path) -> Helm:
    """helm without a cluster."""
    return Helm(None, tmp_path)


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({}, "set IOT_E2E=1 for the current kube context"),
        ({"IOT_E2E": "0", "IOT_E2E_TAG": "x"}, "must be enabled"),
        (ASK, "no images are given: set IOT_E2E_TAG"),
        ({"IOT_E2E_CONTEXT": "kind-iot"}, "no images are given"),
    ],
)
def test_missing_options_are_named(environ: dict[str, str], sentence: str) -> None:
    with pytest.raises(NotEnabledError, match=sentence):
        read(environ)


def test_every_option_is_read() -> None:
    options = read(
        {
            **GIVEN,
            "IOT_E2E": "must",
            "IOT_E2E_CONTEXT": "kind-iot",
            "IOT_E2E_VALUES": "a.yaml,b.yaml",
            "IOT_E2E_PREVIOUS_CHART": "old.tgz",
            "IOT_E2E_PREVIOUS_TAG": "1.1",
            "IOT_E2E_DRAIN": "0",
            "IOT_E2E_KEEP": "1",
        }
    )
    assert (options.context, options.must, options.keep, options.drain) == (
        "kind-iot",
        True,
        True,
        False,
    )
    assert options.values == options.previous_values == (Path("a.yaml"), Path("b.yaml"))
    assert (options.previous_chart, options.previous_tag) == (Path("old.tgz"), "1.1")
    plain = read(GIVEN)
    assert (plain.context, plain.must, plain.keep, plain.drain) == (None, False, False, True)


def test_the_readme_names_every_variable() -> None:
    folder = Path(__file__).parents[2] / "e2e"
    text = (folder / "README.md").read_text(encoding="utf-8")
    code = (folder / "options.py").read_text(encoding="utf-8")
    table = {line.split("`")[1] for line in text.splitlines() if line.startswith("| `IOT_")}
    named = {word.partition('"')[0] for word in code.split('environ.get("')[1:]}
    assert {"IOT_E2E_TAG", "IOT_E2E_KEEP"} < table
    assert named - {"IOT_E2E"} <= table | {"IOT_E2E"}


def test_names_and_image_come_from_the_chart(helm: Helm) -> None:
    names = Names(tuple(helm.render(current_chart(read(GIVEN)), NAME, "n")))
    assert names.fullname == "iot-iot-sensor"
    assert names.url == "http://iot-iot-sensor-api.{namespace}.svc:80"
    assert names.image.reference == "registry.example.org:5000/iot/iot-sensor-writer:1.2"
    assert names.of("Service", "redis") == "iot-iot-sensor-redis"
    assert names.of("Service", "postgres") == "iot-iot-sensor-postgres"
    assert {names.replicas(each) for each in ("api", "writer")} == {2}


@pytest.mark.parametrize("tag", ["1e3", "2026"])
def test_a_numeric_tag_stays_a_string(helm: Helm, tag: str) -> None:
    chart = current_chart(read({**ASK, "IOT_E2E_TAG": tag}))
    names = Names(tuple(helm.render(chart, NAME, "n")))
    assert names.image.reference == f"iot-sensor-writer:{tag}"


def test_additional_values_override_the_chart(helm: Helm, tmp_path: Path) -> None:
    values = tmp_path / "more.yaml"
    values.write_text("image: {pullSecrets: [mine]}\nwriter: {replicas: 3}\n", encoding="utf-8")
    chart = current_chart(read({**ASK, "IOT_E2E_VALUES": str(values)}))
    names = Names(tuple(helm.render(chart, NAME, "n")))
    assert names.image.pull_secrets == ("mine",)
    assert names.replicas("writer") == 3


def test_the_previous_chart_may_be_a_folder_or_an_archive(helm: Helm, tmp_path: Path) -> None:
    archive = tmp_path / "old.tgz"
    with tarfile.open(archive, "w:gz") as made:
        made.add(CHART, "iot-sensor")
    for given in (archive, CHART):
        environ = {**GIVEN, "IOT_E2E_PREVIOUS_CHART": str(given), "IOT_E2E_PREVIOUS_TAG": "1.1"}
        chart = previous_chart(read(environ), tmp_path / "unpacked")
        names = Names(tuple(helm.render(chart, NAME, "n")))
        assert names.image.reference.endswith("/iot/iot-sensor-writer:1.1")
    options = read(GIVEN)
    assert previous_chart(options, tmp_path) == current_chart(options)


def test_the_change_of_an_upgrade_restarts_only_api_and_writer(helm: Helm) -> None:
    chart = current_chart(read(GIVEN))
    before, after = (
        {
            (each["kind"], each["metadata"]["name"]): each["spec"]["template"]
            for each in helm.render(given, NAME, "n")
            if each["kind"] in {"Deployment", "StatefulSet"}
        }
        for given in (chart, chart.with_settings(CHANGE))
    )
    rolled = {name for name in before if before[name] != after[name]}
    assert rolled == {("Deployment", f"iot-iot-sensor-{each}") for each in ("api", "writer")}


@pytest.mark.parametrize("kind", OPTIONAL_KINDS)
def test_every_optional_kind_is_made(helm: Helm, kind: str) -> None:
    chart = current_chart(read(GIVEN)).with_settings(OPTIONAL_KINDS[kind])
    found = [each for each in helm.render(chart, NAME, "n") if each["kind"] == kind]
    assert found
    assert [mistake for each in found for mistake in mistakes(each, NEWEST)] == []


def test_an_error_of_helm_is_raised(helm: Helm) -> None:
    chart = current_chart(read(GIVEN)).with_settings({"api.replicsa": "2"})
    with pytest.raises(HelmError, match="replicsa"):
        helm.render(chart, NAME, "n")


@pytest.mark.parametrize(
    "change",
    [
        lambda release: release.install(),
        lambda release: release.upgrade(release.chart.with_settings(CHANGE)),
        lambda release: release.roll_back(1),
        lambda release: release.test(),
        lambda release: release.uninstall(),
    ],
)
def test_helm_accepts_every_command(
    change: Callable[[Release], None], release: Release, server: ApiServer
) -> None:
    """helm refuses an unknown option before the first request, which the server refuses."""
    begin = len(server.asked)
    server.failures = [500] * 1000
    with pytest.raises(HelmError) as refused:
        change(release)
    assert "unknown flag" not in str(refused.value)
    assert len(server.asked) > begin, refused.value
