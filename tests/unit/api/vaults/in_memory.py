"""Vault records and guess counters in memory, for tests of openings."""

import threading
import uuid
from collections.abc import Collection, Iterable, Sequence

from iot_api.limits.clients import Client
from iot_api.limits.guess_limit import GuessLimit
from iot_api.vaults.cache import VaultCache
from iot_api.vaults.restorer import VaultRestorer
from iot_cipher.keyring import Keyring
from iot_cipher.vault import VaultRecord, scrypt_secret
from iot_models.audit_event import AuditEvent
from iot_models.errors import Refusal, TooManyRequestsError
from iot_stores.held_entries import HeldEntries
from iot_stores.vault_lookups import FastLookups, LookupPolicy
from iot_stores.vault_records import FoundVault, VaultRecords

LATER = 10.0
POLICY = LookupPolicy(FastLookups.GONE, (10,))
CLIENT = Client("192.0.2.1")


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

    def show(self, records: Iterable[VaultRecord], *, hidden_for: int = 0) -> None:
        pass

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
        self.unanswered: list[str] = []
        """The names of the clients whose passwords `count_unanswered` counted."""
        self.suspected = False
        self.refused: set[str] = set()

    @property
    def is_on(self) -> bool:
        return True

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
        self.unanswered.append(client.name)

    def suspects(self, client: Client) -> bool:
        return self.suspected or client.name == "suspect"


def lookup(keyring: Keyring, password: bytes) -> bytes:
    return scrypt_secret(keyring, password, 10).lookup
