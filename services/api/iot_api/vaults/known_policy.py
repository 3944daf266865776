"""Which lookups are in use: the `LookupPolicy` in Postgres, as far as this process knows it."""

import logging

from iot_stores.store_states import POSTGRES_UNAVAILABLE, report
from iot_stores.vault_lookups import FastLookups, LookupPolicy
from iot_stores.vault_records import VaultRecords

_log = logging.getLogger(__name__)


class KnownPolicy:
    """Keeps the last `LookupPolicy` that this process has read.

    `forget` drops the policy when the policy in Postgres has changed.
    """

    def __init__(self, records: VaultRecords, scrypt_log2_n: int) -> None:
        self._records = records
        self._scrypt_log2_n = scrypt_log2_n
        self.known: LookupPolicy | None = None
        """The last policy that was read; None if the next use must read it."""

    def current(self) -> LookupPolicy:
        """Return which lookups are in use.

        If Postgres is away and this process knows no policy, return a policy with the lookups of
        both vault formats (`VaultFormat`). In this policy, lookups of format 2 have the scrypt cost
        of this process.

        Raises:
            UnavailableError: the policy in Postgres is invalid, or its scrypt cost could not be
                raised to the cost of this process.
        """
        policy = self.known
        if policy is None or policy.is_transitional or policy.costs_less_than(self._scrypt_log2_n):
            try:
                policy = self.known = self._records.raise_cost(self._scrypt_log2_n)
            except POSTGRES_UNAVAILABLE as error:
                report(_log, "could not read which lookups are in use", error)
                if policy is None or not (policy.costs or policy.creates_fast_lookups):
                    return LookupPolicy(FastLookups.KEPT, (self._scrypt_log2_n,))
        return policy

    def forget(self) -> None:
        """Make the next use read the policy from Postgres, because it has changed."""
        self.known = None

    @property
    def old_processes_may_run(self) -> bool:
        """Whether processes of version 0.1 may still run, as far as this process knows."""
        policy = self.known
        if policy is None or policy.creates_fast_lookups:
            return True
        return not policy.old_version_gone and policy.fast_lookups is not FastLookups.GONE
