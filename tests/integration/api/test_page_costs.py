"""The cost of a page, in counts that do not depend on the machine, is the same at any depth."""

import uuid
from collections.abc import Iterator
from typing import Any, LiteralString

import psycopg
import pytest
from redis import Redis

from integration.api.asking import Api, row
from integration.compaction.past import Past, each_second, noon
from integration.growth.touched import Touched, touching
from iot_stores import history
from iot_stores.history import PageRange, ReadFilter
from iot_stores.interval_index import Position
from iot_stores.months import month_begin, next_month
from iot_stores.postgres import Connection
from iot_writer.maintenance.partitions import ensure_partition
from iot_writer.writer import Writer
from support.draining import drain_all

VAULT = uuid.UUID(int=1)
COUNT = 10_000
MONTH = month_begin(1_795_414_643_286)
SECOND = 1_000_000

# A segment has 100 readings. Each shape has the start and the length of its segments.
_SHAPES: dict[str, tuple[LiteralString, LiteralString]] = {
    "one after another": ("n * 1000000", "900000"),
    "each over 30 others": ("n * 1000000", "30000000"),
    "a few over thousands": (
        "n * 1000000",
        "CASE WHEN n % 1000 = 0 THEN 3000000000 ELSE 900000 END",
    ),
    "without times": ("-1", "0"),
}
_FILL: LiteralString = """
    INSERT INTO segments
    SELECT %s::uuid, n * 25600, n * 25600 + 99 * 256, at, at, n * 1000000, n * 1000000 + 900000,
        {begin}, {begin} + {reach}, 0, 100, '\\x00'
    FROM (SELECT n, CASE WHEN n <= %s / 2 THEN %s::int8 ELSE %s END + n AS at
          FROM generate_series(1::int8, %s) AS n) AS numbered
"""


@pytest.fixture(scope="module", params=list(_SHAPES))
def filled(
    request: pytest.FixtureRequest, module_environment: dict[str, str]
) -> Iterator[tuple[str, Connection]]:
    """10,000 segments of a vault in two months, and as many of other vaults."""
    begin, reach = _SHAPES[request.param]
    url = module_environment["IOT_POSTGRES_URL"]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("TRUNCATE segments")
        for month in (MONTH, next_month(MONTH)):
            ensure_partition(connection, month)
        fill = _FILL.replace("{begin}", begin).replace("{reach}", reach).replace(" % ", " %% ")
        for number, count in ((1, COUNT), *((2 + each, 1000) for each in range(10))):
            values = (uuid.UUID(int=number), count, MONTH, next_month(MONTH), count)
            connection.execute(fill, values)
        connection.execute("VACUUM ANALYZE segments")
        yield request.param, connection


def place(shape: str, number: int) -> Position:
    """Return the position in the middle of the n-th segment."""
    time = -1 if shape == "without times" else number * SECOND + SECOND // 2
    return time, number * 25_600 + 50 * 256


def take(connection: Connection, question: ReadFilter, span: PageRange, count: int = 4) -> Touched:
    """Fetch this many segments; return the pages and scans."""

    def taken() -> int:
        segments = history.select(connection, VAULT, question, span)
        found = sum(1 for _ in zip(segments, range(count), strict=False))
        segments.close()
        return found

    taken()  # now the connection has cached the tables
    with touching(connection) as touched:
        assert taken() == count
    return touched


