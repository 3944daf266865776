"""`make images` labels the images and prints the values that the chart needs for them."""

import datetime as dt
import os
import re
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCALHOST = "--set api.image.registry=localhost --set writer.image.registry=localhost"
MINE = "registry.example.org/iot"


def built(engine: str, version: str, folder: Path, **variables: str) -> str:
    """Return the output of the script with a fake engine of that name."""
    program = folder / engine
    program.write_text(
        f'#!/bin/sh\n[ "$1" != --version ] || echo "{version}"\n'
        f'[ "$1" != build ] || printf "%s\\n" "$@" > "{folder}/arguments"\n'
    )
    program.chmod(0o755)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    given = {"PATH": path, "ENGINE": engine, "HOME": str(folder), **variables}
    done = subprocess.run(
        [ROOT / "k8s/images.sh"], env=given, capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout


@pytest.mark.parametrize(
    ("engine", "version"),
    [
        ("podman", "podman version 5.4.2"),
        ("buildah", "buildah version 1.39.3 (image-spec 1.1.0, runtime-spec 1.2.0)"),
        # The package podman-docker.
        ("docker", "podman version 5.4.2"),
    ],
)
def test_engines_that_prefix_names_with_localhost(
    engine: str, version: str, tmp_path: Path
) -> None:
    said = built(engine, version, tmp_path)
    assert "Built localhost/iot-sensor-{api,writer}:0.1.0." in said
    assert f"Set for the chart: {LOCALHOST}\n" in said


def test_docker_uses_the_image_names_of_the_chart(tmp_path: Path) -> None:
    said = built("docker", "Docker version 28.5.1, build e180ab8", tmp_path)
    assert "no value needs to be set" in said


def test_a_registry_and_a_tag_are_printed_as_values(tmp_path: Path) -> None:
    said = built("podman", "podman version 5.4.2", tmp_path, REGISTRY=MINE, TAG="1.2.3")
    assert f"Building {MINE}/iot-sensor-api:1.2.3 with podman" in said
    words = said.partition("Set for the chart: ")[2].split()
    assert words == [
        *("--set", f"api.image.registry={MINE}", "--set-string", "api.image.tag=1.2.3"),
        *("--set", f"writer.image.registry={MINE}", "--set-string", "writer.image.tag=1.2.3"),
    ]


def build_arguments(folder: Path) -> dict[str, str]:
    """Return the build arguments that the fake engine got last."""
    words = (folder / "arguments").read_text(encoding="utf-8").splitlines()
    given = [word for flag, word in pairwise(words) if flag == "--build-arg"]
    return dict(word.split("=", 1) for word in given)


def test_the_labels_tell_where_an_image_comes_from(tmp_path: Path) -> None:
    built("podman", "podman version 5.4.2", tmp_path, SOURCE="https://code.example.org/iot")
    given = build_arguments(tmp_path)
    commit = subprocess.run(
        ["git", "-C", ROOT, "log", "-1", "--format=%H %ct"],  # noqa: S607 - as the script does
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert given["REVISION"].removesuffix("-dirty") == commit[0]
    created = dt.datetime.strptime(given["CREATED"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=dt.UTC)
    assert created.timestamp() == int(commit[1])
    assert given["SOURCE"] == "https://code.example.org/iot"
    assert given["VERSION"] == "0.1.0"


@pytest.mark.parametrize(
    ("source", "label"),
    [
        ("https://me:password@code.example.org/iot.git", "https://code.example.org/iot.git"),
        ("https://token@code.example.org/iot", "https://code.example.org/iot"),
        ("ssh://git@code.example.org/iot", "ssh://code.example.org/iot"),
        ("/home/me/iot", None),
        ("file:///home/me/iot", None),
    ],
)
def test_the_source_label_holds_no_password_and_no_path_of_the_machine(
    source: str, label: str | None, tmp_path: Path
) -> None:
    built("podman", "podman version 5.4.2", tmp_path, SOURCE=source)
    assert build_arguments(tmp_path).get("SOURCE") == label


@pytest.mark.parametrize("service", ["api", "writer"])
def test_a_dockerfile_uses_each_build_argument_in_a_label(service: str) -> None:
    text = (ROOT / f"services/{service}/Dockerfile").read_text(encoding="utf-8")
    labels = dict(re.findall(r'org\.opencontainers\.image\.([a-z.]+)="([^"]*)"', text))
    assert (
        labels
        | {
            "version": "$VERSION",
            "revision": "$REVISION",
            "created": "$CREATED",
            "source": "$SOURCE",
            "base.name": "$BASE_IMAGE",
        }
        == labels
    )
    final_stage = text.rpartition("\nFROM ")[2]
    declared = set(re.findall(r"^ARG ([A-Z_]+)", final_stage, re.MULTILINE))
    used = {value[1:] for value in labels.values() if value.startswith("$")}
    assert used == declared
