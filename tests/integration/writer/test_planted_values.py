"""Planted values in Redis stop no drain, and make no stored reading unreadable."""

from typing import Any

import pytest

from integration.writer.sending import Sender
from integration.writer.test_held_entries import bring_back, lose
from iot_stores.dead_letters import DeadLetters
from iot_tools.cli.main import main
from iot_writer.maintenance import sweep
from iot_writer.ticker import EVERY_SECONDS, Ticker
from iot_writer.writer import Writer
from support.draining import drain_all
from support.keys import KEYS

PASSWORD = b"p"
LONG = "9" * 5000
"""More digits than Python converts."""


@pytest.mark.parametrize(
    "planted", [str(2**52), str(2**53 - 1), "1" + "0" * 18, str(2**63 - 2), "9" * 19, LONG]
)
def test_a_planted_next_id_is_not_used(writer: Writer, sender: Sender, planted: str) -> None:
    """Nobody could read a segment whose ids are above all ids."""
    sender.send(PASSWORD)
    drain_all(writer)
    counter = f"next:{sender.shard(PASSWORD)}"
    sound = int(sender.redis.hget(KEYS.backlog_counters, counter) or 0)
    for _ in range(2):
        sender.redis.hset(KEYS.backlog_counters, counter, planted)
        sender.send(PASSWORD)
        drain_all(writer)
    writer.repair_redis()
    sender.send(PASSWORD)
    drain_all(writer)
    sender.check_all()
    assert sound < int(sender.redis.hget(KEYS.backlog_counters, counter) or 0) < sound + 1000


def test_the_next_drain_repairs_a_planted_position(writer: Writer, sender: Sender) -> None:
    """Until then, the hot window is not used, and Postgres seems to be restored."""
    sender.send(PASSWORD)
    drain_all(writer)
    shard = sender.shard(PASSWORD)
    sender.redis.hset(KEYS.backlog_counters, f"at:{shard}", "99999999999999-0")
    assert writer.stores.hot_window.covers([shard]) == {shard: 0}
    sender.send(PASSWORD)
    drain_all(writer)
    assert writer.stores.hot_window.covers([shard])[shard] > 0
    sender.check_all()


@pytest.mark.parametrize("idle", [False, True])
@pytest.mark.parametrize("planted", ["x", "", LONG])
def test_a_cover_with_a_planted_field_is_replaced(
    writer: Writer, sender: Sender, planted: str, idle: bool
) -> None:
    """`idle`: no drain of the shard follows."""
    sender.send(PASSWORD)
    drain_all(writer)
    window, shard = writer.stores.hot_window, sender.shard(PASSWORD)
    for field in ("position", "since", "seconds"):
        sender.redis.hset(KEYS.hot_cover(shard), field, planted)
        assert window.covers([shard]) == {shard: 0}
        assert window.recent([shard], []).before == {}
        assert window.outdated([shard]) == [shard]
        if idle:
            writer.outdated_covers.replace()
        else:
            sender.send(PASSWORD)
            drain_all(writer)
        assert window.outdated([shard]) == []
        assert sender.redis.hget(KEYS.hot_cover(shard), field) != planted.encode()
        assert sender.last_seconds(PASSWORD, 200) == sender.texts(PASSWORD)


@pytest.mark.parametrize("counter", ["at:{}", "in:{}", "out:{}", "in:" + LONG])
def test_a_drain_ignores_a_counter_with_too_many_digits(
    writer: Writer, sender: Sender, counter: str
) -> None:
    sender.send(PASSWORD)
    planted = counter.format(sender.shard(PASSWORD))
    sender.redis.hset(KEYS.backlog_counters, planted, LONG + "-0" * ("at" in counter))
    drain_all(writer)
    sweep.sweep(writer.backlog)
    writer.repair_redis()
    sender.send(PASSWORD)
    drain_all(writer)
    sender.check_all()


@pytest.mark.parametrize("field", ["t", "r"])
def test_an_entry_with_too_many_digits_delays_no_other_entry(
    writer: Writer, sender: Sender, field: str
) -> None:
    fields: dict[Any, Any] = {"e": b"no entry", "t": "1", field: LONG}
    sender.redis.xadd(KEYS.stream(sender.shard(PASSWORD)), fields)
    sender.send(PASSWORD)
    drain_all(writer)
    sender.check_all()
    assert len(list(DeadLetters(writer.redis, KEYS).all())) == 1


def test_a_planted_job_does_not_stop_the_drains(writer: Writer, sender: Sender) -> None:
    sender.redis.rpush(KEYS.job_list, "drain-" + LONG, "drain-7")
    assert writer.backlog.take_drains() == [7]


@pytest.mark.parametrize("planted", [LONG, "not a time", "0"])
def test_a_planted_tick_is_replaced(writer: Writer, sender: Sender, planted: str) -> None:
    """The planted key has no expiry."""
    for job in EVERY_SECONDS:
        sender.redis.set(KEYS.tick(job), planted)
    Ticker(writer).tick()
    assert sender.redis.llen(KEYS.job_list) == len(EVERY_SECONDS)


@pytest.mark.usefixtures("command_environment")
@pytest.mark.parametrize(
    "fields", [{"x": "y"}, {"shard": LONG, "id": "a-b", "e": b"\xff", "reason": b"\xff"}]
)
def test_a_planted_dead_letter_can_be_dropped(
    writer: Writer, sender: Sender, fields: dict[Any, Any]
) -> None:
    sender.redis.xadd(KEYS.dead_letters, fields)
    writer.postgres().execute(
        "INSERT INTO erased_vaults (vault_id, lookups) VALUES (gen_random_uuid(), '{}')"
    )
    writer.vault_deletion.run(writer.postgres())
    assert main(["dead", "list"]) == 0
    assert main(["dead", "replay", "--all"]) == 0
    drain_all(writer)
    letters = DeadLetters(writer.redis, KEYS)
    (letter,) = letters.all()
    assert "unknown format" in letter.reason
    assert main(["dead", "drop", letter.letter_id]) == 0
    assert list(letters.all()) == letters.oldest(9) == []


@pytest.mark.usefixtures("command_environment", "writer")
def test_the_reason_of_a_planted_dead_letter_does_not_control_the_terminal(
    sender: Sender, capsys: pytest.CaptureFixture[str]
) -> None:
    letter = sender.redis.xadd(KEYS.dead_letters, {"reason": "\x1b]0;planted\x07\nsecond line"})
    assert isinstance(letter, bytes)
    assert main(["dead", "list"]) == main(["dead", "show", letter.decode()]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "planted" in line] == [
        lines[0], "reason    ?]0;planted??second line",
    ]  # fmt: skip
    assert lines[0].endswith("?]0;planted??second line")


def test_a_planted_held_entry_does_not_stop_the_release(writer: Writer, sender: Sender) -> None:
    vault_id = sender.vault(PASSWORD).vault_id
    lose(writer, vault_id)
    planted: list[dict[Any, Any]] = [{"x": "y"}, {"shard": "256", "e": "", "r": ""}]
    for fields in planted:
        sender.redis.xadd(KEYS.held_entries(vault_id.bytes), fields)
    sender.send(PASSWORD)
    drain_all(writer)
    bring_back(writer)
    sweep.release_held(writer.held, writer.postgres)
    drain_all(writer)
    sender.check_all()
    assert len(list(DeadLetters(writer.redis, KEYS).all())) == len(planted)
