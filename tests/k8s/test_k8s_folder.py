"""The files in `k8s/` and skaffold.yaml build, are valid and restricted, and match the chart."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from chart.matrix import ValuesSet
from chart.podsecurity import violations
from chart.rendering import CHART, objects, template
from chart.schemas import VERSIONS, mistakes
from support.helm import find

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
OVERLAYS = ("redis", "postgres", "stores")
STORES = K8S / "overlays/stores/values.yaml"
DEMO = CHART / "values-demo.yaml"


def built(overlay: str) -> list[dict[str, Any]]:
    """Return the objects of an overlay."""
    command = [find("kubectl"), "kustomize", str(K8S / "overlays" / overlay)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return objects(done.stdout)


@pytest.mark.parametrize("kubernetes", VERSIONS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_is_valid(overlay: str, kubernetes: str) -> None:
    for each in built(overlay):
        assert not mistakes(each, kubernetes), each["metadata"]["name"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_of_an_overlay_are_restricted(overlay: str) -> None:
    templates = [
        each["spec"]["template"]
        for each in built(overlay)
        if each["kind"] != "Service" and "spec" in each
    ]
    assert templates
    for each in templates:
        assert not violations(each["metadata"], each["spec"])
        for container in each["spec"]["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"]


def test_a_secret_is_annotated_as_for_tests() -> None:
    secrets = [each for each in built("stores") if each["kind"] == "Secret"]
    assert {each["metadata"]["name"] for each in secrets} == {"test-redis", "test-postgres"}
    for each in secrets:
        assert each["metadata"]["annotations"]["iot-sensor/purpose"] == "for tests only"
        assert set(each["data"]) == {"password", "url"}


def test_the_chart_uses_the_stores_of_the_overlay() -> None:
    values = yaml.safe_load(STORES.read_text(encoding="utf-8"))
    found = {(each["kind"], each["metadata"]["name"]): each for each in built("stores")}
    for store in ("redis", "postgres"):
        assert ("Secret", values[store]["existingSecret"]) in found
        (peer,) = values["networkPolicy"][store]["to"]
        pods = found["StatefulSet", f"test-{store}"]["spec"]["template"]["metadata"]["labels"]
        assert peer["podSelector"]["matchLabels"].items() <= pods.items()
    assert objects(template(ValuesSet(files=(str(STORES),))))


@pytest.mark.parametrize("example", ["ingress", "keda"])
def test_an_example_makes_its_object(example: str) -> None:
    files = (str(DEMO), str(K8S / example / "values.yaml"))
    kinds = {each["kind"] for each in objects(template(ValuesSet(files=files)))}
    assert {"ingress": "Ingress", "keda": "ScaledObject"}[example] in kinds


def test_the_token_of_the_ingress_example_is_one_of_the_chart() -> None:
    readme = (K8S / "README.md").read_text(encoding="utf-8")
    (found,) = re.findall(r"get secret (\S+) -o jsonpath='{\.data\.(\w+)}'", readme)
    arguments = template(ValuesSet(files=(str(DEMO), str(K8S / "ingress/values.yaml"))))
    assert f"\n            - {found[0]}\n" in arguments
    assert f"- {found[1]}=read\n" in arguments


def test_skaffold_builds_both_images_and_sets_chart_values() -> None:
    skaffold = yaml.safe_load((ROOT / "skaffold.yaml").read_text(encoding="utf-8"))
    artifacts = {each["image"]: each["docker"] for each in skaffold["build"]["artifacts"]}
    assert set(artifacts) == {"iot-sensor-api", "iot-sensor-writer"}
    for artifact in artifacts.values():
        assert (ROOT / artifact["dockerfile"]).is_file()
    (release,) = skaffold["deploy"]["helm"]["releases"]
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    for name, given in release["setValueTemplates"].items():
        below = values
        for part in name.split("."):
            below = below[part]
        (image,) = re.findall(r"IMAGE_(?:REPO|TAG)_(\w+)", given)
        assert image.replace("_", "-") in artifacts
    files = tuple(str(ROOT / each) for each in release["valuesFiles"])
    made = objects(template(ValuesSet(files=files, release=release["name"])))
    (forward,) = skaffold["portForward"]
    ports = {
        each["metadata"]["name"]: {port["port"] for port in each["spec"]["ports"]}
        for each in made
        if each["kind"] == "Service"
    }
    assert forward["port"] in ports[forward["resourceName"]]


def test_kind_has_three_nodes_and_a_node_for_ingress() -> None:
    kind = yaml.safe_load((K8S / "kind.yaml").read_text(encoding="utf-8"))
    assert [each["role"] for each in kind["nodes"]] == ["control-plane", "worker", "worker"]
    nginx = yaml.safe_load((K8S / "ingress/values-ingress-nginx.yaml").read_text(encoding="utf-8"))
    assert nginx["controller"]["nodeSelector"] == kind["nodes"][0]["labels"]
