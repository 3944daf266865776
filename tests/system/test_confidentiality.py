"""Each of 1,000 passwords reads only its own readings, and no stored data reveals readings or
passwords.
"""

import base64
import json
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from redis import Redis

from iot_models.segment_encoding import SEGMENT_LEVEL, compress
from iot_models.settings import Settings, load
from iot_sensor_client import Client
from iot_stores.backlog import Backlog
from iot_tools.local.postgres_server import PostgresServer, binaries
from iot_tools.local.redis_server import RedisServer
from iot_writer.schema import migrate
from support.keys import KEYS
from support.needles import contents, files, found, needles, process_files
from support.stack import Stack, running_stack
from support.waiting import wait_until

PASSWORDS = 1000
READINGS = 100
"""Readings of each password: first the even ones are sent, then the odd ones."""
CLIENTS = 4
READ_AGAIN = 100
"""Passwords that are also read over another connection, which may be that of another process."""

PASSWORD_MARK = "Zq7HeronWillow"
TEXT_MARK = "Xk4OtterMeadow"


def _password(number: int) -> str:
    return f'{PASSWORD_MARK}-{number}-é"'


def _text(number: int, place: int) -> str:
    return f'{TEXT_MARK} {number}/{place} ü"\\'


NEEDLES = needles({"password": PASSWORD_MARK.encode(), "text": TEXT_MARK.encode()})


@dataclass
class Place:
    """The stores and logs of a service, and everything that an intruder can read."""

    redis: RedisServer
    postgres: PostgresServer
    environment: dict[str, str]
    directory: Path

    def search(self) -> dict[str, set[str]]:
        """Return the needles that are found in each place, for example in the files of Redis."""
        with Redis.from_url(self.redis.url) as client:
            client.save()
        with psycopg.connect(self.postgres.url, autocommit=True) as connection:
            connection.execute("CHECKPOINT")
        logs = self.directory / "logs"
        paths_by_place = {
            "redis": files(self.redis.directory, but=".log"),
            "postgres files": files(self.postgres.data),
            "logs": [*logs.iterdir(), self.redis.log, self.postgres.log],
            "processes": process_files(),
        }
        result = {where: _found(contents(paths)) for where, paths in paths_by_place.items()}
        return result | {"postgres dump": _found([self.dump()])}

    def dump(self) -> bytes:
        """Return the output of pg_dump."""
        command = [str(binaries() / "pg_dump"), "--dbname", self.postgres.url, "--inserts"]
        return subprocess.run(command, check=True, capture_output=True).stdout


def _found(sought_in: Iterable[bytes]) -> set[str]:
    return found(sought_in, NEEDLES)


@pytest.fixture
def place(tmp_path: Path, environment: dict[str, str]) -> Iterator[Place]:
    """Separate stores, so that every file is known."""
    redis = RedisServer(tmp_path / "redis", config=["rdbcompression no"])
    postgres = PostgresServer(tmp_path / "postgres", settings={"fsync": "off"})
    (tmp_path / "logs").mkdir()
    redis.start()
    postgres.start()
    environment |= {
        "IOT_REDIS_URL": redis.url,
        "IOT_POSTGRES_URL": postgres.url,
        "IOT_LOG_LEVEL": "DEBUG",
        "IOT_TRUSTED_PROXIES": "1",  # each password is that of another device
    }
    migrate(postgres.url)
    yield Place(redis, postgres, environment, tmp_path)
    redis.stop()
    postgres.stop()


@pytest.fixture
def own_stack(place: Place) -> Iterator[Stack]:
    """The API on these stores, without a writer."""
    logs = place.directory / "logs"
    with running_stack(place.environment, logs, writers=0, forked=False) as stack:
        yield stack


def _rows(number: int, places: range) -> list[dict[str, Any]]:
    return [
        {
            "data": {
                "db_password": _password(number),
                "relative_time": place,
                "interrogator_time": 1_000_000 + place,
                "freeform": {"said": _text(number, place)},
            }
        }
        for place in places
    ]


@pytest.fixture
def clients(own_stack: Stack) -> Iterator[list[Client]]:
    """Clients that keep their connections, so that a vault is opened in one API process first."""
    with ExitStack() as opened:
        url = own_stack.url
        yield [opened.enter_context(Client(url, timeout=60)) for _ in range(CLIENTS)]


