"""Opening vaults: shared between requests with one password, independent between passwords."""

import threading
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from iot_api.limits.clients import Client
from iot_api.limits.guess_limit import GuessLimit
from iot_api.vaults.cache import VaultCache
from iot_api.vaults.opening import Vaults
from iot_api.vaults.restorer import VaultRestorer
from iot_api.vaults.scrypt_queue import MAX_WAITING_PER_CLIENT, ScryptQueue
from iot_cipher.encryption import OpenVault
from iot_cipher.keyring import Keyring, KeyringFile, create_keyring_file
from iot_cipher.vault import PasswordKey, VaultRecord, password_key, scrypt_secret
from iot_models.audit_event import AuditEvent
from iot_models.errors import Refusal, TooManyRequestsError
from iot_stores.held_entries import HeldEntries
from iot_stores.vault_lookups import FastLookups, LookupPolicy
from iot_stores.vault_records import FoundVault, VaultRecords
from support.clock import Clock
from support.waiting import wait_until

LATER = 10.0


POLICY = LookupPolicy(FastLookups.GONE, (10,))
CLIENT = Client("192.0.2.1")

MakeVaults = Callable[[VaultCache, PasswordKey], Vaults]


class Records(VaultRecords):
    """Records in memory. While `held_up`, lookups block."""

    def __init__(self) -> None:
        self._records: dict[bytes, VaultRecord] = {}
        self.held_up: set[bytes] = set()
        self.go_on = threading.Event()
        self.fails = False
        self.asked = 0

    def hold_up(self, lookup: bytes) -> None:
        self.held_up.add(lookup)

    def clear(self) -> None:
        self._records.clear()

    def find_cached(self, lookups: Sequence[bytes]) -> VaultRecord | None:
        del lookups
        return None

    def find(self, lookups: Sequence[bytes]) -> FoundVault:
        self.asked += 1
        if self.held_up & set(lookups):
            assert self.go_on.wait(LATER)
            if self.fails:
                raise ConnectionError("away")
        found = [self._records[each] for each in lookups if each in self._records]
        return FoundVault(found[0] if found else None, POLICY)

    def add(self, record: VaultRecord, event: AuditEvent) -> VaultRecord:
        del event
        return self._records.setdefault(record.lookup, record)

    def cache(self, record: VaultRecord) -> bool:
        del record
        return True

    def restore(self, record: VaultRecord) -> VaultRecord:
        return self._records.setdefault(record.lookup, record)

    def find_changed(
        self, records: Collection[VaultRecord]
    ) -> list[tuple[VaultRecord, VaultRecord | None]]:
        stored = [(each, self._records.get(each.lookup)) for each in records]
        return [(each, other) for each, other in stored if each != other]

    def raise_cost(self, cost: int) -> LookupPolicy:
        del cost
        return POLICY


class NothingHeld(HeldEntries):
    """Held entries: none."""

    def __init__(self) -> None:
        pass

    def vaults(self) -> dict[uuid.UUID, int]:
        return {}


def restorer(records: Records, cache: VaultCache, keyring: Keyring) -> VaultRestorer:
    """Return a restorer whose Postgres has the records of `records`."""
    return VaultRestorer(records, cache, lambda: keyring, NothingHeld(), lambda: None)


class NoGuesses(GuessLimit):
    """Counts unknown passwords and refuses no client."""

    def __init__(self) -> None:
        self.counted = 0
        self.unanswered = 0
        self.suspected = False
        self.refused: set[str] = set()

    def check(self, client: Client) -> None:
        pass

    def check_waiting(self, client: Client, since: float) -> None:
        del since
        if client.name in self.refused:
            raise TooManyRequestsError("refused", retry_after=1, reason=Refusal.GUESSES)

    def check_new_vault(self, client: Client) -> None:
        pass

    def count(self, client: Client, *, created: bool = False) -> None:
        del client, created
        self.counted += 1

    def count_unanswered(self, client: Client) -> None:
        del client
        self.unanswered += 1

    def suspects(self, client: Client) -> bool:
        return self.suspected or client.name == "suspect"


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    """A keyring."""
    create_keyring_file(tmp_path / "keyring.json")
    return KeyringFile(tmp_path / "keyring.json").current()


@pytest.fixture
def records() -> Records:
    """Return an empty set of records."""
    return Records()


@pytest.fixture
def guesses() -> NoGuesses:
    """Return counters without guesses."""
    return NoGuesses()


@pytest.fixture
def keys() -> list[bytes]:
    """Return the list of passwords for which scrypt was called."""
    return []


@pytest.fixture
def noted_key(keys: list[bytes]) -> PasswordKey:
    """A scrypt that notes its passwords in `keys`."""

    def noted(password: bytes, salt: bytes, log2_n: int) -> bytes:
        keys.append(password)
        return password_key(password, salt, log2_n)

    return noted


@pytest.fixture
def make_vaults(keyring: Keyring, records: Records, guesses: NoGuesses) -> MakeVaults:
    """A function that returns vaults over these records, none of them open."""

    def make(cache: VaultCache, slow_key: PasswordKey) -> Vaults:
        return Vaults(
            lambda: keyring,
            restorer(records, cache, keyring),
            guesses,
            scrypt_log2_n=10,
            slow_key=slow_key,
        )

    return make


@pytest.fixture
def vaults(make_vaults: MakeVaults, noted_key: PasswordKey) -> Iterator[Vaults]:
    """Vaults over these records, none of them open."""
    made = make_vaults(VaultCache(size=10, seconds=60), noted_key)
    yield made
    made.close()


def lookup(keyring: Keyring, password: bytes) -> bytes:
    return scrypt_secret(keyring, password, 10).lookup


