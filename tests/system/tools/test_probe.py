"""`iot-sensor probe`, which helm test runs, detects faults of the service."""

import json
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from iot_tools.cli.main import main
from iot_tools.local.ports import free_port
from support.serving import serving
from support.stack import MakeStack, Stack
from support.waiting import stretched
from system.tools.conftest import Start

Captured = pytest.CaptureFixture[str]


class FaultyService:
    """A server that answers like a faulty service."""

    def __init__(self) -> None:
        self.status = 201
        self.headers: dict[str, str] = {}
        self.kept: list[dict[str, Any]] = []
        self.change: dict[str, Any] = {}
        self.copies = 1
        self.tells_all = False
        self._password = ""
        ours = self

        class Handler(BaseHTTPRequestHandler):
            def _any(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, answer = ours.answer(self.command, body)
                payload = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                for name, value in ours.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            do_PUT = do_POST = _any  # noqa: N815 -- the names http.server calls

            def log_message(self, *_: object) -> None:
                """Print nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, method: str, body: Any) -> tuple[int, Any]:
        """Return status and body of the answer."""
        if method == "PUT":
            data = body[0]["data"]
            self._password = data["db_password"]
            self.kept = self.copies * [
                {
                    "id": 1,
                    "absolute_timestamp": "2026-11-23 10:00:00",
                    "relative_timestamp": data["relative_time"],
                    "interrogator_timestamp": data["interrogator_time"],
                    "freeform": json.dumps(data["freeform"]),
                    **self.change,
                }
            ]
            return self.status, {"success": "1 object(s) created"}
        known = self.tells_all or body["data"]["db_password"] == self._password
        return 200, {"data": self.kept if known else []}


@pytest.fixture
def faulty() -> Iterator[FaultyService]:
    """A service with configurable faults."""
    made = FaultyService()
    with serving(made.server):
        yield made


def probe(url: str, *options: str, timeout: str = "5") -> int:
    """Run the command in this process."""
    return main(["probe", "--url", url, "--timeout", timeout, *options])


def test_a_correct_service_passes(
    shared_stack: Stack, password: str, tmp_path: Path, capsys: Captured
) -> None:
    file = tmp_path / "password"
    file.write_text(f"{password}\n")
    for _ in range(2):
        assert probe(shared_stack.url, "--password-file", str(file), timeout="30") == 0
        said = capsys.readouterr()
        assert "the reading came back unchanged " in said.out
        assert said.err == ""
    assert len(shared_stack.read(password)) == 2
    (greatest,) = shared_stack.request("GET", "/api/iot/maxtime").json()["data"]
    assert greatest["max_relative_timestamp"] < 0


def test_a_password_is_optional(shared_stack: Stack) -> None:
    assert probe(shared_stack.url, timeout="30") == 0


def test_tokens_without_the_scopes_are_reported(
    make_stack: MakeStack, token_files: dict[str, Path], tmp_path: Path, capsys: Captured
) -> None:
    stack = make_stack({"IOT_TOKENS_FILE": str(token_files["tokens"])})
    url = stack.url
    assert probe(url, "--token-file", str(token_files["probe"]), timeout="30") == 0
    capsys.readouterr()
    unknown = tmp_path / "unknown"
    unknown.write_text("iot_unknown")
    for options, sentence in (
        ([], f"{url} does not know the token: 401 "),
        (["--token-file", str(unknown)], f"{url} does not know the token: 401 "),
        (
            ["--token-file", str(token_files["reads"])],
            f"{url} does not allow this token to send a reading: 403 ",
        ),
        (["--token-file", str(token_files["ingests"])], "does not allow this token to read: 403 "),
    ):
        began = time.monotonic()
        assert probe(url, *options, timeout="60") == 1
        assert time.monotonic() - began < stretched(20)
        err = capsys.readouterr().err
        assert sentence in err
        assert err.count("\n") == 1


def test_an_unreachable_service_is_reported(capsys: Captured) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    assert probe(url, timeout="1.2") == 1
    err = capsys.readouterr().err
    assert err.startswith(f"{url} can't be reached (tried for 1.2 s): ConnectionRefusedError")
    assert err.count("\n") == 1


def test_the_probe_waits_for_a_service_that_starts(
    environment: dict[str, str], tmp_path: Path, start: Start
) -> None:
    late = Stack(environment, tmp_path)
    process = start("probe", "--url", late.url, "--timeout", "60")
    try:
        late.start_api()
        late.start_writer()
        out, err = process.communicate(timeout=90)
        assert (process.returncode, err) == (0, "")
        assert "unchanged" in out
    finally:
        late.stop()


def test_a_missing_writer_is_reported(shared_stack: Stack, capsys: Captured) -> None:
    shared_stack.writers[-1].stop()
    assert probe(shared_stack.url, timeout="3") == 1
    assert capsys.readouterr().err == (
        "the reading was acknowledged, but could not be read within 3 s: is a writer running?\n"
    )


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"relative_timestamp": 5}, "the reading came back altered: relative_timestamp was -"),
        ({"interrogator_timestamp": 5}, "the reading came back altered: interrogator_timestamp"),
        ({"id": "1"}, "the reading came back without a valid id"),
        (
            {"absolute_timestamp": None},
            "the reading came back without a valid id",
        ),
    ],
)
def test_an_altered_reading_is_reported(
    change: dict[str, Any], sentence: str, faulty: FaultyService, capsys: Captured
) -> None:
    faulty.change = change
    assert probe(faulty.url) == 1
    assert capsys.readouterr().err.startswith(sentence)


def test_an_altered_freeform_is_reported(faulty: FaultyService, capsys: Captured) -> None:
    answer = faulty.answer

    def alter(method: str, body: Any) -> tuple[int, Any]:
        status, content = answer(method, body)
        for row in faulty.kept:
            row["freeform"] = row["freeform"].replace("tag", "gat")
        return status, content

    faulty.answer = alter  # type: ignore[method-assign]
    assert probe(faulty.url) == 1
    assert "altered: freeform was {" in capsys.readouterr().err


def test_a_doubled_reading_is_reported(faulty: FaultyService, capsys: Captured) -> None:
    faulty.copies = 2
    assert probe(faulty.url) == 1
    assert capsys.readouterr().err == "the reading is stored 2 times\n"


def test_missing_isolation_is_reported(faulty: FaultyService, capsys: Captured) -> None:
    faulty.tells_all = True
    assert probe(faulty.url) == 1
    assert (
        capsys.readouterr().err == "isolation failure: an unknown password returned 1 reading(s)\n"
    )


@pytest.mark.parametrize(
    ("status", "timeout", "sentence"),
    [
        (503, "1.2", "failed to answer requests to send a reading for 1.2 s: 503"),
        (400, "60", "rejected a request to send a reading: 400"),
        (308, "60", "rejected a request to send a reading: 308"),
    ],
)
def test_a_refused_reading_is_reported(
    status: int, timeout: str, sentence: str, faulty: FaultyService, capsys: Captured
) -> None:
    faulty.status = status
    assert probe(faulty.url, timeout=timeout) == 1
    assert sentence in capsys.readouterr().err


def test_a_response_of_another_server_is_reported(faulty: FaultyService, capsys: Captured) -> None:
    answer = faulty.answer
    faulty.answer = lambda method, body: (  # type: ignore[method-assign]
        answer(method, body) if method == "PUT" else (200, b"<html>")
    )
    assert probe(faulty.url, timeout="1.2") == 1
    assert "the response is not from iot-sensor" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--url", "x"], "--url: the URL must have the form http(s)://host[:port][/path]"),
        (["--url", "http://x", "--password-file", "/nowhere"], "/nowhere can't be read: No such"),
        (["--url", "http://x", "--password-file", "/dev/null"], "/dev/null contains no password"),
        (["--url", "http://x", "--token-file", "/dev/null"], "/dev/null contains no token"),
    ],
)
def test_invalid_arguments_are_refused(
    arguments: list[str], sentence: str, capsys: Captured
) -> None:
    for command in ("probe", "canary"):
        assert main([command, *arguments]) == 2
        assert sentence in capsys.readouterr().err
