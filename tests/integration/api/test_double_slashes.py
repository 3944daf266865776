"""Unusual paths: a duplicate slash anywhere means a single one, and `*` means the whole server."""

import json
import socket

import pytest

from support.stack import Stack

BODY = json.dumps({"data": {"db_password": "slashes", "relative_time": 7}})


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("PUT", "//api/iot", 201),
        ("PUT", "/api//iot", 201),
        ("PUT", "/api/iot//", 201),
        ("PUT", "///api///rssi///", 201),
        ("PUT", "/api//iot?ack=stored", 201),
        ("PUT", "/api/%2Fiot", 201),
        ("POST", "//api/iot", 200),
        ("POST", "/api//iot", 200),
        ("POST", "/api/iot//5", 200),
        ("POST", "/api/iot/5//9", 200),
        ("POST", "/api/iot/seconds//60", 200),
        ("POST", "/api/iot//last/1", 200),
        ("GET", "/api//iot//maxtime", 200),
        ("GET", "/api//audit", 200),
        ("GET", "//healthz", 200),
        ("GET", "/api//nothing", 404),
        ("DELETE", "/api//iot", 405),
    ],
)
def test_extra_slashes_are_ignored(
    module_stack: Stack, method: str, path: str, status: int
) -> None:
    answer = module_stack.request(method, path, BODY if method in {"PUT", "POST"} else None)
    assert answer.status == status, answer.body
    assert "Location" not in answer.headers


def test_readings_put_with_an_extra_slash_are_read_without_it(module_stack: Stack) -> None:
    put = json.dumps({"data": {"db_password": "doubled", "freeform": 1}})
    assert module_stack.request("PUT", "/api//iot?ack=stored", put).status == 201
    assert [each["freeform"] for each in module_stack.read("doubled")] == ["1"]


@pytest.mark.parametrize(("method", "status"), [("OPTIONS", 200), ("GET", 400)])
def test_a_proxy_asks_about_the_whole_server(module_stack: Stack, method: str, status: int) -> None:
    with socket.create_connection(("127.0.0.1", module_stack.port), timeout=30) as client:
        client.sendall(f"{method} * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        with client.makefile("rb") as answer:
            assert answer.readline().split()[1] == str(status).encode()
