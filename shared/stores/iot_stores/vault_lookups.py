"""Which lookups a password's vault may be found under, agreed on by all processes in Postgres."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, LiteralString, cast

from iot_cipher.vault import VaultFormat
from iot_models.errors import UnavailableError
from iot_models.settings import MAX_SCRYPT_LOG2_N, MIN_SCRYPT_LOG2_N

from .postgres import Connection

SETTLE_SECONDS: Literal[60] = 60
"""After processes of version 0.1 became unready, their last requests may take this long."""

POLICY_COLUMNS: LiteralString = (
    f"fast_lookups, costs, changed_at < now() - interval '{SETTLE_SECONDS} s'"
)
_SELECT: LiteralString = f"SELECT {POLICY_COLUMNS} FROM vault_lookups"  # noqa: S608 - constants
_RAISE_COST = "SELECT raise_lookup_cost(%s::smallint)"
_END_FAST_LOOKUPS = "SELECT end_fast_lookups(%s * interval '1 s')"
_FORGET_UNUSED = "SELECT forget_unused_lookups()"

_log = logging.getLogger(__name__)


class FastLookups(StrEnum):
    """What becomes of lookups of format 1 (`iot_cipher.vault.VaultFormat.FAST_LOOKUP`)."""

    CREATED = "created"
    """New vaults get one: processes of version 0.1 may run beside this one."""
    KEPT = "kept"
    """Vaults that were not used since have one."""
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class LookupPolicy:
    """The lookups in use at a moment."""

    fast_lookups: FastLookups
    costs: tuple[int, ...]
    """log2 of scrypt's N of each lookup of format 2; new vaults get the last one."""
    old_version_gone: bool = False
    """Whether processes of version 0.1 are gone, so that their vaults may be moved."""

    @property
    def creates_fast_lookups(self) -> bool:
        """Whether new vaults are of format 1."""
        return self.fast_lookups is FastLookups.CREATED

    @property
    def is_transitional(self) -> bool:
        """Whether it changes by itself as time goes on."""
        return self.fast_lookups is not FastLookups.GONE

    def costs_less_than(self, cost: int) -> bool:
        """Whether new vaults are of format 2 and cost less than `cost`."""
        return not self.creates_fast_lookups and (not self.costs or self.costs[-1] < cost)

    def must_move(self, vault_format: int, cost: int) -> bool:
        """Whether a vault of this format and cost is to be moved to the newest lookup."""
        if self.creates_fast_lookups or not self.costs:
            return False
        if vault_format == VaultFormat.FAST_LOOKUP:
            return self.old_version_gone
        return cost < self.costs[-1]


def read_policy(connection: Connection) -> LookupPolicy:
    """The lookups in use. Raises `UnavailableError` when they are wrong."""
    row = connection.execute(_SELECT).fetchone()
    return decode_policy(*cast("tuple[str, list[int], bool]", row or ("", [], False)))


def decode_policy(fast_lookups: str, costs: Sequence[int], old_version_gone: bool) -> LookupPolicy:
    """Decode the values of `POLICY_COLUMNS`.

    Raises:
        UnavailableError: no process stored these values. They are not used: a low cost makes
            passwords cheap to guess, and a high one takes all memory.
    """
    possible = range(MIN_SCRYPT_LOG2_N, MAX_SCRYPT_LOG2_N + 1)
    rising = all(cost in possible for cost in costs) and sorted(set(costs)) == list(costs)
    if fast_lookups not in set(FastLookups) or not rising:
        raise invalid_policy_error(fast_lookups, costs)
    return LookupPolicy(FastLookups(fast_lookups), tuple(costs), old_version_gone)


def invalid_policy_error(fast_lookups: str, costs: Sequence[int]) -> UnavailableError:
    """Log a policy that no process stored; return the error to raise."""
    _log.error("the row of vault_lookups is wrong: %.20r, costs %.80r", fast_lookups, list(costs))
    return UnavailableError("the lookups of passwords in Postgres are wrong; see the log")


def raise_cost(connection: Connection, cost: int) -> None:
    """Let new vaults cost at least `cost` from now on."""
    connection.execute(_RAISE_COST, (cost,))


def end_fast_lookups(connection: Connection, *, after_seconds: float) -> bool:
    """Bring schema 0003 to 0004 when it is `after_seconds` old; True if that was done now."""
    row = connection.execute(_END_FAST_LOOKUPS, (after_seconds,)).fetchone()
    return cast("tuple[bool]", row)[0]


def forget_unused(connection: Connection) -> None:
    """Drop the lookups that no vault has any more, so that they are not computed in vain."""
    connection.execute(_FORGET_UNUSED)
