"""The code that pods of the tests run with `python -c`; it uses only the standard library."""

import http.client
import json
import socket
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

TOKENS = Path("/etc/e2e/tokens")
REQUEST_SECONDS = 30
SERVICE_SECONDS = 60
CONNECT_SECONDS = 3
TRIES = 3


def ask(questions: list[dict[str, Any]], tokens: Path = TOKENS) -> list[dict[str, Any]]:
    """Return the answers; a request with `rows` is repeated until the answer has this many rows.

    The repetition ends after the `seconds` of the request.
    """
    return [_patiently(each, tokens) for each in questions]


def _patiently(question: dict[str, Any], tokens: Path) -> dict[str, Any]:
    began = time.monotonic()
    end = began + question.get("seconds", 0)
    while True:
        try:
            answer = _once(question, tokens)
        except (ConnectionRefusedError, socket.gaierror):
            # No request was sent, so a retry is safe: a new Service takes time to reach all nodes.
            if time.monotonic() > began + SERVICE_SECONDS:
                raise
            time.sleep(0.5)
            continue
        body = answer["body"]
        rows = body.get("data", []) if isinstance(body, dict) else []
        if len(rows) >= question.get("rows", 0) or time.monotonic() > end:
            return answer
        time.sleep(0.2)


def _once(question: dict[str, Any], tokens: Path) -> dict[str, Any]:
    headers = {"Content-Type": "application/json"}
    if question.get("token"):
        token = (tokens / question["token"]).read_text(encoding="utf-8").strip()
        headers["Authorization"] = f"Bearer {token}"
    headers.update(question.get("headers", {}))
    parts = urlsplit(question["url"])
    connection = http.client.HTTPConnection(parts.netloc, timeout=REQUEST_SECONDS)
    try:
        connection.request(question["method"], parts.path, json.dumps(question["body"]), headers)
        response = connection.getresponse()
        content = response.read()
        given = {name.lower(): value for name, value in response.getheaders()}
        return {"status": response.status, "headers": given, "body": json.loads(content)}
    finally:
        connection.close()


def reach(addresses: list[tuple[str, int]]) -> list[str]:
    """Return for each address: reached, no name, refused, timeout or another error.

    One success of several attempts is enough, because packets may be lost.
    """
    return [_reach(host, port) for host, port in addresses]


def _reach(host: str, port: int) -> str:
    for _ in range(TRIES):
        try:
            socket.create_connection((host, port), CONNECT_SECONDS).close()
        except socket.gaierror:
            came = "no name"
        except TimeoutError:
            came = "timeout"
        except ConnectionRefusedError:
            came = "refused"
        except OSError as error:
            came = type(error).__name__
        else:
            return "reached"
    return came


def listen(port: int) -> None:
    """Accept connections forever."""
    with socket.create_server(("", port)) as server:
        while True:
            server.accept()[0].close()


def main(mode: str, argument: str) -> None:
    """Run a mode, and print the result as the last line."""
    given = json.loads(argument)
    if mode == "listen":
        listen(given)
    print(json.dumps(ask(given) if mode == "ask" else reach(given)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
