"""The reference of the API for people, as a web page and as Markdown."""

import json
import re
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup, escape

from iot_models import settings

from .document import METHODS, Document, resolve

_CODE = re.compile(r"`([^`]*)`")
_DEPTH = 3
"""Maximum number of dots in a name in the tables of members, such as `data.freeform`. Members of
deeper objects are left out."""


class Operation(NamedTuple):
    """An operation of the OpenAPI document: a method on a path."""

    method: str
    path: str
    content: dict[str, Any]
    parameters: list[dict[str, Any]]

    @property
    def scope(self) -> str:
        """The scope that the call needs; "" if it needs no token."""
        return next((each["token"][0] for each in self.content["security"] if "token" in each), "")


class Row(NamedTuple):
    """A row of a table in the reference: it describes a member of a request or response body."""

    name: str
    required: bool
    schema: dict[str, Any]


def render(document: Document, template: str, **values: object) -> str:
    """Return the reference; `template` is `docs.html` or `reference.md`."""
    environment = Environment(
        loader=PackageLoader("iot_api", "description"),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    operations = list(_operations(document))
    meanings = {name: meaning for name, _, meaning in settings.describe()}
    environment.filters |= {
        "resolve": partial(resolve, document),
        "rows": partial(_rows, document),
        "kind": partial(_kind, document),
        "html": _html,
        "json": partial(json.dumps, ensure_ascii=False),
    }
    return environment.get_template(template).render(
        document=document,
        operations=operations,
        shared=_shared(operations),
        schemas=document["components"]["schemas"],
        errors=_errors(document),
        meanings=meanings,
        **values,
    )


def _operations(document: Document) -> Iterator[Operation]:
    """Yield all operations except those of aliases."""
    for path, item in document["paths"].items():
        for method in METHODS:
            if method in item and "x-alias" not in item[method]:
                own = [*item.get("parameters", ()), *item[method].get("parameters", ())]
                parameters = [resolve(document, each) for each in own]
                yield Operation(method.upper(), path, item[method], parameters)


def _shared(operations: list[Operation]) -> dict[str, dict[str, Any]]:
    """Return the responses that all calls have in common, by status."""
    first, *others = (call.content["responses"] for call in operations)
    return {
        status: response
        for status, response in first.items()
        if all(each.get(status) == response for each in others)
    }


def _errors(document: Document) -> list[dict[str, Any]]:
    responses = document["components"]["responses"].values()
    return sorted(
        (each for each in responses if "x-status" in each), key=lambda each: int(each["x-status"])
    )


def _rows(document: Document, schema: dict[str, Any], prefix: str = "") -> list[Row]:
    """Return a row for each member of an object, and for each member of its inner objects."""
    schema = resolve(document, schema)
    while schema.get("type") == "array":
        schema, prefix = resolve(document, schema["items"]), f"{prefix[:-1]}[]."
    if "oneOf" in schema and "properties" in resolve(document, schema["oneOf"][0]):
        schema = resolve(document, schema["oneOf"][0])
    rows = []
    for name, member in schema.get("properties", {}).items():
        found = resolve(document, member)
        rows.append(Row(prefix + name, name in schema.get("required", ()), found))
        if prefix.count(".") < _DEPTH:
            rows += _rows(document, member, f"{prefix}{name}.")
    return rows


def _kind(document: Document, schema: dict[str, Any]) -> str:
    """Return the type of a value in words."""
    schema = resolve(document, schema)
    if "const" in schema:
        return f"`{_json(schema['const'])}`"
    if "enum" in schema:
        return " or ".join(f"`{_json(each)}`" for each in schema["enum"])
    if "oneOf" in schema and "const" in schema["oneOf"][0]:
        return "a code"
    choices = schema.get("oneOf") or schema.get("anyOf")
    if choices:
        return " or ".join(_kind(document, each) for each in choices)
    if schema.get("type") == "array":
        return f"list of {_kind(document, schema['items'])}{_bounds(schema, 'Items')}"
    types = schema.get("type", "any JSON")
    name = types if isinstance(types, str) else " or ".join(types)
    return f"{name}{_bounds(schema, 'imum')}{_bounds(schema, 'Length')}"


def _bounds(schema: dict[str, Any], suffix: str) -> str:
    low, high = schema.get(f"min{suffix}"), schema.get(f"max{suffix}")
    # Leave out the bounds of the integer type itself.
    high = None if high is not None and high >= 2**53 - 1 else high
    low = None if low is not None and low <= -(2**53) else low
    unit = {"Items": "", "imum": "", "Length": " characters"}[suffix]
    if low is None and high is None:
        return ""
    if high is None:
        return f", at least {low}{unit}"
    return f", at most {high}{unit}" if low is None else f", {low} to {high}{unit}"


def _json(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _html(text: str) -> Markup:
    """Return a description as HTML, with `<code>` for text in backticks."""
    return Markup(_CODE.sub(r"<code>\1</code>", str(escape(text))))  # noqa: S704 - escaped
