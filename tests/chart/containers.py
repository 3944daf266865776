"""What a container of a rendered pod runs with."""

import argparse
import json
import re
from pathlib import Path

from chart.made import arguments
from chart.release import Object, Pod, Release
from chart.rendering import ROOT
from iot_tools.cli import main

MOUNTED = "/etc/iot-sensor"
"""Where the chart mounts Secrets."""
DOCKERFILES = {"api": "services/api/Dockerfile", "writer": "services/writer/Dockerfile"}


def environment(release: Release, container: Object) -> dict[str, str]:
    """The variables that a container has from the release itself: its ConfigMaps and its texts."""
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
    """What it runs: the chart's command, else the CMD of its image."""
    return arguments(container) or image_command(DOCKERFILES[pod.component])


def image_command(dockerfile: str) -> list[str]:
    """The CMD of a Dockerfile, which has no ENTRYPOINT."""
    text = (ROOT / dockerfile).read_text(encoding="utf-8")
    assert "ENTRYPOINT" not in text
    (found,) = re.findall(r"^CMD (\[.*\])$", text, re.MULTILINE)
    words: list[str] = json.loads(found)
    return words


def exposed(dockerfile: str) -> set[int]:
    """The ports that a Dockerfile says its image listens on."""
    text = (ROOT / dockerfile).read_text(encoding="utf-8")
    (line,) = re.findall(r"^EXPOSE (.*)$", text, re.MULTILINE)
    return set(map(int, line.split()))


def parsed(words: list[str]) -> argparse.Namespace:
    """The arguments of `iot-sensor`, by its own parser, which ends the test if it can't."""
    program, *rest = words
    assert Path(program).name == "iot-sensor"
    return main._parser().parse_args(rest)  # noqa: SLF001 -- there is no other way to only parse
