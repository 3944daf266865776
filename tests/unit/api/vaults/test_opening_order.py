"""The order of openings, and what a client learns when the queue for scrypts is full."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from iot_api.limits.clients import Client
from iot_api.vaults.cache import VaultCache
from iot_api.vaults.opening import Vaults
from iot_api.vaults.scrypt_queue import MAX_WAITING_PER_CLIENT, ScryptQueue
from iot_cipher.encryption import OpenVault
from iot_cipher.vault import password_key
from iot_models.errors import TooManyRequestsError
from iot_stores.vault_lookups import LookupPolicy
from support.clock import Clock
from support.waiting import wait_until
from unit.api.vaults.conftest import MakeVaults

from .in_memory import CLIENT, LATER, POLICY, NoGuesses, Records


class HeldUp:
    """A scrypt that records the order of the passwords and blocks one of them."""

    def __init__(self) -> None:
        self.order: list[bytes] = []
        self.blocked = b"first"
        self._go_on = threading.Event()

    def __call__(self, password: bytes, salt: bytes, log2_n: int) -> bytes:
        self.order.append(password)
        if password == self.blocked:
            assert self._go_on.wait(LATER)
        return password_key(password, salt, log2_n)

    def go_on(self) -> None:
        self._go_on.set()

    def called(self, queue: ScryptQueue, callers: int) -> bool:
        return len(self.order) + queue.waiting == callers

    def open_all(self, vaults: Vaults, requests: Sequence[tuple[bytes, Client]]) -> list[OpenVault]:
        """Send requests one after the other while the first one is blocked."""
        with ThreadPoolExecutor() as threads:
            done = []
            for number, request in enumerate(requests, 1):
                done.append(threads.submit(vaults.find_or_create, *request))
                called = partial(self.called, vaults.queue, number)
                wait_until(called, what="a caller")
            self.go_on()
            return [each.result(LATER) for each in done]


@pytest.mark.parametrize("suspected", [False, True])
def test_known_passwords_go_first(
    make_vaults: MakeVaults, guesses: NoGuesses, suspected: bool
) -> None:
    slow_key = HeldUp()
    clock = Clock()
    cache = VaultCache(size=10, seconds=10, clock=clock)
    vaults = make_vaults(cache, slow_key)
    vaults.find_or_create(b"known", CLIENT)
    clock.now += 10
    slow_key.order.clear()
    guesses.suspected = suspected
    slow_key.open_all(vaults, [(password, CLIENT) for password in (b"first", b"new", b"known")])
    assert slow_key.order == [b"first", b"known", b"new"]
    vaults.close()


def test_a_device_does_not_share_the_opening_of_a_suspect(make_vaults: MakeVaults) -> None:
    slow_key = HeldUp()
    cache = VaultCache(size=10, seconds=10)
    vaults = make_vaults(cache, slow_key)
    requests = [(b"first", CLIENT), (b"common", Client("suspect")), (b"common", CLIENT)]
    opened = slow_key.open_all(vaults, requests)
    assert slow_key.order == [b"first", b"common", b"common"]
    assert opened[1].vault_id == opened[2].vault_id
    vaults.close()


def test_a_client_that_becomes_a_suspect_waits_behind_others(
    make_vaults: MakeVaults, guesses: NoGuesses
) -> None:
    """Its requests that wait already go back: otherwise one burst of guesses would go first."""
    slow_key = HeldUp()
    vaults = make_vaults(VaultCache(size=10, seconds=10), slow_key)
    flood, device = Client("flood"), Client("device")
    made_suspect = threading.Event()

    def suspects(client: Client) -> bool:
        return client is flood and made_suspect.is_set()

    guesses.suspects = suspects  # type: ignore[method-assign] # changes during the test
    requests = [(b"first", flood), (b"guess 1", flood), (b"guess 2", flood), (b"mine", device)]
    with ThreadPoolExecutor() as threads:
        done = []
        for number, request in enumerate(requests, 1):
            done.append(threads.submit(vaults.find_or_create, *request))
            wait_until(partial(slow_key.called, vaults.queue, number), what="a caller")
        made_suspect.set()
        slow_key.go_on()
        for each in done:
            each.result(LATER)
    assert slow_key.order == [b"first", b"mine", b"guess 1", b"guess 2"]
    vaults.close()


def test_waiting_guesses_end_with_the_limit(make_vaults: MakeVaults, guesses: NoGuesses) -> None:
    """No scrypt is computed for a client that has reached the limit while it waited."""
    slow_key = HeldUp()
    vaults = make_vaults(VaultCache(size=10, seconds=10), slow_key)
    with ThreadPoolExecutor() as threads:
        first = threads.submit(vaults.find_or_create, b"first", CLIENT)
        wait_until(lambda: slow_key.order == [b"first"], what="a scrypt")
        waiting = [threads.submit(vaults.find, b"guess %d" % each, CLIENT) for each in range(3)]
        wait_until(lambda: vaults.queue.waiting == 3, what="waiting guesses")
        guesses.refused.add(CLIENT.name)
        slow_key.go_on()
        first.result(LATER)
        for each in waiting:
            with pytest.raises(TooManyRequestsError):
                each.result(LATER)
    assert slow_key.order == [b"first"]
    vaults.close()


@pytest.mark.parametrize("name", ["suspect", "owner of many vaults"])
def test_a_client_with_a_full_queue_learns_nothing(
    make_vaults: MakeVaults, guesses: NoGuesses, name: str
) -> None:
    """The answer for a password whose vault is open is that for any other password."""
    slow_key = HeldUp()
    vaults = make_vaults(VaultCache(size=10, seconds=10), slow_key)
    client = Client(name)
    vaults.find_or_create(b"open", CLIENT)
    vaults.find_or_create(b"used", client)
    with ThreadPoolExecutor(MAX_WAITING_PER_CLIENT + 2) as threads:
        opening = threads.submit(vaults.find, b"first", client)
        wait_until(lambda: slow_key.order[-1] == b"first", what="a scrypt")
        waiting = [
            threads.submit(vaults.find, b"guess %d" % each, client)
            for each in range(MAX_WAITING_PER_CLIENT)
        ]
        wait_until(lambda: vaults.queue.waiting == len(waiting), what="a full queue")
        refusals = []
        for password in (b"open", b"unknown"):
            with pytest.raises(TooManyRequestsError) as refused:
                vaults.find(password, client)
            refusals.append((str(refused.value), refused.value.reason, refused.value.retry_after))
        assert refusals[0] == refusals[1]
        assert not guesses.unanswered
        for each in (Client("another"), CLIENT):
            assert vaults.find(b"open", each) is not None
        assert vaults.find(b"used", client) is not None, "it learns nothing from a used vault"
        guesses.refused.add(client.name)  # so that those who wait end at once
        slow_key.go_on()
        opening.result(LATER)
        assert all(isinstance(each.exception(LATER), TooManyRequestsError) for each in waiting)
    assert guesses.unanswered == [name] * len(waiting), "each that waited was tested; no other"
    vaults.close()


def test_requests_between_check_and_queue_fill_the_queue(
    make_vaults: MakeVaults, records: Records, guesses: NoGuesses
) -> None:
    """Otherwise all requests that come while the policy is read would be refused later, and be
    counted as guesses of a site whose vaults are opened after a restart.
    """
    slow_key, go_on = HeldUp(), threading.Event()
    vaults = make_vaults(VaultCache(size=10, seconds=10), slow_key)
    reading: list[int] = []

    def raise_cost(cost: int) -> LookupPolicy:
        reading.append(cost)
        assert go_on.wait(LATER)
        return POLICY

    records.raise_cost = raise_cost  # type: ignore[method-assign] # blocks in this test
    requests = 2 * MAX_WAITING_PER_CLIENT
    with ThreadPoolExecutor(requests) as threads:
        opened = [threads.submit(vaults.find, b"%d" % each, CLIENT) for each in range(requests)]
        wait_until(lambda: sum(each.done() for each in opened) == requests // 2, what="refusals")
        wait_until(lambda: len(reading) == requests // 2, what="requests that go on")
        go_on.set()
        refused = [isinstance(each.exception(LATER), TooManyRequestsError) for each in opened]
    assert refused.count(True) == requests // 2
    assert not guesses.unanswered
    vaults.close()


def test_a_second_scrypt_of_a_request_waits_though_the_queue_has_filled_up(
    make_vaults: MakeVaults, guesses: NoGuesses
) -> None:
    """A password has a second scrypt if its normal form is another text."""
    slow_key = HeldUp()
    vaults = make_vaults(VaultCache(size=10, seconds=10), slow_key)
    slow_key.blocked = as_sent = "e\u0301".encode()
    with ThreadPoolExecutor() as threads:
        asked = threads.submit(vaults.find, as_sent, CLIENT)
        wait_until(lambda: slow_key.order == [as_sent], what="a scrypt")
        waiting = threads.submit(vaults.find, b"next", Client("another"))
        reservations = [
            vaults.queue.reserve(CLIENT, b"%d" % each) for each in range(MAX_WAITING_PER_CLIENT)
        ]
        wait_until(lambda: vaults.queue.waiting == len(reservations) + 1, what="a full queue")
        slow_key.go_on()
        assert (asked.result(LATER), waiting.result(LATER)) == (None, None)
    assert slow_key.order == [as_sent, b"next", "\u00e9".encode()]
    assert not guesses.unanswered
    for each in reservations:
        each.cancel()
    vaults.close()