def test_a_blocked_lookup_delays_no_other_password(
    vaults: Vaults, records: Records, keyring: Keyring
) -> None:
    records.hold_up(lookup(keyring, b"slow"))
    with ThreadPoolExecutor() as threads:
        slow = threads.submit(vaults.find_or_create, b"slow", CLIENT)
        wait_until(lambda: records.asked == 1, what="the slow one's question")
        other = threads.submit(vaults.find_or_create, b"other", CLIENT).result(LATER)
        assert not slow.done()
        records.go_on.set()
        assert slow.result(LATER).vault_id != other.vault_id


def _ask(
    vaults: Vaults, records: Records, keyring: Keyring, threads: ThreadPoolExecutor
) -> "list[Future[OpenVault]]":
    """Return four concurrent openings of one password whose lookup is blocked."""
    records.hold_up(lookup(keyring, b"same"))
    asked = [threads.submit(vaults.find_or_create, b"same", CLIENT) for _ in range(4)]
    wait_until(lambda: records.asked == 1 and all(each.running() for each in asked), what="all")
    records.go_on.set()
    return asked


def test_concurrent_requests_share_one_opening(
    vaults: Vaults, records: Records, keyring: Keyring, keys: list[bytes], guesses: NoGuesses
) -> None:
    with ThreadPoolExecutor(max_workers=4) as threads:
        opened = [each.result(LATER) for each in _ask(vaults, records, keyring, threads)]
    assert len({vault.vault_id for vault in opened}) == 1
    assert keys == [b"same"]
    assert guesses.counted == 1


def test_a_failed_opening_is_retried(
    vaults: Vaults, records: Records, keyring: Keyring, guesses: NoGuesses
) -> None:
    records.fails = True
    with ThreadPoolExecutor(max_workers=4) as threads:
        for each in _ask(vaults, records, keyring, threads):
            assert isinstance(each.exception(LATER), ConnectionError)
    records.held_up.clear()
    assert vaults.find_or_create(b"same", CLIENT) == vaults.find(b"same", CLIENT)
    assert guesses.unanswered == 4  # each request, though they shared an opening


def test_a_password_in_use_costs_one_scrypt(
    keyring: Keyring,
    records: Records,
    keys: list[bytes],
    noted_key: PasswordKey,
    make_vaults: MakeVaults,
) -> None:
    """The record is read again from time to time. While it is unchanged, no scrypt is needed."""
    clock = Clock()
    vaults = make_vaults(VaultCache(size=10, seconds=10, clock=clock), noted_key)
    first = vaults.find_or_create(b"p", CLIENT)
    asked = records.asked
    for _ in range(3):
        clock.now += 6
        assert [vaults.find_or_create(b"p", CLIENT) for _ in range(2)] == [first] * 2
    assert keys == [b"p"]
    assert records.asked == asked + 3
    records.clear()
    clock.now += 6
    assert vaults.find(b"p", CLIENT) == first, "a vault that Postgres lost was not put back"
    assert records.find([lookup(keyring, b"p")]).record is not None
    assert keys == [b"p"]
    vaults.close()


def test_an_existing_vault_is_reported_once_when_it_is_opened(
    keyring: Keyring, records: Records, guesses: NoGuesses
) -> None:
    """A new vault has no segments, and an open vault was reported before."""
    opened: list[OpenVault] = []

    def process() -> Vaults:
        cache = VaultCache(size=10, seconds=60)
        return Vaults(
            lambda: keyring,
            restorer(records, cache, keyring),
            guesses,
            scrypt_log2_n=10,
            opened=opened.append,
        )

    one, other = process(), process()
    assert one.find(b"new", CLIENT) is None
    one.find_or_create(b"new", CLIENT)
    one.find(b"new", CLIENT)
    assert opened == []
    vault = other.find(b"new", CLIENT)
    other.find_or_create(b"new", CLIENT)
    assert opened == [vault]
    assert guesses.counted == 2
    one.close()
    other.close()


class HeldUp:
    """A scrypt that records the order of the passwords and blocks the first one."""

    def __init__(self) -> None:
        self.order: list[bytes] = []
        self._go_on = threading.Event()

    def __call__(self, password: bytes, salt: bytes, log2_n: int) -> bytes:
        self.order.append(password)
        if password == b"first":
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


def test_a_suspect_with_a_full_queue_learns_nothing(
    make_vaults: MakeVaults, guesses: NoGuesses
) -> None:
    """The answer for a password whose vault is open is that for any other password."""
    slow_key = HeldUp()
    vaults = make_vaults(VaultCache(size=10, seconds=10), slow_key)
    suspect = Client("suspect")
    vaults.find_or_create(b"open", CLIENT)
    with ThreadPoolExecutor(MAX_WAITING_PER_CLIENT + 2) as threads:
        opening = threads.submit(vaults.find, b"first", suspect)
        wait_until(lambda: slow_key.order[-1] == b"first", what="a scrypt")
        waiting = [
            threads.submit(vaults.find, b"guess %d" % each, suspect)
            for each in range(MAX_WAITING_PER_CLIENT)
        ]
        wait_until(lambda: vaults.queue.waiting == len(waiting), what="a full queue")
        refusals = []
        for password in (b"open", b"unknown"):
            with pytest.raises(TooManyRequestsError) as refused:
                vaults.find(password, suspect)
            refusals.append((str(refused.value), refused.value.reason, refused.value.retry_after))
        assert refusals[0] == refusals[1]
        assert vaults.find(b"open", CLIENT) is not None
        guesses.refused.add(suspect.name)  # so that those who wait end at once
        slow_key.go_on()
        opening.result(LATER)
        assert all(isinstance(each.exception(LATER), TooManyRequestsError) for each in waiting)
    assert guesses.unanswered == len(waiting), "each that waited was tested; the others were not"
    vaults.close()
