"""A request in a group has the same outcome as alone, on every supported server."""

import random
from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis

from iot_stores.append_conditions import Guard, RememberedRequest
from iot_stores.append_outcomes import AppendOutcome
from iot_stores.backlog import Backlog
from iot_tools.local.redis_server import RedisServer
from support.counting import redis_commands
from support.keys import KEYS
from system.upgrade.conftest import SERVERS, running_server

SHARDS = 4
MAX_BYTES = 20_000
REMEMBERED_SECONDS = 86_400
GUARD = Guard("iot:guesses:a", 3)

Entries = list[tuple[int, bytes]]
Call = tuple[Entries, RememberedRequest | None, tuple[Guard, ...]]


@pytest.fixture(scope="module", params=["system", *SERVERS])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RedisServer]:
    """Each available server."""
    with running_server(request.param, tmp_path_factory.mktemp("groups")) as made:
        yield made


@pytest.fixture
def redis(server: RedisServer) -> Iterator["Redis"]:
    """An empty server."""
    with Redis.from_url(server.url) as client:
        client.flushall()
        yield client


class Groups:
    """A backlog that sends groups of given requests."""

    def __init__(self, redis: "Redis") -> None:
        self._redis: Any = redis
        backlog = Backlog(redis, KEYS, shards=SHARDS, max_bytes=MAX_BYTES)
        self._append = backlog.append
        self._script = vars(backlog)["_script"]
        self._requests: list[Any] = []
        vars(backlog)["_groups"] = self

    def run(self, request: Any) -> Any:
        """Keep a request of `append` in place of sending it."""
        self._requests.append(request)
        raise LookupError

    def send(self, calls: list[Call], size: int) -> list[Any]:
        """Send requests in groups of `size`, and return their outcomes in order."""
        self._requests.clear()
        for entries, request, guards in calls:
            with pytest.raises(LookupError):
                self._append(entries, request, guards)
        outcomes = []
        for start in range(0, len(calls), size):
            answers = self._script.send(self._requests[start : start + size])
            outcomes += [
                str(answer) if isinstance(answer, Exception) else lasting(answer[0])
                for answer in answers
            ]
        return outcomes

    def stored(self) -> dict[str, Any]:
        """Return everything in Redis but the ids of the streams."""
        found: dict[str, Any] = {}
        for key in self._redis.scan_iter():
            name, kind = key.decode(), self._redis.type(key)
            if kind == b"stream":
                found[name] = [fields for _, fields in self._redis.xrange(key)]
            elif name == KEYS.remembered_counts:  # an hour may begin during the test
                found[name] = sum(map(int, self._redis.hvals(key)))
            elif kind == b"hash":
                found[name] = self._redis.hgetall(key)
            elif kind == b"list":
                found[name] = sorted(self._redis.lrange(key, 0, -1))
            else:
                found[name] = self._redis.get(key)
        return found


def lasting(outcome: Any) -> Any:
    """Return an outcome without the seconds that are left: a second may pass between two groups."""
    if isinstance(outcome, list) and outcome[0] == AppendOutcome.TOO_MANY_OF_CLIENT:
        assert REMEMBERED_SECONDS - 60 < outcome[1] <= REMEMBERED_SECONDS
        return outcome[:1]
    return outcome


def keyed(
    name: str, client: str = "a", *, at_most: int = 1000, of_client: int = 1000, earlier: str = ""
) -> RememberedRequest:
    """Return a request with an Idempotency-Key."""
    return RememberedRequest(
        (f"iot:request:{name}", f"iot:request:other-{name}"), REMEMBERED_SECONDS,
        b"1 " + name.encode(),
        at_most, f"iot:requests:{client}", of_client, earlier,
    )  # fmt: skip


def plain(shard: int, size: int = 100) -> Call:
    return [(shard, b"x" * size)], None, ()


def any_call(chance: random.Random) -> Call:
    """Return any request: with several entries or none, a key that is repeated, guards."""
    entries = [
        (chance.randrange(SHARDS), chance.randbytes(chance.choice([10, 100, 1000])))
        for _ in range(chance.choice([1, 1, 1, 1, 0, 2, 5]))
    ]
    request = None
    if chance.random() < 0.4:
        name, client = str(chance.randrange(8)), chance.choice("ab")
        earlier = chance.choice(["", "", "", f"iot:request:{chance.randrange(8)}"])
        at_most = chance.choice([3, 1000])
        request = keyed(name, client, at_most=at_most, of_client=2, earlier=earlier)
    guards = tuple(
        Guard(f"iot:guesses:{chance.choice('abc')}", chance.choice([3, 100]))
        for _ in range(chance.choice([0, 0, 1, 2]))
    )
    return entries, request, guards


