"""One search for the vault of a password."""

from collections.abc import Iterator

from iot_cipher.keyring import Keyring
from iot_cipher.vault import (
    OpenVault,
    PasswordKey,
    PasswordSecret,
    VaultFormat,
    VaultRecord,
    fast_secret,
    open_vault,
    scrypt_secret,
)
from iot_models.errors import DecryptionError
from iot_stores.vault_lookups import FastLookups, LookupPolicy


class PasswordSearch:
    """One password's secrets under all lookups in use, each computed once."""

    def __init__(
        self,
        keyring: Keyring,
        password: bytes,
        scrypt_log2_n: int,
        slow_key: PasswordKey,
        missed: tuple[bytes, ...] = (),
    ) -> None:
        self.keyring = keyring
        self.missed = missed
        """Lookups of the password as it was sent, if this one is its normal form."""
        self._password = password
        self._scrypt_log2_n = scrypt_log2_n
        self._slow_key = slow_key
        self._made: dict[tuple[VaultFormat, int], PasswordSecret] = {}

    def secrets(self, policy: LookupPolicy) -> Iterator[PasswordSecret]:
        """The secret of new vaults, then those of the older lookups in use."""
        if not policy.creates_fast_lookups:
            for cost in reversed(policy.costs):
                yield self._secret(VaultFormat.SCRYPT_LOOKUP, cost)
        if policy.fast_lookups is not FastLookups.GONE:
            yield self._secret(VaultFormat.FAST_LOOKUP, self._scrypt_log2_n)

    @property
    def lookups(self) -> tuple[bytes, ...]:
        """The lookups that were computed."""
        return tuple(secret.lookup for secret in self._made.values())

    def open(self, record: VaultRecord) -> OpenVault:
        """Open the record that was found. Raises `DecryptionError`: it is damaged."""
        for secret in self._made.values():
            if secret.lookup == record.lookup:
                return open_vault(self.keyring, record, secret)
        raise DecryptionError("a vault record is not the one that was looked up")

    def _secret(self, vault_format: VaultFormat, cost: int) -> PasswordSecret:
        made = self._made.get((vault_format, cost))
        if made is None:
            fast = vault_format is VaultFormat.FAST_LOOKUP
            make = fast_secret if fast else scrypt_secret
            made = make(self.keyring, self._password, cost, slow_key=self._slow_key)
            self._made[vault_format, cost] = made
        return made
