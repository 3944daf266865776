"""Forgotten entries: entries so old that the ledger may have deleted their session.

Without the session, nobody knows whether the entry is stored. Forgotten entries come from an old
backup of Redis or from a dead letter.
"""

from collections.abc import Sequence
from typing import NamedTuple

from iot_cipher.encryption import Opener, decode_entry, entry_name
from iot_models.errors import IotError

from . import ledger
from .clocks import postgres_now
from .dead_letters import DeadLetter
from .ledger import SessionKey
from .postgres import Connection

TOO_OLD_MS = 60 * 86_400_000
"""Age above which an entry may be forgotten. The ledger keeps sessions for longer
(`retention.SESSION_DAYS`)."""
REASON = (
    "sealed more than 60 days ago, and the ledger does not know its session: its readings may be "
    "stored already"
)


class DatedEntry(NamedTuple):
    """An entry's session, and when the entry was received and sealed."""

    session: SessionKey
    received: int
    """Time of receipt: Unix milliseconds by Redis's clock."""
    sealed: int
    """When an API process sealed the entry: Unix milliseconds by the clock of the API process."""

    def is_older_than(self, moment: int) -> bool:
        """Return whether the entry was both received and sealed before `moment`.

        `moment` is in Unix milliseconds. If only one of the two times is before `moment`, the
        clock of this time may have been behind: return False.
        """
        return max(self.received, self.sealed) < moment


def find_forgotten(
    connection: Connection, entries: Sequence[DatedEntry], now: int
) -> set[DatedEntry]:
    """Return the entries that are older than `TOO_OLD_MS` and whose session the ledger lacks.

    `now` is the time by Redis's clock. Entries that are too old by this clock are checked with
    Postgres's clock, too: Redis's clock may be ahead. If no entry is too old, Postgres gets no
    query.
    """
    old = [entry for entry in entries if entry.is_older_than(now - TOO_OLD_MS)]
    if not old:
        return set()
    limit = min(now, postgres_now(connection)) - TOO_OLD_MS
    known = ledger.known_sessions(connection, {entry.session for entry in old})
    return {entry for entry in old if entry.is_older_than(limit) and entry.session not in known}


def is_forgotten(connection: Connection, opener: Opener, letter: DeadLetter, now: int) -> bool:
    """Return whether a dead letter's entry is forgotten (`find_forgotten`).

    Call this before a replay: a drain would set the entry aside again or, if the entry gets a new
    time of receipt, might store it a second time. Return False if the letter can't be opened: a
    drain can't open the entry either, and stores nothing. `now` is the time by Redis's clock.
    """
    try:
        sealed = decode_entry(opener.open(letter.shard, letter.sealed).content).sealed_at
    except IotError:
        return False
    session = letter.shard, entry_name(letter.shard, letter.sealed).session
    dated = DatedEntry(session, letter.received, sealed)
    return bool(find_forgotten(connection, [dated], now))
