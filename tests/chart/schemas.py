"""Validation of objects with the OpenAPI schemas of Kubernetes, which are read once.

jsonschema takes a second to import: only processes that validate import it.
"""

import json
import re
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from referencing import Registry, Resource

from chart.crds import SPECS, STRINGS, TEXT, closed

OLDEST = "1.30"
"""The oldest Kubernetes version that the chart supports: see Chart.yaml."""
_PACKAGE = find_spec("kubernetes_validate")
assert _PACKAGE is not None
_FOLDER = Path(str(_PACKAGE.origin)).parent / "kubernetes-json-schema"
NEWEST = max(
    (
        found[1]
        for folder in _FOLDER.iterdir()
        if (found := re.match(r"v(\d+\.\d+)\.", folder.name))
    ),
    key=lambda version: [int(number) for number in version.split(".")],
)
"""The newest Kubernetes version with schemas in the wheel."""
VERSIONS = (OLDEST, NEWEST)

_CUSTOM_METADATA = closed("name", name=TEXT, namespace=TEXT, labels=STRINGS, annotations=STRINGS)


def mistakes(each: Mapping[str, Any], kubernetes: str) -> list[str]:
    """Return the errors of an object on that version of Kubernetes; empty if it is valid."""
    kind = (each["apiVersion"], each["kind"])
    # Most objects are equal in most sets of values; the cache validates each of them once.
    return _mistakes(kind, json.dumps(each, sort_keys=True), kubernetes)


@cache
def _mistakes(kind: tuple[str, str], text: str, kubernetes: str) -> list[str]:
    try:
        validator = _validator(kind, kubernetes)
    except FileNotFoundError:
        return [f"{' '.join(kind)} is not known to Kubernetes {kubernetes}, nor in crds.py"]
    return [
        f"{error.json_path}: {error.message}" for error in validator.iter_errors(json.loads(text))
    ]


@cache
def _validator(kind: tuple[str, str], kubernetes: str) -> Any:
    from jsonschema import Draft202012Validator  # type: ignore[import-untyped] # noqa: PLC0415

    if kind in SPECS:
        api_version, name = ({"const": each} for each in kind)
        custom = closed(
            *("apiVersion", "kind", "metadata", "spec"),
            apiVersion=api_version,
            kind=name,
            metadata=_CUSTOM_METADATA,
            spec=SPECS[kind],
        )
        return Draft202012Validator(custom)
    # apps/v1 and Deployment are deployment-apps-v1.json, v1 and Pod pod-v1.json.
    group, _, version = kind[0].rpartition("/")
    parts = [kind[1].lower(), *filter(None, [group.partition(".")[0]]), version]
    folder = _FOLDER / f"v{kubernetes}.0-local-strict"
    schema = json.loads((folder / f"{'-'.join(parts)}.json").read_text(encoding="utf-8"))
    return Draft202012Validator(schema, registry=_definitions(folder))


@cache
def _definitions(folder: Path) -> Registry[Any]:
    shared = json.loads((folder / "_definitions.json").read_text(encoding="utf-8"))
    return Resource.from_contents(shared) @ Registry()
