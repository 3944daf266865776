"""Open the vaults of a PUT, up to a limit."""

from collections.abc import Sequence

from iot_api.limits.clients import Client
from iot_api.vaults.opening import Vaults
from iot_cipher.encryption import OpenVault
from iot_models.errors import Refusal, TooManyRequestsError, UnavailableError

from .parser import Batch

_MAX_ATTEMPTS = 3


class PutOpenings:
    """Opens the vaults of PUTs.

    `Intake` uses this class if a vault of the PUT is not open, or is new to the client.
    """

    def __init__(self, vaults: Vaults, max_openings: int) -> None:
        """One request may open at most `max_openings` vaults."""
        self._vaults = vaults
        self._max_openings = max_openings

    def open(
        self, batches: Sequence[Batch], keys: Sequence[bytes], client: Client
    ) -> list[OpenVault]:
        """Return the vaults of a request. `keys` are the cache keys of the passwords.

        If a vault is erased or gets another password meanwhile, all vaults are looked up again.

        Raises:
            TooManyRequestsError: the request may open no more vaults. Or the client is over the
                guess limit or the limit of new vaults. Or too many requests wait for a scrypt.
            UnavailableError: during each of several attempts, a password was changed or a vault was
                erased.
            RedisError, psycopg.Error: a store is away.
        """
        cache = self._vaults.cache
        for _ in range(_MAX_ATTEMPTS):
            noted = cache.changes_noted
            vaults = self._open_each(batches, keys, client)
            self._vaults.catch_up()
            if cache.changes_noted == noted:
                return vaults
        raise UnavailableError("passwords are being changed, or vaults are being erased; try again")

    def _open_each(
        self, batches: Sequence[Batch], keys: Sequence[bytes], client: Client
    ) -> list[OpenVault]:
        """Open the vaults that are not open, one by one, and return all.

        After `max_openings` openings, refuse the request if the next vault is not open. Also refuse
        it if one of the remaining vaults is new to the client: otherwise the answer would tell the
        client which vaults are open.
        """
        vaults, opened, left = list[OpenVault](), 0, 0
        cache, has_found = self._vaults.cache, self._vaults.tried.has_found
        for number, (key, batch) in enumerate(zip(keys, batches, strict=True)):
            is_open = cache.get(key) is not None
            may_open = opened < self._max_openings
            if not may_open and not (is_open and has_found(client, keys[number:])):
                raise _too_many_openings(opened, left)
            vault = None
            if is_open:
                # `find_or_create` makes the same check before it looks whether the vault is open.
                if not has_found(client, [key]):
                    self._vaults.admit(client, key).cancel()
                vault = cache.writable(key) or self._vaults.open_vault(batch.password, client)
            if vault is None:
                vault = self._vaults.find_or_create(batch.password, client)
                opened += 1
                left = len(batches) - number - 1
            vaults.append(vault)
        return vaults


def _too_many_openings(opened: int, left: int) -> TooManyRequestsError:
    """Return the error for a request that may open no more vaults.

    `opened` is the number of vaults that the request has opened. They stay open, so the next
    attempt gets further. `left` is the number of passwords after the last one whose vault the
    request has opened. It includes passwords whose vaults were open before, so that the client does
    not learn how many vaults are open.
    """
    return TooManyRequestsError(
        f"the server has opened {opened} vaults for this request, and {left} passwords are left; "
        "nothing was stored, send the request again",
        retry_after=1,
        reason=Refusal.OPENINGS,
        opened=opened,
        left=left,
    )
