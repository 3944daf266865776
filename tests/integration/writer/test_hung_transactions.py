"""A process that hangs in a transaction delays others only until Postgres ends the transaction."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from integration.writer.sending import SENDER, Sender
from iot_models.settings import Settings
from iot_stores import postgres as postgres_connections
from iot_stores import segment_erasure
from iot_stores.audit import AuditLog
from iot_stores.months import DAY_MS
from iot_stores.postgres import Connection, connect_postgres
from iot_writer.maintenance.retention import enforce
from iot_writer.writer import Writer
from support.clock import now
from support.draining import drain_all

PASSWORD = b"p"
SHOW = "SHOW idle_in_transaction_session_timeout"


@pytest.fixture(autouse=True)
def short_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = "SET LOCAL idle_in_transaction_session_timeout = '300ms'"
    monkeypatch.setattr(postgres_connections, "IDLE_LIMIT", limit)


@contextmanager
def hanging_at_its_record(work: Callable[[], object]) -> Iterator[list[BaseException]]:
    """Run `work` in a thread that hangs before it adds its audit record, until the block ends.

    Yield a list that has the error of `work` after the block.
    """
    hangs, continues, errors = threading.Event(), threading.Event(), list[BaseException]()
    seal = AuditLog.seal

    def hang(*arguments: Any) -> bytes:
        hangs.set()
        assert continues.wait(30)
        return seal(*arguments)

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AuditLog, "seal", hang)
        thread.start()
        assert hangs.wait(10)
        patch.undo()
        yield errors
    continues.set()
    thread.join(10)
    assert not thread.is_alive()


def test_reads_and_drains_outlast_a_writer_that_hangs_in_retention(
    writer: Writer, sender: Sender, settings: Settings
) -> None:
    """It holds the lock of the table `segments`, and has dropped a month."""
    sender.send_received(PASSWORD, now() - 100 * DAY_MS)
    sender.send(PASSWORD)
    drain_all(writer)

    def retention(connection: Connection) -> int:
        return enforce(connection, writer.audit, days=30, redis_now=now())

    hung = connect_postgres(settings, name="hung writer")
    with hung, hanging_at_its_record(lambda: retention(hung)) as errors:
        sender.send(PASSWORD)
        drain_all(writer)
        assert sender.texts(PASSWORD) == ["0", "1", "2"]  # nothing was dropped
    assert isinstance(errors[0], psycopg.errors.IdleInTransactionSessionTimeout)
    assert retention(writer.postgres()) == 1
    assert sender.texts(PASSWORD) == ["1", "2"]


def test_drains_outlast_an_api_process_that_hangs_in_the_erasure_of_a_vault(
    writer: Writer, sender: Sender
) -> None:
    sender.send(PASSWORD)
    drain_all(writer)
    eraser = sender.service.vault_eraser
    with hanging_at_its_record(lambda: eraser.erase(PASSWORD, SENDER)) as errors:
        sender.send(PASSWORD)
        sender.send(b"another")
        drain_all(writer)
        assert sender.texts(b"another") == ["0"]
    assert not errors  # the process repeats its transaction
    assert sender.service.vaults.find(PASSWORD, SENDER) is None


def test_the_limit_holds_up_to_the_commit_of_an_erasure(
    writer: Writer, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last statement resets all settings of the session."""
    sender.send(PASSWORD)
    drain_all(writer)
    connection, limits = writer.postgres(), list[object]()
    vault_id = sender.vault(PASSWORD).vault_id
    segments = segment_erasure.find(connection, vault_id, 0, 10)
    execute = connection.execute

    def executed(*arguments: Any, **options: Any) -> Any:
        answer = execute(*arguments, **options)
        limits.append(execute(SHOW).fetchone())
        return answer

    monkeypatch.setattr(connection, "execute", executed)
    assert segment_erasure.erase(connection, vault_id, segments) == (1, 1)
    assert limits == [("300ms",), ("300ms",), ("10s",)]
    assert execute(SHOW).fetchone() == ("0",)
