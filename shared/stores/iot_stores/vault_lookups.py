"""The policy for lookups: which formats and scrypt costs they have. Stored in Postgres.

All processes of an installation read the same policy, so each process finds the vaults that other
processes create.
"""

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
"""Time after the migration to schema 0004 in which processes of version 0.1 finish their last
requests. With this schema, these processes are not ready, so they get no new requests."""

POLICY_COLUMNS: LiteralString = (
    f"fast_lookups, costs, changed_at < now() - interval '{SETTLE_SECONDS} s'"
)
_SELECT: LiteralString = f"SELECT {POLICY_COLUMNS} FROM vault_lookups"  # noqa: S608 - constants
_RAISE_COST = "SELECT raise_lookup_cost(%s::smallint)"
_END_FAST_LOOKUPS = "SELECT end_fast_lookups(%s * interval '1 s')"
_FORGET_UNUSED = "SELECT forget_unused_lookups()"

_log = logging.getLogger(__name__)


class FastLookups(StrEnum):
    """Whether lookups of format 1 are still created, still exist, or are gone.

    These lookups cost no scrypt (`VaultFormat.FAST_LOOKUP`).
    """

    CREATED = "created"
    """New vaults get format 1, because processes of version 0.1 may still run."""
    KEPT = "kept"
    """New vaults get format 2. Some old vaults still have format 1, until they are used again."""
    GONE = "gone"
    """All vaults have format 2."""


@dataclass(frozen=True, slots=True)
class LookupPolicy:
    """The formats and scrypt costs of the lookups in use at one moment."""

    fast_lookups: FastLookups
    costs: tuple[int, ...]
    """scrypt costs (log2 of N) of the lookups of format 2, rising. New vaults get the last cost."""
    old_version_gone: bool = False
    """Whether the database has had schema 0003 or 0004 for more than `SETTLE_SECONDS`.

    If new vaults have format 2, all processes of version 0.1 have ended within this time, so vaults
    of format 1 may get a new lookup."""

    @property
    def creates_fast_lookups(self) -> bool:
        """Whether new vaults are of format 1."""
        return self.fast_lookups is FastLookups.CREATED

    @property
    def is_transitional(self) -> bool:
        """Whether the upgrade from version 0.1 is incomplete.

        During the upgrade, writers may change the policy, so callers read it before each use.
        """
        return self.fast_lookups is not FastLookups.GONE

    def costs_less_than(self, cost: int) -> bool:
        """Return whether `raise_cost` would raise the scrypt cost of new vaults to `cost`.

        Return False while new vaults have format 1, whose lookups cost no scrypt.
        """
        return not self.creates_fast_lookups and (not self.costs or self.costs[-1] < cost)

    def must_move(self, vault_format: int, cost: int) -> bool:
        """Return whether a vault must be moved: get a new lookup, like those of new vaults.

        - Format 1: True once `old_version_gone` is set.
        - Format 2: True if the vault's scrypt cost is lower than that of new vaults.

        While new vaults have format 1, no vault is moved.
        """
        if self.creates_fast_lookups or not self.costs:
            return False
        if vault_format == VaultFormat.FAST_LOOKUP:
            return self.old_version_gone
        return cost < self.costs[-1]


def read_policy(connection: Connection) -> LookupPolicy:
    """Return the policy in Postgres. Raises `UnavailableError` if it is invalid."""
    row = connection.execute(_SELECT).fetchone()
    return decode_policy(*cast("tuple[str, list[int], bool]", row or ("", [], False)))


def decode_policy(fast_lookups: str, costs: Sequence[int], old_version_gone: bool) -> LookupPolicy:
    """Decode the values of `POLICY_COLUMNS`.

    Raises:
        UnavailableError: `fast_lookups` is unknown, or a cost is out of range or not above the cost
            before it. Too low a cost would make passwords cheap to guess, too high a cost would use
            up the memory.
    """
    possible = range(MIN_SCRYPT_LOG2_N, MAX_SCRYPT_LOG2_N + 1)
    rising = all(cost in possible for cost in costs) and sorted(set(costs)) == list(costs)
    if fast_lookups not in set(FastLookups) or not rising:
        raise invalid_policy_error(fast_lookups, costs)
    return LookupPolicy(FastLookups(fast_lookups), tuple(costs), old_version_gone)


def invalid_policy_error(fast_lookups: str, costs: Sequence[int]) -> UnavailableError:
    """Log the values of an invalid policy. Return the error for the caller to raise."""
    _log.error(
        "the row in the table vault_lookups is invalid: fast_lookups %.20r, costs %.80r",
        fast_lookups,
        list(costs),
    )
    return UnavailableError("the lookup policy in Postgres is invalid; see the log")


def raise_cost(connection: Connection, cost: int) -> None:
    """Raise the scrypt cost of new vaults to `cost`, unless it is higher already.

    Do nothing while new vaults have format 1 (`FastLookups.CREATED`).
    """
    connection.execute(_RAISE_COST, (cost,))


def end_fast_lookups(connection: Connection, *, after_seconds: float) -> bool:
    """Finish an upgrade from version 0.1: migrate schema 0003 to 0004. Return whether it was done.

    From then on, new vaults get format 2. Do nothing if new vaults already get format 2, or if
    `iot-sensor migrate` ran less than `after_seconds` ago, because processes of version 0.1 may
    still run.
    """
    row = connection.execute(_END_FAST_LOOKUPS, (after_seconds,)).fetchone()
    return cast("tuple[bool]", row)[0]


def forget_unused(connection: Connection) -> None:
    """Update the policy: remove old formats and costs that no vault has any more.

    Requests then compute fewer lookups.
    """
    connection.execute(_FORGET_UNUSED)
