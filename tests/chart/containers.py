"""Environment, command and ports of a container of a rendered pod."""

import argparse
import json
import re
from pathlib import Path

from chart.made import arguments
from chart.release import Object, Pod, Release
from chart.rendering import ROOT
from iot_tools.cli import main

MOUNTED = "/etc/iot-sensor"
"""The directory where the chart mounts Secrets."""
DOCKERFILES = {"api": "services/api/Dockerfile", "writer": "services/writer/Dockerfile"}


def environment(release: Release, container: Object) -> dict[str, str]:
    """Return the variables of a container that the release sets: from ConfigMaps and literals."""
    maps = release.named("ConfigMap")
    given: dict[str, str] = {}
    for source in container.get("envFrom") or ():
        name = source.get("configMapRef", {}).get("name")
        if name in maps:
            given |= maps[name]["data"]
    for each in container.get("env") or ():
        if "value" in each:
            given[each["name"]] = each["value"]
    return given


def command(pod: Pod, container: Object) -> list[str]:
    """Return the command of a container: from the chart, or else the CMD of its image."""
    return arguments(container) or image_command(DOCKERFILES[pod.component])


def image_command(dockerfile: str) -> list[str]:
    """Return the CMD of a Dockerfile without ENTRYPOINT."""
    text = (ROOT / dockerfile).read_text(encoding="utf-8")
    assert "ENTRYPOINT" not in text
    (found,) = re.findall(r"^CMD (\[.*\])$", text, re.MULTILINE)
    words: list[str] = json.loads(found)
    return words


def exposed(dockerfile: str) -> set[int]:
    """Return the ports in EXPOSE of a Dockerfile."""
    text = (ROOT / dockerfile).read_text(encoding="utf-8")
    (line,) = re.findall(r"^EXPOSE (.*)$", text, re.MULTILINE)
    return set(map(int, line.split()))


def parsed(words: list[str]) -> argparse.Namespace:
    """Return the arguments of `iot-sensor`, parsed by its parser; an error fails the test."""
    program, *rest = words
    assert Path(program).name == "iot-sensor"
    return main._parser().parse_args(rest)  # noqa: SLF001 -- parses without running
