"""A drain that stops at any step loses no reading and stores none twice."""

from collections.abc import Callable
from typing import Any

import pytest

from integration.writer.sending import Sender
from iot_stores import history, ledger
from iot_writer.drain.drain import DrainOutcome
from iot_writer.writer import Writer
from support.draining import drain_all


class _Stop(Exception):  # noqa: N818 - not an error: the end of the process
    """The end of the writer process."""


def _stop(*_: object, **__: object) -> None:
    raise _Stop


def _stop_after(original: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> None:
        original(*arguments, **named)
        raise _Stop

    return call


def _after_read(writer: Writer, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(writer.drain, "_store", _stop)


def _after_lock(writer: Writer, patch: pytest.MonkeyPatch) -> None:
    del writer
    patch.setattr(ledger, "begin_drain", _stop_after(ledger.begin_drain))


def _after_insert(writer: Writer, patch: pytest.MonkeyPatch) -> None:
    del writer
    patch.setattr(history, "insert", _stop_after(history.insert))


def _before_commit(writer: Writer, patch: pytest.MonkeyPatch) -> None:
    """Stop as if Postgres had lost the connection between the last statement and COMMIT."""
    del writer
    save = ledger.save

    def roll_back(*arguments: Any, **named: Any) -> None:
        save(*arguments, **{**named, "commit": False})

    patch.setattr(ledger, "save", _stop_after(roll_back))


def _before_the_answer_to_commit(writer: Writer, patch: pytest.MonkeyPatch) -> None:
    del writer
    patch.setattr(ledger, "save", _stop_after(ledger.save))


def _after_commit(writer: Writer, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(writer.drain._hot_window, "write", _stop)  # noqa: SLF001 - the step to stop at


def _after_hot_window(writer: Writer, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(writer.backlog, "remove", _stop)


def _after_remove(writer: Writer, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(writer.backlog, "remove", _stop_after(writer.backlog.remove))


STEPS = {
    step.__name__.strip("_"): step
    for step in (
        _after_read,
        _after_lock,
        _after_insert,
        _before_commit,
        _before_the_answer_to_commit,
        _after_commit,
        _after_hot_window,
        _after_remove,
    )
}


COMMITTED = {"before_the_answer_to_commit", "after_commit"}
"""Steps after the commit and before the hot window."""


@pytest.mark.parametrize("stops", [1, 3])
@pytest.mark.parametrize("step", STEPS)
def test_the_next_drain_completes_an_interrupted_drain(
    step: str, stops: int, writer: Writer, sender: Sender
) -> None:
    passwords = [b"a", b"b", b"c"]
    for password in passwords:
        sender.send(password, 3)
    drain_all(writer)
    for password in passwords:
        sender.send(password, 2)
        sender.send(password, 5)
    for _ in range(stops):
        with pytest.MonkeyPatch.context() as patch:
            STEPS[step](writer, patch)
            with pytest.raises(_Stop):
                writer.drain.run(writer.postgres(), [sender.shard(b"a")])
        if step not in COMMITTED:  # the hot window lacks the segments until the next drain
            _sees_what_is_stored(sender, passwords)
        sender.send(b"a", 1)
    drain_all(writer)
    sender.check_all()
    _sees_what_is_stored(sender, passwords)
    assert sender.waiting() == 0
    assert sender.backlog.state().bytes == 0
    assert sender.backlog.state().dead_letters == 0


def _sees_what_is_stored(sender: Sender, passwords: list[bytes]) -> None:
    for password in passwords:
        assert sender.last_seconds(password, 60) == sender.texts(password)


def test_a_drain_of_stored_entries_is_reported_as_repeated(writer: Writer, sender: Sender) -> None:
    sender.send(b"a", 3)
    shard = sender.shard(b"a")
    with pytest.MonkeyPatch.context() as patch:
        _after_commit(writer, patch)
        with pytest.raises(_Stop):
            writer.drain.run(writer.postgres(), [shard])
    assert sender.waiting() == 1
    assert writer.drain.run(writer.postgres(), [shard]).outcomes == {shard: DrainOutcome.REPEATED}
    assert sender.waiting() == 0
