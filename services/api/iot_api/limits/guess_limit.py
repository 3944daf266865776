"""The guess limit: how many unknown passwords a client may send in a minute.

A password is unknown if a read finds no vault for it, or if a PUT creates its vault.
"""

import math

from redis import Redis

from iot_models import metrics
from iot_models.errors import Refusal
from iot_models.names import KeyNames

from .clients import Client
from .minute_limit import WINDOW_SECONDS, MinuteLimit, note

_SENTENCE = "too many unknown passwords from this address"
_NEW_VAULTS_SENTENCE = "too many new passwords from this address; nothing was stored"


class GuessLimit(MinuteLimit):
    """The counters of unknown passwords and of new vaults, and the suspects of this process."""

    def __init__(
        self,
        client: "Redis",
        names: KeyNames,
        *,
        limit: int,
        new_vault_limit: int = 0,
        max_openings: int = 16,
    ) -> None:
        super().__init__(
            client, names.guesses, limit=limit, sentence=_SENTENCE, reason=Refusal.GUESSES
        )
        self._new_vaults = MinuteLimit(
            client, names.new_vaults, limit=new_vault_limit, sentence=_NEW_VAULTS_SENTENCE,
            reason=Refusal.NEW_VAULTS,
        )  # fmt: skip
        self.max_openings = max_openings
        """Maximum number of vaults that one request may open."""
        self._suspects: dict[str, float] = {}
        """Senders (`Client.sender`) of unknown passwords, and until when each is a suspect."""
        self._unanswered: dict[str, tuple[int, float]] = {}
        """For each client (`Client.name`) that was not a suspect: the number of its passwords that
        `count_unanswered` noted, and until when they count."""

    def check_new_vault(self, client: Client) -> None:
        """Refuse a client that has created too many vaults.

        Raises:
            TooManyRequestsError: the client is over the limit.
        """
        self._new_vaults.check(client)

    def count(self, client: Client, *, created: bool = False) -> None:
        """Count an unknown password. `created`: a vault was created for it.

        Also counts what `count_unanswered` has noted for the client.
        """
        metrics.counter("iot_unknown_passwords_total").inc()
        now = self._clock()
        note(self._suspects, client.sender, now + WINDOW_SECONDS)
        unanswered, until = self._unanswered.pop(client.name, (0, 0.0))
        # At most the limit: clients that share a wider limit are not locked out by one of them.
        self.add(client, 1 + min(unanswered if until > now else 0, self._limit))
        if created:
            self._new_vaults.count(client)

    def count_unanswered(self, client: Client) -> None:
        """Count a password whose opening was refused or failed.

        The client has learned that the vault is not open, so a suspect's password counts towards
        the guess limit. For other clients it counts when they become suspects within a minute: a
        site that has only known passwords must not be locked out because all of them have to be
        opened after a restart.
        """
        if self.suspects(client):
            self.add(client, 1)
            return
        now = self._clock()
        count, until = self._unanswered.get(client.name, (0, 0.0))
        noted = (count + 1, until) if until > now else (1, now + WINDOW_SECONDS)
        note(self._unanswered, client.name, noted)

    def suspects(self, client: Client) -> bool:
        """Return whether the client is a suspect: whether its `sender` sent an unknown password to
        this process in the last minute.
        """
        return self._suspects.get(client.sender, -math.inf) > self._clock()
