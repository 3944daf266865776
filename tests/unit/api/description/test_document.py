"""The description of the API agrees with the code, in both directions."""

import ast
import re
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import openapi_spec_validator

from iot_api.description.document import (
    METHODS,
    Document,
    describe_service,
    field_of,
    read_document,
    resolve,
)
from iot_api.description.reference import render
from iot_api.http.cors import EXPOSED
from iot_api.http.errors import STATUS
from iot_api.http.malformed_requests import REFUSALS
from iot_api.http.problems import TYPE_PREFIX
from iot_api.http.request import JSON_TYPES, NDJSON_TYPES
from iot_models import errors
from iot_models.errors import ErrorCode, IotError, Refusal
from iot_models.scopes import Scope
from iot_models.settings import Settings

ROOT = Path(__file__).parents[4]
DOCUMENT = read_document()
SCHEMAS = DOCUMENT["components"]["schemas"]
RESPONSES = DOCUMENT["components"]["responses"]
OF_HTTP = {
    *("Accept", "Access-Control-Request-Headers", "Access-Control-Request-Method"),
    *("Authorization", "Origin", "Transfer-Encoding"),
    *("Forwarded", "Via", "X-Forwarded-For"),
    "Traceparent",
}
"""Request headers that OpenAPI leaves to HTTP, or that only proxies, browsers and tracing send."""
NOT_HEADERS = {"Status-Codes"}
LIMITS = re.compile(r"max_(?!relative).*|.*_limit|rate_limit_.*|idempotency_.*|ack_.*")
"""Settings that limit what a client may send."""


def operations() -> Iterator[tuple[str, dict[str, Any]]]:
    for path, item in DOCUMENT["paths"].items():
        for method in METHODS:
            if method in item:
                yield f"{method} {path}", item[method]


def constants(schema: dict[str, Any]) -> list[str]:
    return [each["const"] for each in schema["oneOf"]]


def sources() -> Iterator[Path]:
    for folder in ("services/api/iot_api", "shared"):
        yield from (ROOT / folder).rglob("*.py")


def test_it_is_valid() -> None:
    openapi_spec_validator.validate(DOCUMENT)


def test_it_has_the_version_of_the_service() -> None:
    project = tomllib.loads((ROOT / "services/api/pyproject.toml").read_text(encoding="utf-8"))
    assert DOCUMENT["info"]["version"] == project["project"]["version"]


def test_error_codes() -> None:
    assert constants(SCHEMAS["ErrorCode"]) == list(ErrorCode)
    # The answer to too many reads is 503, without a reason.
    assert constants(SCHEMAS["Refusal"]) == [each for each in Refusal if each != Refusal.READS]
    assert re.fullmatch(SCHEMAS["Error"]["properties"]["type"]["pattern"], f"{TYPE_PREFIX}x")
    assert SCHEMAS["Error"]["properties"]["scope"]["enum"] == list(Scope)


def test_each_error_code_is_described_under_its_status() -> None:
    described = {
        (each["x-status"], code)
        for each in RESPONSES.values()
        if "x-status" in each
        for code in each["x-codes"]
    }
    # Errors of HTTP itself have statuses of their own.
    of_http = {(status, "invalid_request") for status, _, _ in REFUSALS.values()}
    expected = {(status, str(code)) for code, status in STATUS.items()}
    assert described == expected | of_http | {(408, "invalid_request")}


def test_each_call_names_its_errors_by_their_status() -> None:
    for name, operation in operations():
        for status, response in operation["responses"].items():
            found = resolve(DOCUMENT, response)
            assert str(found.get("x-status", status)) == status, name
            if int(status) >= 400 and "x-status" in found:
                assert set(found["content"]) == {"application/json", "application/problem+json"}


def test_each_call_may_get_the_errors_of_http() -> None:
    of_all = {str(status) for status, _, _ in REFUSALS.values()} - {"400"} | {"408", "500", "503"}
    for name, operation in operations():
        assert of_all <= set(operation["responses"]), name
        if operation["security"]:
            assert {"401", "403", "429"} <= set(operation["responses"]), name
        if "requestBody" in operation:
            assert {"400", "413", "415"} <= set(operation["responses"]), name


