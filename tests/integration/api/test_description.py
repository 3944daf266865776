"""The description agrees with the routes of the app, and the app serves it."""

import inspect
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any, ClassVar

import pytest
from flask import Request
from werkzeug.datastructures import ImmutableMultiDict

from integration.api.asking import JSON, Api
from integration.api.conftest import MakeApi
from iot_api.description.document import METHODS, read_document, resolve
from iot_api.http.access import declared_scope
from iot_api.ingest import endpoint
from iot_api.ingest.endpoint import ROUTES
from iot_api.ingest.receipts import encode_receipt
from iot_api.routes.description import _POLICY
from iot_cipher.encryption import EntryName

DOCUMENT = read_document()
_CHOICES = re.compile(r'_choice\(query, "(\w+)"')
"""The query parameters of a PUT, which does not reach Flask."""
EXAMPLES = {"receipt": encode_receipt([EntryName(0, bytes(16), 1)])}


def operations() -> Iterator[tuple[str, str, dict[str, Any], list[dict[str, Any]]]]:
    """Yield method, path, content and parameters of each call."""
    for path, item in DOCUMENT["paths"].items():
        for method in METHODS:
            if method in item:
                own = [*item.get("parameters", ()), *item[method]["parameters"]]
                parameters = [resolve(DOCUMENT, each) for each in own]
                yield method.upper(), path, item[method], parameters


def test_every_route_is_described(module_api: Api) -> None:
    app = module_api.app
    routes = {
        (method, re.sub(r"<(\w+)>", r"{\1}", rule.rule)): declared_scope(
            app.view_functions[rule.endpoint]
        )
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert {("PUT", route) for route in ROUTES} <= set(routes)
    described = {
        (method, path): next(
            (each["token"][0] for each in content["security"] if "token" in each), None
        )
        for method, path, content, _ in operations()
    }
    assert described == routes


def test_path_parameters_are_described() -> None:
    for _, path, _, parameters in operations():
        named = {each["name"] for each in parameters if each["in"] == "path"}
        assert named == set(re.findall(r"{(\w+)}", path))


class Recorded(ImmutableMultiDict[str, str]):
    """The query of a request. It notes the names that are looked up."""

    names: ClassVar[set[str]] = set()

    def get(self, key: str, *args: Any, **kwargs: Any) -> Any:
        """Note the name."""
        self.names.add(key)
        return super().get(key, *args, **kwargs)

    def getlist(self, key: str, *args: Any, **kwargs: Any) -> Any:
        """Note the name."""
        self.names.add(key)
        return super().getlist(key, *args, **kwargs)

    def __getitem__(self, key: str) -> Any:
        self.names.add(key)
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        self.names.add(str(key))
        return super().__contains__(key)


class RecordedRequest(Request):
    """A request with a recorded query."""

    parameter_storage_class = Recorded


def test_every_query_parameter_is_described(
    module_api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module_api.app, "request_class", RecordedRequest)
    for method, path, content, parameters in operations():
        described = {each["name"] for each in parameters if each["in"] == "query"}
        if method == "PUT":  # the ingest endpoint
            assert described == set(_CHOICES.findall(inspect.getsource(endpoint)))
            continue
        Recorded.names.clear()
        answer = ask_example(module_api, method, path, content, parameters)
        assert answer < 500, (method, path)
        assert Recorded.names == described, (method, path)


def ask_example(
    api: Api, method: str, path: str, content: dict[str, Any], parameters: list[dict[str, Any]]
) -> int:
    """Send the example of a call. Return the status."""
    for each in parameters:
        if each["in"] == "path":
            example = EXAMPLES.get(each["name"], each["example"])
            path = path.replace(f"{{{each['name']}}}", example)
    body = None
    if "requestBody" in content:
        (media,) = content["requestBody"]["content"].values()
        body = json.dumps(media["example"])
    # A view may skip the parameters of a request without a query.
    return api.ask(method, f"{path}?other=1", body, JSON).status_code


def test_examples_of_puts_are_accepted(module_api: Api) -> None:
    bodies = DOCUMENT["paths"]["/api/iot"]["put"]["requestBody"]["content"]
    for each in bodies["application/json"]["examples"].values():
        assert module_api.put(each["value"]).status_code == 201
    lines = bodies["application/x-ndjson"]["example"]
    headers = {"Content-Type": "application/x-ndjson"}
    assert module_api.ask("PUT", "/api/iot", lines, headers).status_code == 201


def test_the_document_is_served(make_api: MakeApi) -> None:
    api = make_api(max_readings=7, trusted_proxies=1)
    served = api.ask("GET", "/openapi.json", headers={"X-Forwarded-Prefix": "/sensors"}).get_json()
    assert served["servers"] == [{"url": "/sensors"}]
    assert served["x-limits"]["IOT_MAX_READINGS"] == 7
    assert served["paths"].keys() == DOCUMENT["paths"].keys()
    assert api.ask("GET", "/openapi.json").get_json()["servers"] == [{"url": "/"}]


class Page(HTMLParser):
    """What a page loads, runs and links."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: set[str] = set()
        self.attributes: set[str] = set()
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag."""
        given = {name: value or "" for name, value in attrs}
        self.tags.add(tag)
        self.attributes |= given.keys()
        self.links |= {given["href"]} if "href" in given else set()
        self.ids |= {given["id"]} if "id" in given else set()


def test_the_page_loads_and_runs_nothing(module_api: Api) -> None:
    answer = module_api.ask("GET", "/docs")
    assert (answer.status_code, answer.mimetype) == (200, "text/html")
    assert answer.headers["Content-Security-Policy"] == _POLICY
    assert "unsafe" not in _POLICY
    page = Page()
    page.feed(answer.text)
    assert page.tags.isdisjoint({"script", "link", "img", "iframe", "object", "base", "form"})
    assert page.attributes <= {"href", "id", "class", "lang", "charset", "name", "content"}
    assert page.links == {f"#{each}" for each in page.ids} | {"openapi.json"}
    calls = {content["operationId"] for *_, content, _ in operations() if "x-alias" not in content}
    assert page.ids == calls | {"errors", "limits"}
