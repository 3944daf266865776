"""Appends whose greenlet is killed while it waits or while it sends for other greenlets.

`tests/system/test_greenlets.py` runs this file, because it needs threads that are greenlets.
"""

from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent import monkey
from redis.exceptions import ConnectionError as RedisConnectionError

from integration.stores.callers import PATIENCE, Callers, together
from iot_stores.backlog_append import AppendResult
from support.waiting import wait_until

Spawned = list[Any]
"""Greenlets; gevent has no types."""


class TooLongError(BaseException):
    """A timeout that is not an `Exception`, like those of gevent and gunicorn."""


@pytest.fixture
def callers(redis_url: str) -> Iterator[Callers]:
    """Callers of an empty backlog whose script is loaded in Redis."""
    assert monkey.is_module_patched("threading"), "threads are not greenlets"
    with Callers(redis_url) as made:
        made.backlog.append([])
        yield made


def kill(greenlet: Any) -> None:
    greenlet.kill(block=False)


def time_out(greenlet: Any) -> None:
    greenlet.kill(gevent.Timeout(), block=False)


def raise_other(greenlet: Any) -> None:
    greenlet.kill(TooLongError, block=False)


HOW = [kill, time_out, raise_other]
How = Callable[[Any], None]


def spawn(callers: Callers, number: int) -> Spawned:
    """Start appends in order: the first is under way while the others join the queue."""
    before = callers.pool.round_trips
    spawned = []
    for each in range(number):
        spawned.append(gevent.spawn(_append, callers, b"%d" % each))
        gevent.sleep(0)
    wait_until(lambda: callers.pool.round_trips == before + 1, what="the first round trip")
    gevent.sleep(0.05)
    return spawned


def _append(callers: Callers, sealed: bytes) -> AppendResult | BaseException:
    try:
        return callers.append(sealed)
    except BaseException as error:  # noqa: BLE001 - the result of the test
        return error


def kinds(spawned: Spawned) -> list[type]:
    """Return the type of each outcome, in order; fail if an append still waits."""
    gevent.joinall(spawned, timeout=PATIENCE)
    assert all(each.ready() for each in spawned)
    return [type(each.value) for each in spawned]


def check_backlog_works(callers: Callers) -> None:
    """Check that the backlog accepts more appends and that each caller gets its own result."""
    outcomes = together(20, lambda number: callers.append(b"%d after" % number))
    assert [type(each) for each in outcomes] == [AppendResult] * 20
    entries = callers.entries()
    assert sum(each.endswith(b"after") for each in entries) == 20
    ends = [next(iter(each.ends.values())) for each in outcomes if isinstance(each, AppendResult)]
    told = {(n % 4, end) for n, end in enumerate(ends)}
    found = {(shard, end) for shard in range(4) for end, _ in callers.stream(shard)}
    assert told <= found


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("killed", [1, 3, 5])
def test_a_killed_waiting_caller_stores_no_entry(callers: Callers, how: How, killed: int) -> None:
    """The killed greenlet is the first, a middle or the last in the queue."""
    with callers.held_up():
        spawned = spawn(callers, 6)
        how(spawned[killed])
        gevent.sleep(0.01)
        assert spawned[killed].ready()
    became = kinds(spawned)
    assert became.pop(killed) not in {AppendResult, RedisConnectionError}
    assert became == [AppendResult] * 5
    assert b"%d" % killed not in callers.entries()
    assert len(callers.entries()) == 5
    check_backlog_works(callers)


@pytest.mark.parametrize("how", HOW)
def test_killed_waiting_callers_store_no_entries(callers: Callers, how: How) -> None:
    with callers.held_up():
        first, *others = spawn(callers, 6)
        for each in others:
            how(each)
        gevent.sleep(0.01)
    assert kinds([first]) == [AppendResult]
    assert AppendResult not in kinds(others)
    assert callers.entries() == [b"0"]
    check_backlog_works(callers)


@pytest.mark.parametrize("how", HOW)
def test_a_killed_sender_with_one_entry_hands_over(callers: Callers, how: How) -> None:
    with callers.held_up():
        first, *others = spawn(callers, 6)
        how(first)
        gevent.sleep(0.01)
        assert first.ready()
    assert kinds([first])[0] not in {AppendResult, RedisConnectionError}
    assert kinds(others) == [AppendResult] * 5
    check_backlog_works(callers)


@pytest.mark.parametrize("how", HOW)
def test_a_killed_sender_of_a_group_fails_the_group(callers: Callers, how: How) -> None:
    """Waiting callers get an error that becomes status 503, not the exception of the sender."""
    with callers.held_up():
        first, sender, *others = spawn(callers, 6)
        kill(first)
        wait_until(first.ready, what="the end of the first append")
        gevent.sleep(0.01)
        late = gevent.spawn(_append, callers, b"9")
        gevent.sleep(0.01)
        how(sender)
        gevent.sleep(0.01)
    assert kinds([sender])[0] not in {AppendResult, RedisConnectionError}
    assert kinds(others) == [RedisConnectionError] * 4
    assert kinds([late]) == [AppendResult]
    check_backlog_works(callers)


@pytest.mark.parametrize("how", HOW)
def test_a_sender_killed_at_its_election_blocks_no_caller(
    callers: Callers, how: How, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sender is killed after the previous sender elects it and before it runs."""
    commit: Any = vars(callers.backlog)["_groups"]
    elect = commit._elect_sender  # noqa: SLF001 - the tested moment
    spawned: Spawned = []
    elected: list[bool] = []

    def elect_and_kill() -> None:
        if not elected and len(spawned) == 6:
            elected.append(True)
            how(spawned[1])  # takes effect after the election, and before the wake-up
        elect()

    monkeypatch.setattr(commit, "_elect_sender", elect_and_kill)
    with callers.held_up():
        spawned += spawn(callers, 6)
    became = kinds(spawned)
    assert elected
    assert became.pop(1) not in {AppendResult, RedisConnectionError}
    assert became == [AppendResult] * 5
    check_backlog_works(callers)


def test_kills_at_any_moment_block_no_caller(callers: Callers) -> None:
    """Half of the appends are killed shortly after their start; the others get a result."""
    fates: list[tuple[bytes, Any]] = []

    def go_on(caller: int) -> None:
        for step in range(30):
            sealed = b"%d of many" % (caller * 30 + step)
            greenlet = gevent.spawn(_append, callers, sealed)
            if (caller + step) % 2:
                gevent.sleep(0.0002 * (step % 10))
                kill(greenlet)
            gevent.joinall([greenlet], timeout=PATIENCE)
            assert greenlet.ready()
            fates.append((sealed, greenlet.value))

    assert together(20, go_on) == [None] * 20
    answered = {sealed for sealed, fate in fates if isinstance(fate, AppendResult)}
    refused = {sealed for sealed, fate in fates if isinstance(fate, RedisConnectionError)}
    found = callers.entries()
    assert len(found) == len(set(found))
    assert answered <= set(found)
    assert len(answered) + len(refused) >= 300
    check_backlog_works(callers)
