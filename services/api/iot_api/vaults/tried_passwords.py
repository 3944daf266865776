"""The passwords that each client has tried, so that repeating one does not count as a new guess."""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable

from iot_api.limits.clients import Client
from iot_api.limits.guess_limit import GuessLimit
from iot_api.limits.minute_limit import WINDOW_SECONDS, note
from iot_models.errors import TooManyRequestsError

MAX_FOUND = 20_000
"""Maximum number of remembered pairs (client, password with a vault), about 400 bytes each."""
MAX_FOUND_OF_SENDER = 5_000
"""Maximum number of remembered pairs (client, password with a vault) for one sender
(`Client.sender`). So a sender that invents clients or creates many vaults displaces only a part of
the others' pairs."""

_Pair = tuple[str, bytes]


class TriedPasswords:
    """The passwords that each client has tried in this process, as cache keys.

    A refused opening (`TooManyRequestsError`) tells a client that the vault is not open. So the
    password counts as a guess, once a minute for each client and process. It does not count if the
    client has used the vault in this process before, because the client learns nothing new.

    An opening that failed, for example because a store is away, also tells the client that the
    vault is not open. Its password counts only if the client is a suspect. If it counted for all
    clients, devices with one address and many passwords would use up the address's guess limit
    while a store is away. Their requests would then be refused even for open vaults, and for up to
    a minute after the store is back.
    """

    def __init__(self, guesses: GuessLimit, clock: Callable[[], float] = time.monotonic) -> None:
        self._guesses = guesses
        self._clock = clock
        self._found: OrderedDict[str, OrderedDict[_Pair, None]] = OrderedDict()
        """By sender: its pairs (client, cache key). Senders and pairs used last are at the end."""
        self._size = 0
        self._counted: dict[_Pair, float] = {}
        """By pair (client, cache key): until when the password is not counted again."""

    def note_found(self, client: Client, keys: Iterable[bytes]) -> None:
        """Remember that the client has used the vaults of these passwords."""
        pairs = self._found.get(client.sender)
        if pairs is None:
            pairs = self._found[client.sender] = OrderedDict()
        self._found.move_to_end(client.sender)
        for key in keys:
            pair = (client.name, key)
            self._size += pair not in pairs
            pairs[pair] = None
            pairs.move_to_end(pair)
        while len(pairs) > MAX_FOUND_OF_SENDER:
            self._forget(client.sender)
        while self._size > MAX_FOUND:
            self._forget(next(iter(self._found)))

    def _forget(self, sender: str) -> None:
        """Forget the pair (client, cache key) that this sender used longest ago."""
        pairs = self._found[sender]
        pairs.popitem(last=False)
        self._size -= 1
        if not pairs:
            del self._found[sender]

    def has_found(self, client: Client, keys: Iterable[bytes]) -> bool:
        """Return whether the client has used the vaults of all these passwords."""
        pairs = self._found.get(client.sender, ())
        return all((client.name, key) in pairs for key in keys)

    def count_unanswered(self, client: Client, key: bytes, error: Exception) -> None:
        """Count a password whose opening raised `error`, if that is a guess (see the class)."""
        pair, now = (client.name, key), self._clock()
        if self.has_found(client, [key]) or self._counted.get(pair, now) > now:
            return
        if isinstance(error, TooManyRequestsError) or self._guesses.suspects(client):
            note(self._counted, pair, now + WINDOW_SECONDS)
            self._guesses.count_unanswered(client)
