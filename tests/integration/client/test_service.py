"""The client against the real service."""

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from iot_cipher.tokens import new_tokens_text, with_token
from iot_sensor_client import Client, RejectedError, RetryableError, RetryPolicy
from support.stack import Stack
from support.waiting import wait_until

READINGS = [
    {"relative_time": number, "interrogator_time": 10 * number, "freeform": {"n": number}}
    for number in range(5)
]


def times(rows: list[dict[str, int]]) -> list[int]:
    return [row["relative_timestamp"] for row in rows]


@pytest.mark.parametrize("gzip", [False, True])
def test_readings_come_back(shared_stack: Stack, password: str, gzip: bool) -> None:
    with Client(shared_stack.url, password, gzip=gzip) as client:
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
    with Client(shared_stack.url, f"another {password}") as stranger:
        assert stranger.read() == []


def test_a_key_stores_readings_once(shared_stack: Stack, password: str) -> None:
    with Client(shared_stack.url, password) as client:
        assert client.put_readings(READINGS, idempotency_key="k").status == 201
        repeated = client.put_readings(READINGS, idempotency_key="k")
        assert repeated.headers["Idempotent-Replayed"] == "true"
        client.put_readings([{"relative_time": 9}])
        wait_until(lambda: client.max_relative_time() == 9, what="the last reading")
        assert times(sorted(client.read(), key=lambda row: row["id"])) == [0, 1, 2, 3, 4, 9]


def test_a_restart_of_the_api_is_bridged(shared_stack: Stack, password: str) -> None:
    retry = RetryPolicy(max_attempts=100, max_pause_seconds=1)
    with Client(shared_stack.url, password, retry=retry) as client:
        client.put_readings(READINGS[:1])
        shared_stack.kill_api()
        shared_stack.start_api(wait=False)
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
        with Client(stack.url, "password", mounted.read_text) as client:
            with pytest.raises(RetryableError, match="401"):
                client.put_readings(READINGS)
            mounted.write_text(f"{token}\n")
            assert client.put_readings(READINGS).status == 201
            with pytest.raises(RetryableError, match="403"):
                client.read()
    finally:
        stack.stop()


def test_any_number_of_readings_goes_out_and_comes_back_in_batches_and_pages(
    shared_stack: Stack, password: str
) -> None:
    readings = [{"relative_time": n, "interrogator_time": n, "freeform": n} for n in range(25)]
    with Client(shared_stack.url, password) as client:
        began = datetime.now(UTC) - timedelta(minutes=1)
        assert client.send(iter(readings), batch_size=10, idempotency_key="k") == 25
        assert client.send(readings, batch_size=10, idempotency_key="k") == 25
        wait_until(lambda: client.max_relative_time() == 24, what="the last reading")
        pages = list(client.readings(page_size=10).pages())
        assert [len(page) for page in pages] == [10, 10, 5]
        assert times(list(client.readings(page_size=10))) == list(range(25))
        assert times(list(client.readings(last=3, order="desc"))) == [24, 23, 22]
        assert len(list(client.readings(since=began))) == 25
        assert list(client.readings(until=began)) == []
        epoch = datetime(1970, 1, 1, tzinfo=UTC)
        first = client.readings(until=epoch + timedelta(milliseconds=1), by="interrogator")
        assert times(list(first)) == list(range(25))
        with pytest.raises(ValueError, match="no time zone"):
            client.readings(since=began.replace(tzinfo=None))
        with pytest.raises(RejectedError, match="400") as refused:
            client.send([*readings[:10], {"relative_time": "x"}], batch_size=10)
        assert refused.value.acknowledged == 10


def test_live_readings_come_once_also_those_of_an_outage(
    shared_stack: Stack, password: str
) -> None:
    seen: list[int] = []
    stop = threading.Event()

    def follow(client: Client) -> None:
        for row in client.follow(interval=0.02, overlap=0.5, stop=stop):
            seen.append(row["relative_timestamp"])  # noqa: PERF401 -- as they come

    once = RetryPolicy(max_attempts=1)
    with Client(shared_stack.url, password, retry=once) as client:
        client.put_readings(READINGS)
        wait_until(lambda: len(client.read()) == 5, what="five old readings")
        follower = threading.Thread(target=follow, args=(client,))
        follower.start()
        put = 5
        while not seen:
            client.put_readings([{"relative_time": put}])
            put += 1
        shared_stack.writers[-1].kill()
        shared_stack.writers[-1].wait()
        client.put_readings([{"relative_time": put}])
        shared_stack.kill_api()
        stop.wait(2)  # longer than the overlap: the next poll must reach back further
        shared_stack.start_api()
        shared_stack.start_writer()
        client.put_readings([{"relative_time": put + 1}])
        wait_until(lambda: seen[-1] == put + 1, what="the last reading")
        stop.set()
        follower.join()
    assert seen[0] >= 5
    assert seen == list(range(seen[0], put + 2))


def test_readings_of_the_seconds_before_are_not_live(shared_stack: Stack, password: str) -> None:
    """A poll reaches back further than the overlap."""
    stop = threading.Event()
    with Client(shared_stack.url, password) as client:
        client.put_readings([{"relative_time": 0}])
        stop.wait(1.2)  # longer than the overlap, shorter than what a poll reaches back
        client.put_readings([{"relative_time": 1}])
        wait_until(lambda: len(client.read()) == 2, what="the old readings")
        stop.wait(0.8)  # shorter than the overlap, longer than the first event needs to arrive
        live = client.follow(interval=0.02, overlap=1, stop=stop)
        sender = threading.Thread(target=_put_until, args=(client, stop))
        sender.start()
        first = next(live)["relative_timestamp"]
        stop.set()
        sender.join()
    assert first == 2


def _put_until(client: Client, stop: threading.Event) -> None:
    while not stop.wait(0.1):
        client.put_readings([{"relative_time": 2}])
