"""helm and the charts of the tests."""

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from chart.release import COMPONENT, Object
from chart.rendering import CHART, objects
from e2e.bodies import Image
from e2e.options import Options
from support.archives import unpack
from support.helm import find

_SPARE = 120
"""Seconds beyond the timeout of helm after which helm is killed."""


class HelmError(Exception):
    """helm failed; the message is the output of helm."""


@dataclass(frozen=True)
class Chart:
    """A chart and its values."""

    folder: Path
    values: tuple[Path, ...]
    texts: tuple[tuple[str, str], ...] = ()
    """Values passed with `--set-string`."""
    settings: tuple[tuple[str, str], ...] = ()
    """Values passed with `--set`."""

    def with_settings(self, settings: Mapping[str, str]) -> "Chart":
        """Return a copy with more settings."""
        return replace(self, settings=(*self.settings, *settings.items()))

    @property
    def words(self) -> list[str]:
        """Arguments of helm for the chart and its values."""
        files = (self.folder / "values-demo.yaml", *self.values)
        texts = [f"--set-string={name}={value}" for name, value in self.texts]
        settings = [f"--set={name}={value}" for name, value in self.settings]
        values = [f"--values={each.resolve()}" for each in files]
        return [str(self.folder.resolve()), *values, *texts, *settings]


def current_chart(options: Options) -> Chart:
    """Return the chart of this checkout."""
    return Chart(CHART, options.values, _images(options.registry, options.tag))


def previous_chart(options: Options, scratch: Path) -> Chart:
    """Return the chart to upgrade from, by default the current chart."""
    given = options.previous_chart
    if given is None:
        return current_chart(options)
    if given.is_file():
        unpack(given, scratch)
        given = scratch / "iot-sensor"
    tag = options.previous_tag
    return Chart(given, options.previous_values, _images(options.registry, tag))


def _images(registry: str, tag: str) -> tuple[tuple[str, str], ...]:
    given = {"registry": registry, "tag": tag}
    return tuple(
        (f"{component}.image.{name}", value)
        for component in ("api", "writer")
        for name, value in given.items()
        if value
    )


class Helm:
    """helm with the cluster of a context."""

    def __init__(self, context: str | None, home: Path) -> None:
        """Use `home` for caches, so that repositories and plugins of the user have no effect."""
        self._context = [f"--kube-context={context}"] if context else []
        homes = {f"HELM_{name}_HOME": str(home / name) for name in ("CACHE", "CONFIG", "DATA")}
        self._environment = {**os.environ, **homes}

    def run(self, *words: str, seconds: float = 60) -> str:
        """Run helm and return its output; raise `HelmError` if helm fails."""
        command = [find("helm"), *words, *self._context]
        try:
            said = subprocess.run(
                command,
                env=self._environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=seconds + _SPARE,
            )
        except subprocess.TimeoutExpired as error:
            raise HelmError(f"helm {words[0]} hung: {error.output!r} {error.stderr!r}") from None
        if said.returncode:
            raise HelmError(f"helm {' '.join(words)}\n{said.stdout}{said.stderr}")
        return said.stdout

    def render(self, chart: Chart, release: str, namespace: str) -> list[dict[str, Any]]:
        """Return the objects of the chart."""
        return objects(
            self.run("template", release, *chart.words, f"--namespace={namespace}", "--no-hooks")
        )


@dataclass(frozen=True)
class Names:
    """The names of the objects of a chart, and the image of its writer."""

    made: tuple[Object, ...]

    def of(self, kind: str, component: str) -> str:
        """Return the name of the only object of that kind and component, or an empty string."""
        found = self._of(kind, component)
        return str(found["metadata"]["name"]) if found else ""

    @cached_property
    def fullname(self) -> str:
        """The prefix of all names."""
        return self.of("Deployment", "api").removesuffix("-api")

    @cached_property
    def url(self) -> str:
        """URL of the API inside the cluster, with the placeholder `{namespace}`."""
        services = [each for each in self.made if each["kind"] == "Service"]
        name = f"{self.fullname}-api"
        (api,) = (each for each in services if each["metadata"]["name"] == name)
        return f"http://{name}.{{namespace}}.svc:{api['spec']['ports'][0]['port']}"

    @cached_property
    def image(self) -> Image:
        """The image of the writer."""
        writer = self._of("Deployment", "writer")
        assert writer is not None
        spec = writer["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        secrets = tuple(each["name"] for each in spec.get("imagePullSecrets") or ())
        return Image(container["image"], container["imagePullPolicy"], secrets)

    def replicas(self, component: str) -> int:
        """Return the replicas of a Deployment."""
        deployment = self._of("Deployment", component)
        assert deployment is not None
        return int(deployment["spec"].get("replicas", 1))

    def _of(self, kind: str, component: str) -> Object | None:
        found = [
            each
            for each in self.made
            if each["kind"] == kind and each["metadata"]["labels"].get(COMPONENT) == component
        ]
        assert len(found) <= 1, (kind, component)
        return found[0] if found else None
