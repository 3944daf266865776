"""Processes that use a vault while its password is changed, or that hang meanwhile."""

import dataclasses
import threading
import time
from contextlib import closing
from typing import Any

import psycopg
import pytest
from redis import Redis
from redis.exceptions import RedisError

from integration.api.asking import Api, row
from integration.api.conftest import MakeApi
from integration.api.test_password_change import NEW, OLD, change, records_of, stored_row
from integration.api.test_password_forms import texts
from integration.api.test_vault_erasure import BLOCKED
from integration.api.test_vault_erasure_requests import note_steps
from iot_api.vaults import change_follower
from iot_api.vaults.cache import UNSETTLED_SECONDS
from iot_models.settings import Settings
from iot_stores.password_changes import SETTLING_SECONDS, PasswordChanges
from iot_stores.vault_records import VaultRecords
from iot_tools.local.redis_server import RedisServer
from iot_writer.writer import Writer
from support.draining import drain_all
from support.keys import KEYS
from support.waiting import wait_until


def test_a_vault_that_is_opened_just_before_the_change(
    make_api: MakeApi, writer: Writer, postgres: psycopg.Connection
) -> None:
    """The process that opened the vault keeps it open for half a second. The answer comes later."""
    api, other = make_api(), make_api()
    other.service.change_follower.start()
    api.put(row(OLD, freeform="before"))
    drain_all(writer)
    statuses: list[int] = []
    thread = threading.Thread(target=lambda: statuses.append(change(api).status_code))
    with postgres.transaction():
        postgres.execute("SELECT FROM vaults FOR UPDATE")
        thread.start()
        wait_until(lambda: postgres.execute(BLOCKED).fetchone() == (1,), what="a change")
        assert texts(other.read(password=OLD)) == ['"before"']
    thread.join()
    assert statuses == [200]
    assert other.read(password=OLD) == []
    assert other.put(row(OLD, freeform="after")).status_code == 201
    drain_all(writer)
    assert texts(other.read(password=NEW)) == ['"before"']
    assert texts(other.read(password=OLD)) == ['"after"']