@pytest.mark.parametrize("descending", [False, True])
def test_a_page_costs_the_same_at_any_depth(
    filled: tuple[str, Connection], descending: bool
) -> None:
    """A page reads a few index pages for each month and each length class of segments."""
    shape, connection = filled
    ordered = "segments_latest" if descending else "segments_in_order"
    for number in (100, COUNT // 2, COUNT - 100):
        span = PageRange(place(shape, number), descending=descending, limit=100)
        touched = take(connection, ReadFilter(), span)
        assert touched.pages < 200, number
        assert touched.indexes == {"segments_reach", ordered}
        assert not touched.scanned


@pytest.mark.parametrize("descending", [False, True])
def test_a_page_of_a_window_costs_the_same_at_any_depth(
    filled: tuple[str, Connection], descending: bool
) -> None:
    """The window is the whole history, or so narrow that the next segments are outside."""
    shape, connection = filled
    if shape == "without times":
        return  # only the relative times differ between the segments of this shape
    for number in (100, COUNT // 2, COUNT - 100):
        span = PageRange(place(shape, number), descending=descending, limit=100)
        for question in (ReadFilter(relative_low=0), ReadFilter(received_low=MONTH)):
            assert take(connection, question, span).pages < 900, number
    narrow = ReadFilter(relative_low=7000 * SECOND, relative_high=7005 * SECOND)
    for after in (None, place(shape, 9000 if descending else 100)):
        assert (
            take(connection, narrow, PageRange(after, descending=descending, limit=100)).pages
            < 1200
        )


@pytest.fixture
def past(past: Past) -> Past:
    """30 segments of 100 readings, one after another."""
    past.store(b"p", each_second(noon(2), 3000), each=100)
    return past


@pytest.mark.parametrize(
    ("path", "most"),
    [
        ("/last/1", 1), ("/last/100", 2), ("/last/150", 2), ("/last/1000", 11), ("/last/2500", 52),
        ("/last/2500?limit=1", 28), ("/last/2500?limit=1&order=desc", 28),
        ("/last/2500?order=desc", 26), ("/last/9?order=desc", 1),
        ("?limit=1", 1), ("?limit=250", 4), ("?limit=1&order=desc", 1), ("/0?limit=50", 1),
        ("/0/1e15?limit=250", 4), ("/seconds/1e6?limit=10", 1), ("/1e9/2e9?limit=10", 1),
    ],
)  # fmt: skip
def test_a_page_decrypts_only_its_own_readings(
    past: Past, api: Api, opened_segments: list[int], path: str, most: int
) -> None:
    del past
    assert len(api.read(path)) > 0
    assert len(opened_segments) <= most


def test_a_page_opens_only_its_own_segments(
    past: Past, api: Api, opened_segments: list[int]
) -> None:
    del past
    for path in ("", "/0", "/seconds/1e6"):
        for order in ("asc", "desc"):
            asked = f"limit=130&order={order}"
            given = 0
            while asked:
                opened_segments.clear()
                page = api.post(f"/api/iot{path}?{asked}").get_json()
                assert len(opened_segments) <= 3
                given += len(page["data"])
                asked = f"limit=130&cursor={page['cursor']}" if page["cursor"] else ""
            assert given >= 2999  # the first page may have come before the start


@pytest.fixture(autouse=True)
def _no_restorer(request: pytest.FixtureRequest) -> None:
    """Stop the vault restorer, whose commands and statements would be counted."""
    if "api" in request.fixturenames:
        request.getfixturevalue("api").service.vault_restorer.close()


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statements that cursors send to Postgres; each is a round trip."""
    sent: list[str] = []
    plain, declared, fetch = (
        psycopg.Cursor.execute,
        psycopg.ServerCursor.execute,
        psycopg.ServerCursor.fetchmany,
    )

    def execute(cursor: Any, query: Any, *arguments: Any, **options: Any) -> Any:
        sent.append(str(query).strip())
        return plain(cursor, query, *arguments, **options)

    def declare(cursor: Any, query: Any, *arguments: Any, **options: Any) -> Any:
        sent.append("DECLARE")
        return declared(cursor, query, *arguments, **options)

    def fetchmany(cursor: Any, size: int = 0) -> Any:
        sent.append("FETCH")
        return fetch(cursor, size)

    monkeypatch.setattr(psycopg.Cursor, "execute", execute)
    monkeypatch.setattr(psycopg.ServerCursor, "execute", declare)
    monkeypatch.setattr(psycopg.ServerCursor, "fetchmany", fetchmany)
    return sent


@pytest.mark.parametrize(
    ("path", "most"),
    [("", 5), ("?limit=10", 2), ("/last/10", 2), ("/0?limit=10", 3), ("/0/1e15", 5)],
)
def test_statements_per_read(
    past: Past, api: Api, statements: list[str], path: str, most: int
) -> None:
    """One statement finds the segments; one more fetches each further batch of some hundred."""
    del past
    api.read(path)  # opens the vault
    statements.clear()
    assert api.read(path)
    # Not counted: the empty statement that checks a connection, the search for small segments to
    # merge after a vault is opened, and BEGIN with or without timeouts.
    counted = [
        each
        for each in statements
        if each and "octet_length" not in each and not each.startswith("BEGIN")
    ]
    assert len(counted) <= most, counted


def test_redis_commands_per_read_of_the_last_seconds(
    api: Api, writer: Writer, redis: "Redis", statements: list[str]
) -> None:
    """Redis reads: the drained position, its replication id, the coverage, the index, and the
    segments in batches of tens. Postgres gets no statement.
    """
    for n in range(20):
        api.put([row(interrogator_time=n)])
        drain_all(writer)
    assert len(api.read("/seconds/60")) == 20
    statements.clear()
    for path, most in (("/seconds/60", 8), ("/seconds/60?limit=3", 8)):
        before = commands(redis)
        assert api.read(path)
        assert commands(redis) - before - 1 <= most
    assert [each for each in statements if each and "octet_length" not in each] == []


def commands(redis: "Redis") -> int:
    """Return the number of commands that Redis has executed, including this one."""
    return int(redis.info("stats")["total_commands_processed"])
