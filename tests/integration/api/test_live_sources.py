"""Live streams stay exact, wherever their readings come from."""

import dataclasses
import random
from collections.abc import Iterator
from itertools import count
from typing import Any, cast

import pytest
from redis import Redis

from integration.api.asking import PASSWORD, Api, sample
from integration.api.conftest import MakeApi
from integration.api.live_streams import listening, send, take
from integration.api.test_live import store
from integration.api.test_range_erasure import erase
from iot_api.limits.clients import Client
from iot_api.live import feed, poller, source
from iot_api.vaults import compaction_planner
from iot_cipher.encryption import OpenVault
from iot_models.settings import Settings
from iot_writer.writer import Writer
from support.draining import drain_all
from support.live_events import LiveEvent


@pytest.fixture
def cold_writer(settings: Settings) -> Iterator[Writer]:
    """A writer whose drains are missing in the hot window, as if it was killed after its commit."""
    made = Writer(dataclasses.replace(settings, hot_window_seconds=0))
    yield made
    made.close()


def reads_of_postgres() -> float:
    return sample("iot_live_reads_of_postgres_total")


def test_the_first_event_has_the_time_of_redis(
    api: Api, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(api, writer, 1)
    monkeypatch.setattr("iot_api.live.stream._now_ms", lambda: 0)
    with listening(api) as events:
        assert next(events).data["time"] > 0


def test_what_the_hot_window_missed_comes_from_postgres(
    api: Api, writer: Writer, cold_writer: Writer
) -> None:
    store(api, writer, 1)
    with listening(api) as events:
        position = next(events).id
        before = reads_of_postgres()
        store(api, writer, 2)
        assert take(events, 1)[0] == ["2"]
        assert reads_of_postgres() == before
        store(api, cold_writer, 3)
        assert take(events, 1)[0] == ["3"]
        assert reads_of_postgres() == before + 1
        store(api, writer, 4)
        assert take(events, 1)[0] == ["4"]
    with listening(api, position) as events:
        assert take(events, 3)[0] == ["2", "3", "4"]


def test_without_a_hot_window_postgres_serves_streams(
    make_api: MakeApi, cold_writer: Writer
) -> None:
    api = make_api(hot_window_seconds=0)
    store(api, cold_writer, 1)
    with listening(api) as events:
        position = next(events).id
        store(api, cold_writer, 2, 3)
        assert take(events, 2)[0] == ["2", "3"]
    with listening(api, position) as events:
        assert take(events, 2)[0] == ["2", "3"]


def test_shards_without_a_checked_cover_are_left_out(
    api: Api, writer: Writer, cold_writer: Writer
) -> None:
    """Two drains end while the hot window is read for a drain of another shard. The hot window
    lacks the first one."""
    store(api, writer, 1)
    vault, live = vault_of(api, PASSWORD), api.service.live.source
    own = vault.shard(api.service.settings.shards)
    start = live.drained()
    watched = source.Watched(vault=vault, position=live.now(start), checked=start)
    for password in map(str, count()):
        store(api, writer, 1, password=password)
        if own not in watched.moved(drained := live.drained()):
            break
        watched.complete(drained)
    # As if the other shard's first drain were long ago: its cover begins there.
    other = vault_of(api, password).shard(api.service.settings.shards)
    writer.hot_redis.hset(writer.names.hot_cover(other), "since", 1)
    store(api, cold_writer, 2)
    store(api, writer, 3)
    assert not list(live.recent_rows([watched], drained))
    assert list(live.recent_rows([watched], live.drained())) == [(watched, None)]
    found = live.stored_rows(watched, live.drained())
    assert [each.freeform for rows in found for each in rows.readings] == ["2", "3"]


def vault_of(api: Api, password: str) -> OpenVault:
    vault = api.service.vaults.find(password.encode(), Client("test"))
    assert vault is not None
    return vault


def test_an_evicted_or_emptied_hot_window(api: Api, writer: Writer, redis: "Redis") -> None:
    store(api, writer, 1)
    with listening(api) as events:
        position = next(events).id
    store(api, writer, 2)
    store(api, writer, 3)
    redis.delete(redis.keys("iot:hot:segment:*")[-1])
    with listening(api, position) as events:
        assert take(events, 2)[0] == ["2", "3"]
        redis.delete(*redis.keys("iot:hot:*"))
        store(api, writer, 4)
        assert take(events, 1)[0] == ["4"]


def test_erased_readings_are_not_sent(api: Api, writer: Writer) -> None:
    rows = [{"data": {"db_password": "p", "relative_time": at, "freeform": at}} for at in range(4)]
    store(api, writer, 9)
    with listening(api) as events:
        position = next(events).id
    api.put(rows)
    drain_all(writer)
    assert erase(api, 1, 2).get_json() == {"erased": 2}
    with listening(api, position) as events:
        assert take(events, 2)[0] == ["0", "3"]


def test_a_client_that_is_far_behind_gets_a_summary(
    api: Api, writer: Writer, redis: "Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "MAX_BEHIND_READINGS", 2)
    store(api, writer, 1)
    with listening(api) as events:
        position = next(events).id
    store(api, writer, 2, 3, 4)
    redis.delete(*redis.keys("iot:hot:*"))
    with listening(api, position) as events:
        next(events)
        summary = next(events)
        assert (summary.name, summary.data["skipped"]) == ("summary", 3)
        assert 10**12 < summary.data["from"] <= summary.data["to"]
        store(api, writer, 5)
        assert take(events, 1)[0] == ["5"]
    with listening(api, summary.id) as events:
        assert take(events, 1)[0] == ["5"]


def test_a_damaged_segment_is_left_out(api: Api, writer: Writer, redis: "Redis") -> None:
    store(api, writer, 1)
    with listening(api) as events:
        position = next(events).id
    store(api, writer, 2, 3)
    keys = cast("list[bytes]", redis.keys("iot:hot:segment:*"))
    newest = max(keys, key=lambda key: int(key.rpartition(b":")[2]))
    redis.set(newest, cast("bytes", redis.get(newest))[:-1] + b"x")
    store(api, writer, 4)
    with listening(api, position) as events:
        next(events)
        summary = next(events)
        assert (summary.name, summary.data["skipped"]) == ("summary", 2)
        assert take(events, 1)[0] == ["4"]


class Walk:
    """Readings, drains, accidents and reconnections in a random order."""

    def __init__(self, make_api: MakeApi, settings: Settings, redis: "Redis", seed: int) -> None:
        self.random = random.Random(seed)
        self.make_api = make_api
        self.settings = settings
        self.redis = redis
        self.shards = 1
        self.sent = 0
        self.stored = 0
        self.found: list[int] = []
        self.position = ""
        self.beats = 0
        self.apis: list[Api] = []
        self.writers: list[Writer] = []
        self.reshard()

    def reshard(self) -> None:
        """Change the number of shards. Entries of the old shards may wait."""
        self.shards = self.random.choice([1, 2, 3])
        changes: dict[str, Any] = {"shards": self.shards, "live_heartbeat_seconds": 1}
        self.apis = [self.make_api(**changes) for _ in range(2)]
        for seconds in (self.settings.hot_window_seconds, 0):
            changed = dataclasses.replace(
                self.settings, shards=self.shards, hot_window_seconds=seconds
            )
            self.writers.append(Writer(changed))

    def send(self) -> None:
        count = self.random.randint(1, 5)
        send(self.random.choice(self.apis), *range(self.sent, self.sent + count))
        self.sent += count

    def drain(self) -> None:
        """Drain with a writer that fills the hot window, or with one that does not."""
        writer = self.writers[-1 - (self.random.random() > 0.3)]
        while any(self.drained(writer).values()):
            pass

    @staticmethod
    def drained(writer: Writer) -> dict[int, bool]:
        outcomes = writer.drain.run(writer.postgres(), range(3)).outcomes
        return {shard: outcome != "empty" for shard, outcome in outcomes.items()}

    def lose_hot_window(self) -> None:
        """Lose some payloads or covers, or everything. An index is never evicted alone."""
        kind = self.random.choice(["segment:*", "cover:*", "*"])
        if keys := self.redis.keys(f"iot:hot:{kind}"):
            count = len(keys) if kind == "*" else self.random.randint(1, len(keys))
            self.redis.delete(*self.random.sample(keys, count))

    def compact(self) -> None:
        service = self.apis[0].service
        vault = service.vaults.find(b"p", Client("test"))
        if vault is None:
            return
        for key in self.redis.keys("iot:compaction:looked*"):
            self.redis.delete(key)
        service.compaction.look(vault)
        writer = self.writers[-1]
        while writer.compaction.run(writer.postgres())[0] != "empty":
            pass

    def listen(self, *, all_stored: bool) -> None:
        """Connect to a process, read some or all readings, and break the connection."""
        with listening(self.random.choice(self.apis), self.position) as events:
            self.use(next(events))
            for _ in range(self.random.randint(0, 2)):
                self.send()
                self.drain()
            while all_stored and len(self.found) < self.sent:
                self.use(next(events))

    def use(self, event: LiveEvent) -> None:
        self.beats = self.beats + 1 if event.name == "heartbeat" else 0
        assert event.name in {"open", "readings", "heartbeat"}
        assert self.beats < 3, set(range(self.sent)) - set(self.found)
        self.found += map(int, event.texts)
        self.position = event.id or self.position


@pytest.mark.parametrize("seed", range(3))
def test_a_random_walk_misses_and_repeats_nothing(
    make_api: MakeApi,
    settings: Settings,
    redis: "Redis",
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
) -> None:
    monkeypatch.setattr(poller, "POLL_SECONDS", 0.005)
    monkeypatch.setattr(feed, "OTHER_SHARDS_SECONDS", 0.02)
    monkeypatch.setattr(feed, "POSTGRES_SECONDS", 0.01)
    monkeypatch.setattr(compaction_planner, "MARGIN_MS", -(10**9))
    monkeypatch.setattr(compaction_planner, "MIN_SEGMENTS", 2)
    walk = Walk(make_api, settings, redis, seed)
    send(walk.apis[0], -1)
    walk.drain()
    with listening(walk.apis[0]) as events:
        walk.position = next(events).id
    steps = [walk.send] * 4 + [walk.drain] * 3 + [walk.lose_hot_window, walk.compact, walk.reshard]
    for _ in range(40):
        walk.random.choice(steps)()
        if walk.random.random() < 0.5:
            walk.drain()
            walk.listen(all_stored=walk.random.random() < 0.6)
    walk.drain()
    walk.listen(all_stored=True)
    assert sorted(walk.found) == list(range(walk.sent))
    for writer in walk.writers:
        writer.close()
