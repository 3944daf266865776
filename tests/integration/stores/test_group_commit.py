"""Concurrent appends share round trips, and each caller gets its own result.

`tests/system/test_greenlets.py` runs these tests again with threads that are greenlets, as in the
API.
"""

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from integration.stores.callers import PATIENCE, SHARDS, Callers, shard_of, together
from iot_models.errors import UnavailableError
from iot_models.settings import Settings
from iot_stores import backlog_append, scripts
from iot_stores.append_conditions import Guard, RememberedRequest
from iot_stores.append_outcomes import GuardLimitError
from iot_stores.backlog import Backlog
from iot_stores.backlog_append import MAX_BYTES, AppendResult
from iot_stores.confirmation import Confirmation
from iot_stores.redis_client import connect_redis
from iot_tools.local.redis_server import RedisServer
from support.keys import KEYS
from support.waiting import wait_until
from system.reliability.redis_group import Group

CALLERS = 50
REQUEST = RememberedRequest(
    ("iot:test:request", "iot:test:other"), 60, b"1 first", 1000, "iot:test:count", 1000
)


@pytest.fixture
def callers(redis_url: str) -> Iterator[Callers]:
    """Callers of an empty backlog whose script is loaded in Redis."""
    with Callers(redis_url) as made:
        made.backlog.append([])
        yield made


def numbered(number: int, size: int = 0) -> bytes:
    """Return an entry; all lengths differ, so that each entry has a different end."""
    return (b"%d " % number).ljust(max(size, 10 + number), b"x")


def check_ends(callers: Callers, sent: dict[bytes, AppendResult]) -> None:
    """Check that each entry is stored once and that its caller got the end of the entry."""
    found = {}
    for shard in range(SHARDS):
        for end, sealed in callers.stream(shard):
            assert sealed not in found
            found[sealed] = {shard: end}
    assert {sealed: appended.ends for sealed, appended in sent.items()} == found


def test_a_single_caller_needs_one_round_trip(callers: Callers) -> None:
    for number in range(5):
        before = callers.pool.round_trips
        callers.append(numbered(number))
        assert callers.pool.round_trips == before + 1


