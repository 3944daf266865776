"""Render the chart with helm, each set of values once."""

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from chart.matrix import MATRIX, ValuesSet
from chart.release import Release
from support.helm import environment, find

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts/iot-sensor"


class RefusedError(Exception):
    """helm refused the chart or the values; the message is the output of helm."""


@dataclass
class Shared:
    """Folder in which processes share the output of helm; None: nothing is shared."""

    folder: Path | None = None


SHARED = Shared()


class _Loader(yaml.CSafeLoader):
    """A loader that refuses duplicate keys in a mapping, as a strict API server does."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value]
        if twice := {each for each in keys if keys.count(each) > 1 and each != "<<"}:
            raise yaml.constructor.ConstructorError(
                None, None, f"duplicate keys: {sorted(twice)}", node.start_mark
            )
        return super().construct_mapping(node, deep)


def objects(text: str) -> list[dict[str, Any]]:
    """Return the objects of a stream of YAML documents."""
    return [each for each in yaml.load_all(text, _Loader) if each]


@cache
def rendered(name: str, kubernetes: str) -> Release:
    """Return the release of that set of values on that version of Kubernetes."""
    values = MATRIX[name]
    text = _shared(f"{name}-{kubernetes}", lambda: template(values, "--kube-version", kubernetes))
    return Release(name, values.namespace, values.values, tuple(objects(text)))


def _shared(name: str, render: Callable[[], str]) -> str:
    if SHARED.folder is None:
        return render()
    path = SHARED.folder / name
    if not path.exists():
        draft = path.with_suffix(f".{os.getpid()}")
        draft.write_text(render(), encoding="utf-8")
        draft.replace(path)
    return path.read_text(encoding="utf-8")


def template(values: ValuesSet, *options: str) -> str:
    """Return the output of `helm template`.

    Raises:
        RefusedError: helm, the schema or the chart refuses the values.
    """
    return _helm("template", values.release, values, *options)


def linted(values: ValuesSet) -> str:
    """Return the output of `helm lint --strict`.

    Raises:
        RefusedError: the lint found an error.
    """
    return _helm("lint", "--strict", values)


def notes(values: ValuesSet) -> str:
    """Return the notes that helm prints after an install, without a cluster."""
    text = _helm("install", "--dry-run=client", values.release, values)
    return text.partition("\nNOTES:\n")[2]


def _helm(*words: "str | ValuesSet") -> str:
    """Run helm; a `ValuesSet` among the words stands for the chart, namespace and values."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [find("helm")]
        for word in words:
            command += [word] if isinstance(word, str) else _options(word, Path(scratch))
        said = subprocess.run(
            command,
            env=environment(Path(scratch)),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    if said.returncode:
        raise RefusedError(said.stdout + said.stderr)
    assert "coalesce" not in said.stderr, said.stderr
    return said.stdout


def _options(values: ValuesSet, scratch: Path) -> list[str]:
    given = scratch / "values.json"
    given.write_text(json.dumps(values.values), encoding="utf-8")
    files = [str(CHART / each) for each in values.files]
    options = [f"--values={each}" for each in (*files, given)]
    return [str(CHART), f"--namespace={values.namespace}", *options]
