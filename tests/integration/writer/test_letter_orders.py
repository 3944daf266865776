"""Orders for dead letters survive the death of a writer, and only this service can make them."""

import time

import pytest
from redis.exceptions import RedisError

from integration.writer.sending import Sender
from iot_models.audit_event import AuditKind, parse_event
from iot_stores.dead_letter_orders import DeadLetterOrders, LetterAction, LetterOrder
from iot_stores.stream_entries import WaitingEntry
from iot_tools.cli.main import main
from iot_writer import jobs
from iot_writer.writer import Writer
from support.clock import now
from support.draining import drain_all
from support.keys import KEYS

PASSWORD = b"p"


class KilledError(BaseException):
    """Ends a writer."""


@pytest.fixture
def orders(writer: Writer) -> DeadLetterOrders:
    return DeadLetterOrders(writer.redis, KEYS, writer.keys.current)


def set_aside(writer: Writer, sender: Sender, text: str = "kept") -> str:
    """Make a whole entry a dead letter. Return the letter's id."""
    shard, sealed = sender.seal(PASSWORD, [text])
    letters = writer.stores.dead_letters
    letters.add(
        shard,
        WaitingEntry(b"1-%d" % writer.redis.xlen(KEYS.dead_letters), sealed, 1, 0),
        "a reason",
    )
    return list(letters.all())[-1].letter_id


def order(letter_id: str, action: LetterAction) -> LetterOrder:
    return LetterOrder(letter_id, action, {"token": "operator", "client": "192.0.2.1"})


def recorded(writer: Writer) -> list[str]:
    """Return the kinds of the records in the audit log."""
    lines = [line for _, _, line in writer.audit.latest(writer.postgres(), 10)]
    return [str((parse_event(line) or {})["event"]) for line in lines]


@pytest.mark.parametrize("action", LetterAction)
@pytest.mark.parametrize("step", ["_audit.record", "_letters.drop", "_orders.remove"])
def test_a_killed_writer_loses_and_doubles_nothing(
    action: LetterAction,
    step: str,
    writer: Writer,
    sender: Sender,
    orders: DeadLetterOrders,
) -> None:
    letter_id = set_aside(writer, sender)
    orders.place(order(letter_id, action))

    def killed(*_: object) -> None:
        raise KilledError

    part, method = step.split(".")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(getattr(writer.letter_orders, part), method, killed)
        with pytest.raises(KilledError):
            writer.letter_orders.run(writer.postgres)
    kept = writer.stores.dead_letters.find(letter_id) is not None
    assert kept == (step != "_orders.remove")
    writer.letter_orders.run(writer.postgres)
    assert writer.stores.dead_letters.find(letter_id) is None
    assert orders.waiting() == {}
    kind = {
        LetterAction.DROP: AuditKind.DEAD_LETTER_DROPPED,
        LetterAction.REPLAY: AuditKind.DEAD_LETTER_REPLAYED,
    }[action]
    assert set(recorded(writer)) == {kind}
    drain_all(writer)
    assert sender.texts(PASSWORD) == (["kept"] if action is LetterAction.REPLAY else [])


