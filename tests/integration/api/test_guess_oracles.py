"""While the queue for scrypts is full, no answer tells a client whether a vault is open."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from redis import Redis

from integration.api.asking import JSON, Api, row
from integration.api.conftest import MakeApi
from iot_api.limits.clients import Client
from iot_api.vaults.scrypt_queue import MAX_WAITING
from support.keys import KEYS
from support.waiting import wait_until

DEVICE, ATTACKER = "192.0.2.1", "192.0.2.66"
OTHERS = Client("192.0.2.67"), Client("192.0.2.68")
LATER = 9.0
"""Shorter than a request waits for its scrypt."""


def _read(api: Api, password: str) -> int:
    body = json.dumps({"data": {"db_password": password}})
    headers = {**JSON, "X-Forwarded-For": ATTACKER}
    return api.ask("POST", "/api/iot", body, headers).status_code


def _put(api: Api, *passwords: str, address: str = ATTACKER) -> int:
    rows = [row(password) for password in passwords]
    return api.put(rows, {"X-Forwarded-For": address}).status_code


@contextmanager
def _full_queue(api: Api) -> Iterator[None]:
    """Fill the queue as clients do that name passwords of their own vaults and are no suspects."""
    queue, go_on = api.service.vaults.queue, threading.Event()

    def wait(number: int) -> None:
        with queue.turn(b"%d" % number, OTHERS[number % 2]):
            assert go_on.wait(3 * LATER)

    with ThreadPoolExecutor(1 + MAX_WAITING) as threads:
        waiting = [threads.submit(wait, number) for number in range(1 + MAX_WAITING)]
        wait_until(lambda: queue.waiting == MAX_WAITING, what="a full queue")
        try:
            yield
        finally:
            go_on.set()
        assert not any(each.exception(LATER) for each in waiting)


def test_a_full_queue_does_not_help_to_test_passwords(make_api: MakeApi, redis: "Redis") -> None:
    api = make_api(trusted_proxies=1, guess_limit=1000)
    cache = api.service.vaults.cache
    assert _put(api, "open", address=DEVICE) == 201
    assert _put(api, "used", address=DEVICE) == _put(api, "used") == 201
    with _full_queue(api), ThreadPoolExecutor() as threads:
        for password in ("open", "wrong"):
            assert threads.submit(_read, api, password).result(LATER) == 429
            assert threads.submit(_put, api, password).result(LATER) == 429
            assert threads.submit(_put, api, password, "used").result(LATER) == 429
        assert (_put(api, "used"), _read(api, "used")) == (201, 200)
        cache.forget(cache.key(b"used"))
        for password in ("open", "wrong"):
            # The client may wait with a password that it has used, but not with the other one.
            assert threads.submit(_put, api, password, "used").result(LATER) == 429
        assert _put(api, "open", address=DEVICE) == 201
    assert redis.get(KEYS.guesses(ATTACKER)) is None, "the attacker has learned nothing"
    assert [_read(api, password) for password in ("open", "wrong")] == [200, 200]
    assert redis.get(KEYS.guesses(ATTACKER)) == b"1"
