"""No refusal tells a client whether a vault is open, unless the refusal counts as a guess."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from redis import Redis
from werkzeug.test import TestResponse

from integration.api.asking import JSON, Api, row
from integration.api.conftest import MakeApi
from iot_api.limits.clients import Client
from iot_api.vaults.scrypt_queue import MAX_WAITING
from iot_models.errors import TooManyRequestsError
from support.keys import KEYS
from support.waiting import wait_until

DEVICE, ATTACKER = "192.0.2.1", "192.0.2.66"
OTHERS = Client("192.0.2.67"), Client("192.0.2.68")
LATER = 9.0
"""Shorter than a request waits for its scrypt."""
FULL, OVER_THE_LIMIT = (429, "opening_queue"), (429, "guesses")

Outcome = tuple[int, str | None]


def _outcome(answer: TestResponse) -> Outcome:
    return answer.status_code, (answer.get_json(silent=True) or {}).get("reason")


def _read(api: Api, password: str, address: str = ATTACKER) -> Outcome:
    body = json.dumps({"data": {"db_password": password}})
    return _outcome(api.ask("POST", "/api/iot", body, {**JSON, "X-Forwarded-For": address}))


def _put(api: Api, *passwords: str, address: str = ATTACKER) -> Outcome:
    rows = [row(password) for password in passwords]
    return _outcome(api.put(rows, {"X-Forwarded-For": address}))


def _guesses(redis: "Redis") -> object:
    return redis.get(KEYS.guesses(ATTACKER))


@contextmanager
def full_queue(api: Api, *, waiting: int = MAX_WAITING) -> Iterator[None]:
    """Fill the queue as clients do that name passwords of their own vaults and are no suspects."""
    queue, go_on = api.service.vaults.queue, threading.Event()

    def wait(number: int) -> None:
        with queue.turn(b"%d" % number, OTHERS[number % 2]):
            assert go_on.wait(3 * LATER)

    with ThreadPoolExecutor(1 + waiting) as threads:
        entered = [threads.submit(wait, number) for number in range(1 + waiting)]
        wait_until(lambda: queue.waiting == waiting, what="a full queue")
        try:
            yield
        finally:
            go_on.set()
        assert not any(each.exception(LATER) for each in entered)


@pytest.fixture
def api(make_api: MakeApi) -> Api:
    """An API in which the vaults `open` and `used` are open. The attacker has used the second."""
    made = make_api(trusted_proxies=1, guess_limit=1000)
    assert _put(made, "open", address=DEVICE)[0] == 201
    assert [_put(made, "used", address=each)[0] for each in (DEVICE, ATTACKER)] == [201, 201]
    return made


def test_a_full_queue_does_not_help_to_test_passwords(api: Api, redis: "Redis") -> None:
    cache = api.service.vaults.cache
    with full_queue(api), ThreadPoolExecutor() as threads:
        for password in ("open", "wrong"):
            assert threads.submit(_read, api, password).result(LATER) == FULL
            assert threads.submit(_put, api, password).result(LATER) == FULL
            assert threads.submit(_put, api, password, "used").result(LATER) == FULL
        assert (_put(api, "used")[0], _read(api, "used")[0]) == (201, 200)
        cache.forget(cache.key(b"used"))
        for password in ("open", "wrong"):
            # The client may wait with a password that it has used, but not with the other one.
            assert threads.submit(_put, api, password, "used").result(LATER) == FULL
        assert _put(api, "open", address=DEVICE)[0] == 201
    assert _guesses(redis) is None, "the attacker has learned nothing"
    assert [_read(api, password)[0] for password in ("open", "wrong")] == [200, 200]
    assert _guesses(redis) == b"1"


def test_a_refused_put_does_no_work_for_an_open_vault(api: Api) -> None:
    """The time of a call to a store would tell that the vault is open."""
    cache = api.service.vaults.cache
    cached = cache.get(cache.key(b"open"))
    assert cached is not None
    cache.forget_redis()
    cached.renew_at = 0.0
    with full_queue(api):
        assert _put(api, "open") == FULL
        assert (cached.in_redis, cached.renew_at) == (False, 0.0)
        assert _put(api, "open", address=DEVICE)[0] == 201
    renewed = cache.get(cache.key(b"open"))
    assert renewed is not None
    assert renewed.in_redis


def test_a_change_to_a_password_does_not_tell_whether_it_is_in_use(api: Api) -> None:
    vaults = api.service.vaults
    policy = vaults.policy.current()
    with full_queue(api):
        for password in (b"open", b"wrong"):
            search = vaults.searches(password, Client(ATTACKER), is_proven=False)[0]
            with pytest.raises(TooManyRequestsError):
                next(search.secrets(policy))


def test_the_guess_limit_is_checked_before_the_queue(api: Api, redis: "Redis") -> None:
    """Otherwise, the reason of a refusal would tell whether the vault is open."""
    with full_queue(api), ThreadPoolExecutor() as threads:
        for number, password in enumerate(("open", "wrong")):
            # No refusal of these addresses is noted in the process.
            reader, sender = (f"198.51.100.{2 * number + each}" for each in range(2))
            for address in (reader, sender):
                redis.set(KEYS.guesses(address), 1000, ex=60)
            read = threads.submit(_read, api, password, reader)
            put = threads.submit(_put, api, password, address=sender)
            assert [each.result(LATER) for each in (read, put)] == [OVER_THE_LIMIT] * 2


def test_a_put_checks_the_limit_again_after_it_has_opened_a_vault(api: Api, redis: "Redis") -> None:
    """Any number of requests may share the opening of a vault of the attacker."""
    vaults = api.service.vaults
    vaults.cache.forget(vaults.cache.key(b"used"))
    with ThreadPoolExecutor() as threads:
        with full_queue(api, waiting=0):
            asked = [
                threads.submit(_put, api, "used", password)
                for password in ("open", "wrong 1", "open", "wrong 2")
            ]
            wait_until(lambda: vaults.queue.waiting == 1, what="an opening")
            redis.set(KEYS.guesses(ATTACKER), 1000, ex=60)
        assert [each.result(LATER) for each in asked] == [OVER_THE_LIMIT] * 4
    assert _guesses(redis) == b"1000"


def test_without_a_guess_limit_a_full_queue_refuses_no_open_vault(make_api: MakeApi) -> None:
    api = make_api(trusted_proxies=1, guess_limit=0)
    assert _put(api, "open", address=DEVICE)[0] == 201
    with full_queue(api):
        assert (_put(api, "open")[0], _read(api, "open")[0]) == (201, 200)
        assert _read(api, "wrong") == FULL