def second(milliseconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(milliseconds // 1000))


@pytest.mark.parametrize("by", ["order", "command"])
@pytest.mark.usefixtures("command_environment")
def test_a_replay_keeps_the_time_of_receipt(
    by: str, writer: Writer, sender: Sender, orders: DeadLetterOrders
) -> None:
    begin = now()
    received, letters = begin - 3_600_000, writer.stores.dead_letters
    entries = {text: sender.seal(PASSWORD, [text]) for text in ("added", "released", "earlier")}
    shard, sealed = entries["added"]
    letters.add(shard, WaitingEntry(b"%d-0" % received, sealed, 1, 0), "a reason")
    shard, sealed = entries["released"]
    letters.add(shard, WaitingEntry(b"%d-1" % begin, sealed, 1, 0, received + 1000), "a reason")
    shard, sealed = entries["earlier"]  # an earlier version adds letters without the time
    fields = {"shard": shard, "id": f"{received + 2000}-0", "e": sealed, "reason": "a reason"}
    writer.redis.xadd(KEYS.dead_letters, fields)  # type: ignore[arg-type]
    for entry_id in (b"0-1", b"%d-0" % (begin + 3_600_000)):  # another program made the ids
        shard, sealed = sender.seal(PASSWORD, ["planted"])
        letters.add(shard, WaitingEntry(entry_id, sealed, 1, 0), "a reason")
    if by == "command":
        assert main(["dead", "replay", "--all"]) == 0
    else:
        for letter in letters.all():
            orders.place(order(letter.letter_id, LetterAction.REPLAY))
        writer.letter_orders.run(writer.postgres)
    drain_all(writer)
    assert letters.count() == 0
    readings = [(each.freeform, each.absolute_timestamp) for each in sender.readings(PASSWORD)]
    kept = [(text, second(received + 1000 * at)) for at, text in enumerate(entries)]
    assert readings[:3] == kept
    assert all(second(begin) <= moment <= second(now()) for _, moment in readings[3:])
    assert sender.last_seconds(PASSWORD, 600) == ["planted", "planted"]


def test_nobody_else_can_make_an_order(
    writer: Writer, sender: Sender, orders: DeadLetterOrders
) -> None:
    """Write access to Redis makes no order, and moves none to another letter."""
    first, second = set_aside(writer, sender), set_aside(writer, sender)
    orders.place(order(first, LetterAction.DROP))
    moved = writer.redis.hget(KEYS.dead_letter_orders, first)
    assert moved is not None
    planted = {first: b"[]", second: moved, "\udcff": moved, "x": b"", "9" * 40: moved}
    for name, value in planted.items():
        writer.redis.hset(KEYS.dead_letter_orders, name.encode(errors="surrogateescape"), value)
    writer.letter_orders.run(writer.postgres)
    assert writer.redis.xlen(KEYS.dead_letters) == 2
    assert recorded(writer) == []
    assert not writer.redis.exists(KEYS.dead_letter_orders)


def test_the_first_order_counts(writer: Writer, sender: Sender, orders: DeadLetterOrders) -> None:
    letter_id = set_aside(writer, sender)
    assert orders.place(order(letter_id, LetterAction.REPLAY)) is LetterAction.REPLAY
    assert orders.place(order(letter_id, LetterAction.DROP)) is LetterAction.REPLAY
    assert orders.actions() == {letter_id: LetterAction.REPLAY}


def test_the_sweep_goes_on_without_the_right_to_read_orders(
    writer: Writer, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user of Redis with the rights of an earlier version may not read them."""
    monkeypatch.setattr(jobs, "current", lambda: writer)
    writer.redis.set(KEYS.dead_letter_orders, "another type")
    with pytest.raises(RedisError):
        DeadLetterOrders(writer.redis, KEYS, writer.keys.current).waiting()
    sender.send(PASSWORD)
    assert jobs.sweep_shards() == 0


def test_an_order_for_a_letter_larger_than_the_backlog_stops_no_other(
    writer: Writer,
    sender: Sender,
    orders: DeadLetterOrders,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """`IOT_BACKLOG_MAX_BYTES` was lowered after the letter was set aside."""
    monkeypatch.setattr(jobs, "current", lambda: writer)
    monkeypatch.setattr(writer.backlog, "_max_bytes", 1)
    large, other = set_aside(writer, sender), set_aside(writer, sender)
    orders.place(order(large, LetterAction.REPLAY))
    orders.place(order(other, LetterAction.DROP))
    jobs.sweep_shards()
    assert orders.actions() == {large: LetterAction.REPLAY}
    assert f"dead letter {large} is larger than IOT_BACKLOG_MAX_BYTES" in caplog.text
    letter = writer.stores.dead_letters.find(large)
    assert letter is not None
    writer.stores.dead_letters.drop(letter)
    jobs.sweep_shards()
    assert orders.actions() == {}