def _in_parallel(clients: list[Client], method: str, bodies: dict[int, Any]) -> dict[int, bytes]:
    """Send requests by their passwords' numbers over open connections; return the responses.

    Two passwords that share a request use one connection, and each request comes from another
    device: one device with many unknown passwords waits for each, longer on a busy machine.
    """

    def send(place: int) -> dict[int, bytes]:
        share = {number: body for number, body in bodies.items() if number // 2 % CLIENTS == place}
        return {number: answer(clients[place], number, body) for number, body in share.items()}

    def answer(client: Client, number: int, body: Any) -> bytes:
        device = {"X-Forwarded-For": f"10.0.{number >> 8}.{number & 255}"}
        while True:
            response = client.request(
                method, "/api/iot", headers=device, json=body, repeatable=False
            )
            if response.status != 429:
                break
            # Too many new passwords wait for their scrypt.
            time.sleep(float(response.headers["Retry-After"]))
        assert response.status == (201 if method == "PUT" else 200), response.body
        return response.body

    with ThreadPoolExecutor(CLIENTS) as pool:
        return {
            number: body
            for share in pool.map(send, range(CLIENTS))
            for number, body in share.items()
        }


def _send(clients: list[Client], places: range) -> None:
    """Send these readings of every password. Two passwords share a request, with mixed rows."""
    bodies = {}
    for number in range(0, PASSWORDS, 2):
        pair = [_rows(number, places), _rows(number + 1, places)]
        bodies[number] = [row for both in zip(*pair, strict=True) for row in both]
    _in_parallel(clients, "PUT", bodies)


def _read(clients: list[Client], passwords: range) -> Iterator[dict[str, Any]]:
    """Read each password, check that exactly its readings are returned, and yield them."""
    asked = {number: {"data": {"db_password": _password(number)}} for number in passwords}
    for number, answer in _in_parallel(clients, "POST", asked).items():
        rows = json.loads(answer)["data"]
        said = [json.loads(row["freeform"])["said"] for row in rows]
        assert said == [_text(number, place) for place in range(READINGS)]
        assert [row["relative_timestamp"] for row in rows] == list(range(READINGS))
        yield from rows


def _backlog(settings: Settings) -> int:
    with Redis.from_url(settings.redis_url) as client:
        backlog = Backlog(client, KEYS, shards=settings.shards, max_bytes=0)
        return sum(backlog.state().entries.values())


NOTHING: dict[str, set[str]] = {
    where: set() for where in ("redis", "postgres files", "logs", "processes", "postgres dump")
}


def test_each_password_reads_only_its_own_readings(
    own_stack: Stack, clients: list[Client], place: Place
) -> None:
    settings = load(place.environment)
    _in_parallel(clients, "PUT", {each: _rows(each, range(1)) for each in range(PASSWORDS)})
    _send(clients, range(2, READINGS, 2))
    assert _backlog(settings) == 2 * PASSWORDS
    assert place.search() == NOTHING  # while all readings are in the backlog

    own_stack.start_writer()
    _send(clients, range(1, READINGS, 2))
    wait_until(lambda: not _backlog(settings), what="all readings stored")
    seen = {row["id"] for row in _read(clients, range(PASSWORDS))}
    assert len(seen) == PASSWORDS * READINGS
    assert {row["id"] for row in _read(clients[::-1], range(READ_AGAIN))} < seen
    assert place.search() == NOTHING


def test_the_search_finds_planted_marks(place: Place) -> None:
    lines = list(NEEDLES.values())
    with Redis.from_url(place.redis.url) as client:
        client.rpush("planted", *lines)
    planted = b"\n".join(lines)
    with psycopg.connect(place.postgres.url, autocommit=True) as connection:
        connection.execute("CREATE TABLE planted (line text)")
        for line in lines:
            connection.execute("INSERT INTO planted VALUES (%s)", (line.decode(),))
    (place.directory / "logs" / "api.log").write_bytes(planted)
    sleeper = [sys.executable, "-c", "input()", *map(bytes.decode, lines)]
    with subprocess.Popen(sleeper, stdin=subprocess.PIPE) as process:
        result = place.search()
        process.communicate(b"\n")
    assert result == {where: set(NEEDLES) for where in NOTHING}


@pytest.mark.parametrize("mark", [PASSWORD_MARK, TEXT_MARK])
@pytest.mark.parametrize("before", ["", "a", "ab", "abc", '{"said":"'])
def test_a_mark_is_found_in_every_encoding(mark: str, before: str) -> None:
    text = f"{before}{mark} and more".encode()
    forms = [text, text.hex().encode(), text.hex().upper().encode(), base64.b64encode(text)]
    forms += [base64.urlsafe_b64encode(text), json.dumps(text.decode()).encode()]
    for form in forms:
        assert _found([form]), form


def test_compressed_plaintext_is_found(place: Place) -> None:
    packed = compress(f"{TEXT_MARK} said ".encode() * 300, SEGMENT_LEVEL)
    with Redis.from_url(place.redis.url) as client:
        client.set("planted", packed)
    with psycopg.connect(place.postgres.url, autocommit=True) as connection:
        connection.execute("CREATE TABLE planted (line bytea)")
        connection.execute("INSERT INTO planted VALUES (%s)", (packed,))
        result = place.search()
        assert "text raw" in result["redis"] & result["postgres dump"]
        connection.execute("UPDATE planted SET line = %s", (TEXT_MARK.encode(),))
        assert _found([place.dump()]) == {"text hex"}


# --- Reading stolen data -----------------------------------------------------------------------
