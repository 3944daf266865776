"""`make images` prints the values that the chart needs for the built images."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCALHOST = "--set api.image.registry=localhost --set writer.image.registry=localhost"
MINE = "registry.example.org/iot"


def built(engine: str, version: str, folder: Path, **variables: str) -> str:
    """Return the output of the script with a fake engine of that name."""
    program = folder / engine
    program.write_text(f'#!/bin/sh\n[ "$1" != --version ] || echo "{version}"\n')
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