@pytest.mark.parametrize("seed", range(12))
def test_a_group_has_the_outcomes_of_single_requests(redis: "Redis", seed: int) -> None:
    chance = random.Random(seed)
    calls = [any_call(chance) for _ in range(60)]
    prepared = {"iot:guesses:a": "3", "iot:guesses:c": "planted"}
    damaged: Any = {"in:1": "x"} if seed % 3 == 0 else {"bytes": 15_000 + 500 * seed, "rate": 100}
    groups, results = Groups(redis), []
    for size in (1, 60, 7):
        redis.flushdb()
        redis.mset(prepared)
        redis.hset(KEYS.backlog_counters, mapping=damaged)
        if seed % 4 == 0:
            redis.set(KEYS.stream(2), "planted")
        results.append((groups.send(calls, size), groups.stored()))
    assert results[0] == results[1] == results[2]


def test_the_random_requests_have_every_outcome(redis: "Redis") -> None:
    kinds: set[Any] = set()
    for seed in range(12):
        redis.flushdb()
        redis.set("iot:guesses:a", 3)
        redis.hset(KEYS.backlog_counters, mapping={"bytes": 15_000, "in:1": "x" if seed % 2 else 1})
        chance = random.Random(seed)
        outcomes = Groups(redis).send([any_call(chance) for _ in range(60)], 60)
        kinds |= {each[0] if isinstance(each, list) else AppendOutcome.ADDED for each in outcomes}
    assert kinds == set(AppendOutcome)


def test_refusals_answer_only_their_request(redis: "Redis") -> None:
    redis.set(GUARD.name, 3, ex=30)
    redis.hset(KEYS.backlog_counters, mapping={"in:3": "damaged", "bytes": MAX_BYTES - 1000})
    redis.set(KEYS.stream(2), "planted")
    groups = Groups(redis)
    outcomes = groups.send(
        [
            plain(0), plain(1, 950), plain(3), plain(2), ([(0, b"k" * 10)], keyed("k"), ()),
            ([(1, b"k" * 10)], keyed("k"), ()), ([(0, b"g")], None, (GUARD,)), plain(0, 50),
        ],
        8,
    )  # fmt: skip
    added, full, damaged, refused, first, repeated, guarded, last = outcomes
    assert (added, full[0], damaged, first, last) == (
        100,
        AppendOutcome.FULL,
        [AppendOutcome.DAMAGED],
        110,
        160,
    )
    assert "WRONGTYPE" in refused
    assert (repeated, guarded[0]) == ([AppendOutcome.REMEMBERED, b"1 k"], AppendOutcome.GUARDED)
    stored = groups.stored()
    assert [fields[b"t"] for fields in stored[KEYS.stream(0)]] == [b"100", b"110", b"160"]
    assert KEYS.stream(1) not in stored
    assert KEYS.stream(3) not in stored
    assert stored[KEYS.job_list] == [b"drain-0", b"drain-2"]


def test_a_group_fails_as_a_whole_where_redis_takes_no_writes(redis: "Redis") -> None:
    groups = Groups(redis)
    assert groups.send([plain(0), plain(1)], 2) == [100, 100]
    before = groups.stored()
    redis.config_set("maxmemory", 1)
    try:
        outcomes = groups.send([plain(0), ([(1, b"k")], keyed("k"), ()), plain(2)], 3)
    finally:
        redis.config_set("maxmemory", 0)
    assert all("maxmemory" in each for each in outcomes)
    assert groups.stored() == before


@pytest.mark.parametrize("requests", [1, 10, 100])
def test_the_commands_of_a_group(redis: "Redis", requests: int) -> None:
    """One script and one HMGET per group, three commands per shard, one command per entry."""
    groups = Groups(redis)
    groups.send([plain(shard, 10) for shard in range(SHARDS)], SHARDS)
    shards = min(requests, SHARDS)
    with redis_commands(redis) as counted:
        groups.send([plain(number % SHARDS, 10) for number in range(requests)], requests)
    assert counted == {
        "evalsha": 1, "hmget": 1, "hincrby": shards + 1, "lpos": shards, "xadd": requests,
    }  # fmt: skip
