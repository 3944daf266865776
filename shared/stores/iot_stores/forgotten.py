"""Forgotten entries: so old that the ledger may have forgotten their session.

Such an entry comes from an old copy of Redis, or from a dead letter. Whether it is stored can't be
told any more. An entry whose session is in the ledger is stored exactly once at any age.
"""

from collections.abc import Sequence
from typing import NamedTuple

from . import ledger
from .clocks import postgres_now
from .ledger import SessionOf
from .postgres import Connection

TOO_OLD_MS = 60 * 86_400_000
"""The ledger keeps a session for longer after its last entry (`retention.SESSION_DAYS`)."""
REASON = (
    "sealed more than 60 days ago, and the ledger does not know its session: it can't be told "
    "whether its readings are stored"
)


class DatedEntry(NamedTuple):
    """An entry's session, and when it was taken in."""

    session: SessionOf
    received: int
    """Unix milliseconds, by Redis's clock."""
    sealed: int
    """Unix milliseconds, by the clock of the API process."""

    def is_older_than(self, moment: int) -> bool:
        """Whether both of its times are. One of the two clocks may have been behind."""
        return max(self.received, self.sealed) < moment


def find_forgotten(
    connection: Connection, entries: Sequence[DatedEntry], now: int
) -> set[DatedEntry]:
    """Those of the entries that are too old and of no session that the ledger knows.

    `now` is the time by Redis's clock. If it is ahead, Postgres's tells. Postgres is asked only
    about entries that are too old by Redis's clock.
    """
    old = [each for each in entries if each.is_older_than(now - TOO_OLD_MS)]
    if not old:
        return set()
    surely = min(now, postgres_now(connection)) - TOO_OLD_MS
    known = ledger.known_sessions(connection, {each.session for each in old})
    return {each for each in old if each.is_older_than(surely) and each.session not in known}