def test_members_of_errors() -> None:
    """`details` of every error that the code raises are members of `Error`."""
    kinds = {
        name
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, IotError)
    }
    given = set()
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in kinds:
                given |= {keyword.arg for keyword in node.keywords if keyword.arg}
    members = set(SCHEMAS["Error"]["properties"])
    assert given - {"retry_after", "presented"} == members - set(SCHEMAS["Error"]["required"])


def test_request_headers() -> None:
    code = "\n".join(path.read_text(encoding="utf-8") for path in sources())
    names = re.findall(r"\bHTTP_([A-Z][A-Z_]+)\b", code)
    names += re.findall(r'request\.headers(?:\.get\(|\[)"([\w-]+)"', code)
    read = {name.replace("_", "-").title() for name in names}
    parameters = DOCUMENT["components"]["parameters"].values()
    described = {each["name"].title() for each in parameters if each["in"] == "header"}
    assert read - OF_HTTP - NOT_HEADERS == described
    assert read >= OF_HTTP


def test_response_headers() -> None:
    assert set(EXPOSED.split(", ")) <= set(DOCUMENT["components"]["headers"])


def test_every_part_is_used() -> None:
    """A call that is removed takes its parts with it."""
    text = str(DOCUMENT)
    unused = [
        f"{kind}/{name}"
        for kind in ("parameters", "headers", "responses", "schemas")
        for name in DOCUMENT["components"][kind]
        if f"'#/components/{kind}/{name}'" not in text
    ]
    # The response to methods that are no calls.
    assert unused == ["responses/MethodNotAllowed"]


def test_media_types_of_bodies() -> None:
    text = DOCUMENT["info"]["description"]
    named = set(re.findall(r"`((?:application|text)/[\w.+-]+)`", text))
    assert named - {"application/problem+json"} == (JSON_TYPES | NDJSON_TYPES) - {""}


def test_limits_have_the_defaults_of_the_settings() -> None:
    defaults = {each.name: each.default for each in fields(Settings)}
    assert {field_of(name): value for name, value in DOCUMENT["x-limits"].items()} == {
        name: value for name, value in defaults.items() if LIMITS.fullmatch(name)
    }
    for schema in limited(DOCUMENT):
        for keyword, setting in schema["x-setting"].items():
            assert schema[keyword] == DOCUMENT["x-limits"][setting]


def limited(node: Any) -> Iterator[dict[str, Any]]:
    """Yield the schemas with a limit that depends on a setting."""
    if isinstance(node, dict):
        if "x-setting" in node:
            yield node
        node = list(node.values())
    if isinstance(node, list):
        for each in node:
            yield from limited(each)


def test_a_service_describes_its_own_limits() -> None:
    settings = Settings(
        postgres_url="", keyring_file="", max_readings=7, max_password_bytes=33, guess_limit=5
    )
    document: Document = describe_service(settings)
    assert document["x-limits"]["IOT_GUESS_LIMIT"] == 5
    schemas = document["components"]["schemas"]
    assert schemas["PutRequest"]["oneOf"][1]["maxItems"] == 7
    assert schemas["PutData"]["properties"]["db_password"]["maxLength"] == 33
    page = render(document, "docs.html", style="")
    assert "<code>IOT_GUESS_LIMIT</code></td><td>5</td>" in page


def test_the_reference_is_up_to_date() -> None:
    text = (ROOT / "docs/http-reference.md").read_text(encoding="utf-8")
    assert text == render(DOCUMENT, "reference.md"), "run `make docs`"


def test_the_page_escapes_texts() -> None:
    document = read_document()
    document["info"]["summary"] = "`<b>` <script>"
    page = render(document, "docs.html", style="")
    assert "<p><code>&lt;b&gt;</code> &lt;script&gt;</p>" in page
    assert "<script" not in page
