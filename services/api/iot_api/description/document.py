"""The OpenAPI document: the file, the aliases of its paths, and the limits of a service."""

import copy
import json
from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Any

from iot_models.settings import Settings

Document = dict[str, Any]
METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")


def read_document() -> Document:
    """Return the contents of `openapi.json`, with the paths of all aliases added."""
    text = files(__package__).joinpath("openapi.json").read_text(encoding="utf-8")
    document: Document = json.loads(text)
    for alias, original in document["x-aliases"].items():
        aliases = {
            path.replace(original, alias, 1): _alias(item, alias)
            for path, item in document["paths"].items()
            if path == original or path.startswith(f"{original}/")
        }
        document["paths"] |= aliases
    return document


def describe_service(settings: Settings) -> Document:
    """Return the OpenAPI document with the limits of a service that has these settings."""
    document = read_document()
    limits = {name: getattr(settings, field_of(name)) for name in document["x-limits"]}
    set_limits(document, limits)
    return document


def set_limits(document: Document, limits: Mapping[str, int]) -> None:
    """Replace all limits in the document that depend on settings.

    `limits` has the value of each such setting, by its name, for example `IOT_MAX_BODY_BYTES`.
    """
    document["x-limits"] = dict(limits)
    for schema in _nodes(document):
        for keyword, setting in schema.get("x-setting", {}).items():
            schema[keyword] = limits[setting]


def field_of(setting: str) -> str:
    """Return the field of `Settings` for an environment variable such as `IOT_SHARDS`."""
    return setting.removeprefix("IOT_").lower()


def resolve(document: Document, node: Any) -> Any:
    """Return the node that `$ref` refers to, or the node itself if it has no `$ref`."""
    while "$ref" in node:
        found: Any = document
        for part in node["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        node = found
    return node


def _alias(item: Mapping[str, Any], alias: str) -> dict[str, Any]:
    """Return a copy of a path's description for the path's alias, with other operation ids."""
    made: dict[str, Any] = copy.deepcopy(dict(item))
    for method in METHODS:
        if method in made:
            made[method]["operationId"] += "By" + alias.rpartition("/")[2].capitalize()
            made[method]["x-alias"] = True
    return made


def _nodes(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, list):
        for each in node:
            yield from _nodes(each)