def test_the_announcement_of_a_new_password_has_time_to_be_read(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise processes acknowledge readings under the old password after the change."""
    api.put(row(OLD))
    steps = note_steps(
        monkeypatch, (PasswordChanges, "announce"), (VaultRecords, "change_password")
    )
    assert change(api).status_code == 200
    (_, announced), (_, changed), _ = steps
    assert changed - announced >= change_follower.ANNOUNCED_SECONDS


def test_a_process_that_hung_during_the_change(make_api: MakeApi, writer: Writer) -> None:
    """The process has the vault open, and has not read the announcement when requests come."""
    api, hung = make_api(), make_api()
    hung.put(row(OLD, freeform=1))
    drain_all(writer)
    hung.service.change_follower.check()
    assert texts(hung.read(password=OLD)) == ["1"]
    assert change(api).status_code == 200
    assert hung.read(password=OLD) == []
    assert texts(hung.read(password=NEW)) == ["1"]


def test_a_change_back_while_the_first_process_hangs(
    make_api: MakeApi, writer: Writer, postgres: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process hangs between the change in Postgres and its second announcement."""
    hung, other = make_api(), make_api()
    for process in (hung, other):
        process.service.change_follower.start()
    hung.put(row(OLD, freeform=1))
    drain_all(writer)
    lookup = stored_row(postgres)[1]
    is_changed, is_changed_back = threading.Event(), threading.Event()
    finish = hung.service.password_changer._changes.finish  # noqa: SLF001 - the step to hang at

    def hang(*arguments: Any) -> None:
        is_changed.set()
        assert is_changed_back.wait(10)
        finish(*arguments)

    monkeypatch.setattr(hung.service.password_changer._changes, "finish", hang)  # noqa: SLF001
    statuses: list[int] = []
    thread = threading.Thread(target=lambda: statuses.append(change(hung).status_code))
    thread.start()
    assert is_changed.wait(10)
    new_lookup = stored_row(postgres)[1]
    assert change(other, NEW, OLD).status_code == 200
    is_changed_back.set()
    thread.join()
    assert statuses == [200]
    records = records_of(make_api())
    # Redis opens vaults while Postgres is away.
    assert records.find_cached([new_lookup]) is None
    for process in (hung, other, make_api()):
        assert process.read(password=NEW) == []
        assert texts(process.read(password=OLD)) == ["1"]
    assert records.find_cached([new_lookup]) is None
    found = records.find_cached([lookup])
    assert found is not None
    assert found.lookup == lookup


def test_only_a_process_that_starts_ignores_settled_changes(
    make_api: MakeApi, redis: "Redis", postgres: psycopg.Connection
) -> None:
    """A vault whose last announced lookup is not its own stays open nevertheless."""
    running, started = make_api(), make_api()
    running.put(row(OLD))
    running.service.change_follower.check()  # nothing has been announced yet
    announced: Any = {b"vault": stored_row(postgres)[0].bytes, b"lookup": bytes(32)}
    settled = redis.time()[0] - SETTLING_SECONDS - 1
    redis.xadd(KEYS.password_changes, announced, id=f"{settled * 1000}-0")
    for process, noted in ((running, 1), (started, 0)):
        process.service.change_follower.check()
        cache = process.service.vaults.cache
        assert cache.changes_noted == noted
        process.read(password=OLD)
        (cached,) = cache._vaults.values()  # noqa: SLF001 - how long the vault stays open
        is_short = cached.expires_at < time.monotonic() + 2 * UNSETTLED_SECONDS
        assert is_short == bool(noted)
    redis.xadd(KEYS.password_changes, announced)
    started.service.change_follower.check()
    assert started.service.vaults.cache.changes_noted == 1


def test_a_process_that_could_not_reach_redis_at_first_ignores_no_change(
    make_api: MakeApi, own_redis: RedisServer
) -> None:
    """It may have opened vaults from records that are older than the change."""
    api = make_api(redis_url=own_redis.url)
    own_redis.stop()
    with pytest.raises(RedisError):
        api.service.change_follower.check()
    own_redis.start()
    announced: Any = {b"vault": bytes(16), b"lookup": bytes(32)}
    with Redis.from_url(own_redis.url) as redis:
        settled = redis.time()[0] - SETTLING_SECONDS - 1
        redis.xadd(KEYS.password_changes, announced, id=f"{settled * 1000}-0")
    api.service.change_follower.check()
    assert api.service.vaults.cache.changes_noted == 1


def test_the_first_use_of_a_vault_reads_the_announced_changes(
    make_api: MakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, a vault may have been opened from a record that is older than a change."""
    api = make_api()
    api.put(row(OLD, freeform=1))
    cache = api.service.vaults.cache
    key = cache.key(OLD.encode())
    assert cache.writable(key) is not None
    follower = api.service.change_follower
    monkeypatch.setattr(follower, "run", lambda: None)  # its first check takes long
    follower.start()
    assert cache.writable(key) is None
    follower.catch_up()
    assert cache.writable(key) is not None


def test_open_vaults_are_read_without_redis(
    make_api: MakeApi, settings: Settings, own_redis: RedisServer
) -> None:
    """Announcements of changes can't be read meanwhile."""
    settings = dataclasses.replace(settings, redis_url=own_redis.url)
    api = make_api(redis_url=own_redis.url)
    api.put(row(OLD, freeform=1))
    with closing(Writer(settings)) as writer:
        drain_all(writer)
    follower = api.service.change_follower
    follower.check()
    own_redis.stop()
    wait_until(lambda: time.monotonic() > api.service.vaults.cache.followed_until, what="a check")
    for _ in range(2):
        assert texts(api.read(password=OLD)) == ["1"]
    assert follower.has_failed
    with pytest.raises(RedisError):
        follower.catch_up()
