"""PUT answers stay as they were before one endpoint took every PUT: status, headers, body, metrics.

`tests/fixtures/put_answers.json` holds the answers of the code before ADR 0015. Three things have
changed since then: errors also have the members of RFC 9457, behind the recorded ones; a key that
is used again with other readings is refused; and `/` has a page, so a PUT to it is 405, not 404.
Sentences of errors that were reworded since then are changed in the recording too, and with them
the Content-Length. The codes and statuses of these errors are as recorded.
"""

import json
import logging
import re
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import REGISTRY

from integration.api.conftest import MakeApi
from integration.api.put_requests import GROUPS, Group
from iot_cipher.tokens import new_tokens_text, with_token
from iot_models import metrics
from iot_models.scopes import Scope
from support.api_worker import lone_worker

FIXTURE = Path(__file__).parents[2] / "fixtures" / "put_answers.json"
RECORDED: dict[str, dict[str, dict[str, Any]]] = json.loads(FIXTURE.read_text(encoding="utf-8"))
_VARYING = (
    (re.compile(r"(?m)^Date: .*$"), "Date: <date>"),
    (re.compile(r"(?m)^X-Request-Id: [0-9a-f]{32}$"), "X-Request-Id: <id>"),
    (re.compile(r"/api/iot/stored/[A-Za-z0-9_=-]+"), "/api/iot/stored/<receipt>"),
    (re.compile(r"(?m)^Content-Length: \d+$(?=(?s:.*)<receipt>)"), "Content-Length: <length>"),
)


_PROBLEM = re.compile(r',"type":"urn:iot-sensor:error:.*(?=\}\n$)')
"""What RFC 9457 adds to the body of an error, behind its old members."""


class Log(logging.Logger):
    """A logger with the extra method of gunicorn's logger."""

    def access(self, *_: object) -> None:
        """Log no requests."""


@pytest.fixture
def worker() -> Iterator[Any]:
    """A gunicorn worker."""
    with lone_worker(Log(__name__)) as made:
        yield made


@pytest.fixture
def tokens(tmp_path: Path) -> dict[str, str]:
    """A token of each scope; `file` is the path of the tokens file."""
    text, made = new_tokens_text(), {}
    for scope in Scope:
        text, made[scope.value] = with_token(text, scope, [scope])
    path = tmp_path / "tokens.json"
    path.write_text(text, encoding="utf-8")
    return {**made, "file": str(path)}


def exchange(worker: Any, request: bytes) -> str:
    """Send a request over a new connection; return all bytes that the worker sends."""
    client, server = socket.socketpair()
    listener = SimpleNamespace(getsockname=lambda: ("127.0.0.1", 8000))
    with client, server:
        client.sendall(request)
        client.shutdown(socket.SHUT_WR)
        worker.handle(listener, server, ("127.0.0.1", 1))
        return client.makefile("rb").read().decode("latin-1")


def counted() -> "Counter[str]":
    """Return the counts of requests and of measured durations, by their labels."""
    counts: Counter[str] = Counter()
    names = ("iot_http_requests_total", "iot_http_request_seconds_count")
    metrics.flush()
    for family in REGISTRY.restricted_registry(names).collect():
        for each in family.samples:
            labels = ",".join(f"{name}={each.labels[name]}" for name in sorted(each.labels))
            counts[f"{each.name}{{{labels}}}"] = int(each.value)
    return counts


def comparable(answer: str) -> dict[str, Any]:
    """Return an answer without the parts that vary, with sorted headers."""
    interim, found, final = answer.partition(" 100 Continue\r\n\r\n")
    text = (final if found else answer).replace("\r\n", "\n")
    for pattern, replacement in _VARYING:
        text = pattern.sub(replacement, text)
    head, _, body = text.partition("\n\n")
    status, *headers = _without_problem(head, body).split("\n")
    return {
        "continues": bool(found) and interim == "HTTP/1.1",
        "status": status,
        "headers": sorted(map(_sorted_methods, headers)),
        "body": _PROBLEM.sub("", body),
    }


def _without_problem(head: str, body: str) -> str:
    """Return the head of an answer without the members of RFC 9457 in its Content-Length."""
    added = sum(map(len, _PROBLEM.findall(body)))
    return re.sub(
        r"(?m)^Content-Length: (\d+)$",
        lambda found: f"Content-Length: {int(found[1]) - added}",
        head,
    )


def _sorted_methods(header: str) -> str:
    """Sort the methods of `Allow`, which Flask lists in the order of a set."""
    name, _, value = header.partition(": ")
    return f"Allow: {', '.join(sorted(value.split(', ')))}" if name == "Allow" else header


def answers(
    worker: Any, make_api: MakeApi, group: Group, tokens: dict[str, str]
) -> dict[str, dict[str, Any]]:
    """Return the answers to the requests of a group."""
    file = {"tokens_file": tokens["file"]} if group.needs_tokens else {}
    worker.wsgi = make_api(**group.settings, **file).app
    worker.alive = not group.shuts_down
    made = {}
    for name, request in group.make(tokens).items():
        before = counted()
        made[name] = comparable(exchange(worker, request))
        after = counted()
        after.subtract(before)
        made[name]["counted"] = {label: count for label, count in sorted(after.items()) if count}
    return made


@pytest.mark.parametrize("name", GROUPS)
def test_answers_are_as_recorded(
    worker: Any, make_api: MakeApi, tokens: dict[str, str], name: str
) -> None:
    found = answers(worker, make_api, GROUPS[name], tokens)
    recorded = RECORDED[name]
    assert list(found) == list(recorded)
    for case, answer in found.items():
        if case == "key again with another body":
            assert answer["status"].startswith("HTTP/1.1 422 ")
        else:
            assert answer == recorded[case], case


def test_the_recording_holds_every_kind_of_answer() -> None:
    statuses = {
        answer["status"].split()[1] for group in RECORDED.values() for answer in group.values()
    }
    assert statuses >= {"200", "201", "202", "400", "401", "403", "404", "405", "413", "415", "503"}
    assert sum(map(len, RECORDED.values())) >= 80