def test_groups_share_a_connection_until_the_pool_replaces_it(
    callers: Callers, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[Any] = []
    take = callers.pool.get_connection

    def counted() -> Any:
        taken.append(take())
        return taken[-1]

    monkeypatch.setattr(callers.pool, "get_connection", counted)
    monkeypatch.setattr(backlog_append, "CHECK_SECONDS", PATIENCE)
    for number in range(3):
        callers.append(numbered(number))
    assert len(taken) <= 1  # the fixture may have taken it
    before = callers.redis.client_list(_type="normal")
    callers.pool.update_active_connections_for_reconnect()  # as after a failover
    callers.append(numbered(3))
    callers.append(numbered(4))
    assert len(taken) <= 2
    after = {each["id"] for each in callers.redis.client_list(_type="normal")}
    assert after - {each["id"] for each in before}, "the old connection is used on"
    monkeypatch.setattr(backlog_append, "CHECK_SECONDS", 0)
    callers.append(numbered(5))
    count = len(taken)
    callers.append(numbered(6))
    assert len(taken) == count + 1
    callers.backlog.release_idle_connection()
    # Idle connections of the pool are closed after a failover, even if no append follows.
    callers.pool.disconnect(inuse_connections=False)
    assert not any(each.is_connected for each in taken)


def test_concurrent_callers_share_the_next_round_trip(callers: Callers) -> None:
    calls = [partial(callers.append, numbered(number)) for number in range(CALLERS)]
    round_trips, outcomes = callers.round_trips(calls)
    assert round_trips == 1
    assert all(isinstance(each, AppendResult) for each in outcomes)


def test_each_caller_gets_the_ends_of_its_entries(callers: Callers) -> None:
    """Hundreds of appends by many callers get the right ends, in few round trips."""
    sent: dict[bytes, AppendResult] = {}

    def go_on(caller: int) -> None:
        for step in range(20):
            sealed = numbered(caller * 20 + step)
            sent[sealed] = callers.append(sealed)

    before = callers.pool.round_trips
    assert together(CALLERS, go_on) == [None] * CALLERS
    assert len(sent) == CALLERS * 20
    round_trips = callers.pool.round_trips - before
    print(f"{CALLERS * 20} appends of {CALLERS} callers took {round_trips} round trips")
    assert round_trips < CALLERS * 20 / 2
    check_ends(callers, sent)


def test_a_full_backlog_refuses_only_entries_that_do_not_fit(
    redis_url: str, resources: ExitStack
) -> None:
    callers = resources.enter_context(Callers(redis_url, max_bytes=5000))
    callers.backlog.append([])
    sizes = [100, 6 * 700, 200, 4000, 300]
    calls = [partial(callers.append, numbered(n, size)) for n, size in enumerate(sizes)]
    round_trips, outcomes = callers.round_trips(calls)
    assert round_trips == 1
    taken = [s for s, each in zip(sizes, outcomes, strict=True) if isinstance(each, AppendResult)]
    refused = [each for each in outcomes if isinstance(each, Exception)]
    assert {type(each) for each in refused} == {UnavailableError}
    assert {"full" in str(each) for each in refused} == {True}
    # The first large entry fits; both together do not fit.
    assert len(refused) == 1
    assert {100, 200, 300} < set(taken)
    assert sorted(map(len, callers.entries())) == sorted([*taken, len(b"0 is under way")])


def test_a_remembered_request_in_a_group_is_taken_once(callers: Callers) -> None:
    calls = [
        partial(callers.append, numbered(number), request=REQUEST if number % 2 else None)
        for number in range(20)
    ]
    round_trips, outcomes = callers.round_trips(calls)
    assert round_trips == 1
    answers = [each.first_answer for each in outcomes if isinstance(each, AppendResult)]
    assert sorted(map(str, answers)) == sorted(["None"] * 11 + [str(REQUEST.answer)] * 9)
    assert len(callers.entries()) == 1 + 11
    again = callers.append(numbered(99), request=REQUEST)
    assert again == AppendResult(first_answer=REQUEST.answer)


def test_a_flushed_script_is_loaded_again(callers: Callers) -> None:
    callers.redis.script_flush()
    calls = [partial(callers.append, numbered(number)) for number in range(20)]
    round_trips, outcomes = callers.round_trips(calls)
    assert round_trips <= 2
    assert {type(each) for each in outcomes} == {AppendResult}
    assert len(callers.entries()) == 21


def test_appends_survive_repeated_script_flushes(callers: Callers) -> None:
    sent: dict[bytes, AppendResult] = {}
    over = threading.Event()

    def go_on(caller: int) -> None:
        if caller == 0:
            while not over.is_set():
                callers.redis.script_flush()
            return
        try:
            for step in range(30):
                sealed = numbered(caller * 30 + step)
                sent[sealed] = callers.append(sealed)
        finally:
            if caller == 1:
                over.set()

    assert together(10, go_on) == [None] * 10
    assert len(sent) == 9 * 30
    check_ends(callers, sent)


def test_broken_connections_are_retried(settings: Settings, callers: Callers) -> None:
    """No acknowledged entry is lost; an entry that is stored twice has the same bytes."""
    client = connect_redis(settings)
    backlog = Backlog(client, KEYS, shards=SHARDS, max_bytes=2**30)
    acknowledged: list[bytes] = []
    failed: list[bytes] = []
    over = threading.Event()

    def go_on(caller: int) -> None:
        if caller == 0:
            while not over.is_set():
                callers.redis.client_kill_filter(_type="normal", skipme=True)
                time.sleep(0.01)
            return
        try:
            for step in range(60):
                sealed = numbered(caller * 60 + step)
                try:
                    backlog.append([(shard_of(sealed), sealed)])
                    acknowledged.append(sealed)
                except RedisConnectionError:
                    failed.append(sealed)  # three attempts failed
        finally:
            if caller == 1:
                over.set()

    assert together(12, go_on) == [None] * 12
    client.close()
    assert len(acknowledged) + len(failed) == 11 * 60
    assert len(acknowledged) > 300
    found = callers.entries()
    assert set(acknowledged) <= set(found) <= {*acknowledged, *failed}
    held = sum(map(len, found))
    assert backlog_bytes(callers) == held


@pytest.mark.parametrize("forgotten", [False, True])
@pytest.mark.parametrize("guards", [(), (Guard("iot:test:guesses", 1),)])
def test_a_refusal_of_a_group_that_was_sent_again_does_not_say_that_nothing_was_stored(
    settings: Settings,
    callers: Callers,
    monkeypatch: pytest.MonkeyPatch,
    guards: tuple[Guard, ...],
    *,
    forgotten: bool,
) -> None:
    """The first copy was stored, and its answer was lost with the connection."""
    client = connect_redis(settings)
    backlog = Backlog(client, KEYS, shards=SHARDS, max_bytes=1000 if guards else 100)
    read = scripts._answer  # noqa: SLF001 - the step to act at
    lost: list[Any] = []

    def lose_first(connection: Any) -> Any:
        answer = read(connection)
        if isinstance(answer, list) and not lost:
            lost.append(answer)
            callers.redis.set("iot:test:guesses", 1)
            raise RedisConnectionError("broken")
        return answer

    backlog.append([])
    for module in (backlog_append, scripts):
        monkeypatch.setattr(module, "_answer", lose_first)
    if forgotten:
        callers.redis.script_flush()
    with pytest.raises(UnavailableError, match="it is unknown whether the readings are stored"):
        backlog.append([(0, b"x" * 60)], guards=guards)
    assert callers.entries() == [b"x" * 60]
    with pytest.raises(GuardLimitError if guards else UnavailableError):
        backlog.append([(0, b"x" * 60)], guards=guards)
    client.close()


def backlog_bytes(callers: Callers) -> int:
    return callers.backlog.state().bytes


def test_all_callers_get_an_error_while_redis_is_away(
    own_redis: RedisServer, resources: ExitStack
) -> None:
    callers = resources.enter_context(Callers(own_redis.url))
    callers.backlog.append([])
    own_redis.kill()
    wait_until(lambda: not own_redis.running, what="the end of Redis")
    outcomes = together(CALLERS, lambda number: callers.append(numbered(number)))
    assert {type(each) for each in outcomes} == {RedisConnectionError}
    with pytest.raises(RedisConnectionError):
        callers.append(numbered(0))
    own_redis.start()
    sent = together(CALLERS, lambda number: callers.append(numbered(number)))
    assert {type(each) for each in sent} == {AppendResult}
    assert sorted(callers.entries()) == sorted(map(numbered, range(CALLERS)))


def test_all_callers_get_an_error_when_redis_does_not_answer(
    redis_url: str, resources: ExitStack
) -> None:
    callers = resources.enter_context(Callers(redis_url, socket_timeout=0.5))
    callers.backlog.append([])
    with callers.held_up():
        outcomes = together(20, lambda number: callers.append(numbered(number)))
    assert all(isinstance(each, RedisError) for each in outcomes)
    assert isinstance(callers.append(numbered(77)), AppendResult)


def test_a_large_group_is_split(callers: Callers) -> None:
    size = MAX_BYTES // 3 - 1000
    calls = [partial(callers.append, numbered(number, size)) for number in range(10)]
    round_trips, outcomes = callers.round_trips(calls)
    assert round_trips == 4
    assert {type(each) for each in outcomes} == {AppendResult}


def test_an_entry_larger_than_a_group_is_sent_alone(callers: Callers) -> None:
    calls = [partial(callers.append, numbered(number, MAX_BYTES + 1)) for number in range(3)]
    round_trips, outcomes = callers.round_trips(calls)
    assert round_trips == 3
    assert {type(each) for each in outcomes} == {AppendResult}
    assert len(callers.entries()) == 4


def test_a_caller_elected_before_it_waits_gets_a_result(
    callers: Callers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sender may elect a caller that is registered but does not wait yet."""

    class Slow(deque[Any]):
        """A queue that lets all other threads run first when it has got a request."""

        def append(self, request: Any) -> None:
            super().append(request)
            time.sleep(0.005)

    commit: Any = vars(callers.backlog)["_groups"]
    monkeypatch.setattr(commit, "_queue", Slow())
    sent: dict[bytes, AppendResult] = {}

    def go_on(caller: int) -> None:
        for step in range(20):
            sealed = numbered(caller * 20 + step)
            sent[sealed] = callers.append(sealed)

    assert together(8, go_on) == [None] * 8
    check_ends(callers, sent)


def test_a_group_waits_once_for_its_replicas(tmp_path: Path, resources: ExitStack) -> None:
    """One WAIT follows a group and covers all its entries."""
    group = Group(tmp_path / "pair", replicas=1, sentinels=0)
    try:
        callers = resources.enter_context(Callers(group.url))
        callers.backlog = Backlog(
            callers.client,
            KEYS,
            shards=SHARDS,
            max_bytes=2**30,
            confirmation=Confirmation(replicas=1),
        )
        callers.backlog.append([])
        before = waits(callers.redis)
        calls = [partial(callers.append, numbered(number)) for number in range(20)]
        round_trips, outcomes = callers.round_trips(calls)
        assert {type(each) for each in outcomes} == {AppendResult}
        assert (round_trips, waits(callers.redis) - before) == (1, 2)
        with group.replica.client() as replica:
            assert sum(replica.xlen(KEYS.stream(shard)) for shard in range(SHARDS)) == 21
        group.replica.kill()
        outcomes = together(20, lambda number: callers.append(numbered(100 + number)))
        assert {type(each) for each in outcomes} == {UnavailableError}
        assert {"0 of 1 replicas" in str(each) for each in outcomes} == {True}
    finally:
        group.stop()


def waits(client: "Redis") -> int:
    stats: Any = client.info("commandstats")
    return int(stats.get("cmdstat_wait", {"calls": 0})["calls"])
