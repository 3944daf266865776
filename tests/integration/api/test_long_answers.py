"""Long answers are streamed in order over real sockets, and are aborted rather than wrong."""

import http.client
import json
from collections.abc import Iterator

import psycopg
import pytest

from integration.api.asking import JSON, row
from support.stack import Stack
from support.waiting import wait_until

COUNT = 30_000
ASK = json.dumps({"data": {"db_password": "long"}})


@pytest.fixture(scope="module")
def stack(module_stack: Stack) -> Stack:
    """Processes with 30,000 readings in several segments; the later segments overlap."""
    rows = [
        row("long", relative_time=n, interrogator_time=n - n % 7000 // 3, freeform={"n": n})
        for n in range(COUNT)
    ]
    for start in range(0, COUNT, 10_000):
        assert module_stack.put(rows[start : start + 10_000]).status == 201
    assert module_stack.put([row("short")]).status == 201
    wait_until(lambda: len(module_stack.read("long", "/last/40000")) == COUNT, what="all readings")
    wait_until(lambda: module_stack.read("short"), what="the reading of the other vault")
    return module_stack


@pytest.fixture
def database(stack: Stack, module_environment: dict[str, str]) -> Iterator[psycopg.Connection]:
    """The database of the stack."""
    del stack
    url = module_environment["IOT_POSTGRES_URL"]
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


def ask(
    stack: Stack, path: str = ""
) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    connection = http.client.HTTPConnection("127.0.0.1", stack.port, timeout=30)
    connection.request("POST", f"/api/iot{path}", ASK, JSON)
    return connection, connection.getresponse()


def test_readings_are_returned_in_order_and_in_chunks(stack: Stack) -> None:
    answer = stack.request("POST", "/api/iot", ASK, JSON)
    assert answer.status == 200
    assert answer.headers["Transfer-Encoding"] == "chunked"
    assert "Content-Length" not in answer.headers
    assert answer.headers["X-Request-Id"]
    read = answer.json()["data"]
    order = [(each["interrogator_timestamp"], each["id"]) for each in read]
    assert order == sorted(order)
    assert {each["relative_timestamp"]: each["freeform"] for each in read} == {
        n: f'{{"n": {n}}}' for n in range(COUNT)
    }
    assert len(read) == COUNT


def test_a_short_response_has_a_content_length(stack: Stack) -> None:
    answer = stack.request("POST", "/api/iot/last/10", ASK, JSON)
    assert int(answer.headers["Content-Length"]) == len(answer.body)
    assert "Transfer-Encoding" not in answer.headers
    assert len(answer.json()["data"]) == 10


def test_the_last_readings_of_a_large_vault(stack: Stack) -> None:
    read = stack.read("long")
    assert stack.read("long", "/last/25000") == read[-25_000:]
    assert stack.read("long", "/20000/29999") == [
        each for each in read if each["relative_timestamp"] >= 20_000
    ]
    assert stack.read("long", "/seconds/200") == read


def test_disconnected_clients_release_their_connections(
    stack: Stack, database: psycopg.Connection
) -> None:
    """The clients outnumber the Postgres connections of a process."""
    for _ in range(20):
        connection, answer = ask(stack)
        assert answer.read(1000)
        connection.close()
    assert len(stack.read("long")) == COUNT

    def open_transactions() -> int:
        found = database.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'iot-api'"
            " AND state LIKE 'idle in transaction%' AND datname = current_database()"
        ).fetchone()
        assert found is not None
        return int(found[0])

    wait_until(lambda: open_transactions() == 0, what="the end of all transactions")


def test_a_response_is_aborted_at_a_damaged_segment(
    stack: Stack, database: psycopg.Connection
) -> None:
    """The status is sent before the last segment is opened, so the body must end incomplete."""
    whole = stack.read("long")
    change = "payload = set_byte(payload, 60, get_byte(payload, 60) # 1)"
    damaged = f"""
        UPDATE segments SET {change}
        WHERE interrogator_min = (SELECT max(interrogator_min) FROM segments)
    """  # noqa: S608 - a constant
    assert database.execute(damaged).rowcount == 1
    try:
        connection, answer = ask(stack)
        with pytest.raises(http.client.IncompleteRead) as broken:
            answer.read()
        assert answer.status == 200
        connection.close()
        # The received rows are correct.
        text = broken.value.partial.decode()
        rows = json.loads(text[: text.rindex("}") + 1] + "]}")["data"]
        assert 0 < len(rows) < COUNT
        assert rows == whole[: len(rows)]
        # An answer that has not started becomes an error.
        error = stack.request("POST", "/api/iot/last/5", ASK, JSON)
        assert (error.status, error.json()["code"]) == (500, "damaged")
        # Other vaults are not affected, in either process.
        assert all(len(rows) == 1 for rows in stack.read_from_each_worker("short"))
        assert stack.put([row("short")]).status == 201
    finally:
        database.execute(damaged)
    assert stack.read("long") == whole
