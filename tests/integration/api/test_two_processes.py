"""Two API processes: each sees the changes made through the other."""

import threading
from collections.abc import Callable

import psycopg
from redis import Redis

from integration.api.asking import row
from integration.api.conftest import MakeApi
from iot_writer.writer import Writer
from support.draining import drain_all


def test_a_process_reads_readings_acknowledged_by_another(
    make_api: MakeApi, writer: Writer
) -> None:
    one, two = make_api(), make_api()
    one.put(row(interrogator_time=1))
    two.put(row(interrogator_time=2))
    drain_all(writer)
    for path in ("", "/-1", "/last/2", "/seconds/60"):
        assert len(one.read(path)) == 2
        assert one.read(path) == two.read(path)


def test_a_process_started_later_reads_everything(
    make_api: MakeApi, writer: Writer, redis: "Redis"
) -> None:
    make_api().put(row())
    drain_all(writer)
    redis.flushall()
    assert len(make_api().read()) == 1


def test_a_missing_vault_is_not_cached(make_api: MakeApi, writer: Writer) -> None:
    """A missing vault is looked up again at the next request."""
    one, two = make_api(), make_api()
    assert one.read() == []
    two.put(row())
    drain_all(writer)
    assert len(one.read()) == 1


def test_concurrent_puts_with_one_password_create_one_vault(
    make_api: MakeApi, writer: Writer, postgres: psycopg.Connection
) -> None:
    apis = [make_api() for _ in range(4)]
    together = threading.Barrier(12)
    statuses: list[int] = []

    def put(number: int) -> None:
        together.wait(10)
        statuses.append(apis[number % 4].put(row("new", freeform=number)).status_code)

    in_threads(put, 12)
    assert statuses == [201] * 12
    assert postgres.execute("SELECT count(*) FROM vaults").fetchone() == (1,)
    drain_all(writer)
    assert {int(each["freeform"]) for each in make_api().read(password="new")} == set(range(12))


def test_concurrent_clients_read_only_their_own_readings(make_api: MakeApi, writer: Writer) -> None:
    """Concurrent clients use different passwords and never get the readings of others."""
    api = make_api()

    def put(number: int) -> None:
        for turn in range(5):
            rows = [row(f"p{number}", freeform=[number, turn, n]) for n in range(20)]
            assert api.put(rows).status_code == 201

    in_threads(put, 8)
    drain_all(writer)
    wrong: list[object] = []

    def read(number: int) -> None:
        texts = [each["freeform"] for each in api.read(password=f"p{number}")]
        if texts != [f"[{number}, {turn}, {n}]" for turn in range(5) for n in range(20)]:
            wrong.append((number, texts))

    in_threads(read, 8)
    assert wrong == []


def in_threads(work: Callable[[int], None], count: int) -> None:
    failed: list[BaseException] = []

    def run(number: int) -> None:
        try:
            work(number)
        except BaseException as error:  # noqa: BLE001 - raised in the thread of the test
            failed.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failed == []
