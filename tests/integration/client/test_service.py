"""The client against the real service."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from iot_cipher.tokens import new_tokens_text, with_token
from iot_sensor_client import Client, RejectedError, RetryableError, RetryPolicy
from support.stack import Stack
from support.waiting import wait_until

README = Path(__file__).parents[3] / "clients/python/README.md"
READINGS = [
    {"relative_time": number, "interrogator_time": 10 * number, "freeform": {"n": number}}
    for number in range(5)
]


def url_of(stack: Stack) -> str:
    return f"http://127.0.0.1:{stack.port}"


def times(rows: list[dict[str, int]]) -> list[int]:
    return [row["relative_timestamp"] for row in rows]


@pytest.mark.parametrize("gzip", [False, True])
def test_readings_come_back(stack: Stack, gzip: bool) -> None:
    with Client(url_of(stack), "password", gzip=gzip) as client:
        assert client.is_ready()
        assert client.max_relative_time() is None
        client.put_readings([{**each, "freeform": "x" * 2000} for each in READINGS])
        wait_until(lambda: len(client.read()) == 5, what="five readings")
        assert times(client.read(last=2)) == [3, 4]
        assert times(client.read(seconds=600)) == [0, 1, 2, 3, 4]
        assert times(client.read(start=3)) == [3, 4]
        assert times(client.read(start=1, end=2)) == [1, 2]
        assert client.max_relative_time() == 4
        with pytest.raises(RejectedError, match="400"):
            client.read(last=-1)
    with Client(url_of(stack), "another password") as stranger:
        assert stranger.read() == []


def test_a_key_stores_readings_once(stack: Stack) -> None:
    with Client(url_of(stack), "password") as client:
        assert client.put_readings(READINGS, idempotency_key="k").status == 201
        repeated = client.put_readings(READINGS, idempotency_key="k")
        assert repeated.headers["Idempotent-Replayed"] == "true"
        client.put_readings([{"relative_time": 9}])
        wait_until(lambda: client.max_relative_time() == 9, what="the last reading")
        assert times(sorted(client.read(), key=lambda row: row["id"])) == [0, 1, 2, 3, 4, 9]


def test_a_restart_of_the_api_is_bridged(stack: Stack) -> None:
    retry = RetryPolicy(max_attempts=100, max_pause_seconds=1)
    with Client(url_of(stack), "password", retry=retry) as client:
        client.put_readings(READINGS[:1])
        stack.kill_api()
        stack.start_api(wait=False)
        for reading in READINGS[1:]:
            client.put_readings([reading])
        wait_until(lambda: times(client.read()) == [0, 1, 2, 3, 4], what="all readings")


def test_a_token_that_is_replaced(environment: dict[str, str], tmp_path: Path) -> None:
    text, token = with_token(new_tokens_text(), "device", ["ingest"])
    tokens = tmp_path / "tokens.json"
    tokens.write_text(text)
    stack = Stack({**environment, "IOT_TOKENS_FILE": str(tokens)}, tmp_path)
    mounted = tmp_path / "token"
    mounted.write_text("iot_unknown")
    try:
        stack.start_api()
        with Client(url_of(stack), "password", mounted.read_text) as client:
            with pytest.raises(RetryableError, match="401"):
                client.put_readings(READINGS)
            mounted.write_text(f"{token}\n")
            assert client.put_readings(READINGS).status == 201
            with pytest.raises(RetryableError, match="403"):
                client.read()
    finally:
        stack.stop()


def test_the_example_of_the_readme(stack: Stack) -> None:
    text = README.read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (output,) = re.findall(r"prints\n\n```\n(.*?)```", text, re.DOTALL)
    example = example.replace("http://127.0.0.1:5000", url_of(stack))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", example],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == (output, "")
