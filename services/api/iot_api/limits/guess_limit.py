"""The guess limit: how many unknown passwords a client may send in a minute.

A password is unknown if a read finds no vault for it, or if a PUT creates its vault.
"""

import math
import time

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
        redis: "Redis",
        names: KeyNames,
        *,
        limit: int,
        new_vault_limit: int = 0,
    ) -> None:
        super().__init__(
            redis, names.guesses, limit=limit, sentence=_SENTENCE, reason=Refusal.GUESSES
        )
        self._new_vaults = MinuteLimit(
            redis, names.new_vaults, limit=new_vault_limit, sentence=_NEW_VAULTS_SENTENCE,
            reason=Refusal.NEW_VAULTS,
        )  # fmt: skip
        self._suspects: dict[str, float] = {}
        """Senders (`Client.sender`) of unknown passwords, and until when each is a suspect."""

    def check_new_vault(self, client: Client) -> None:
        """Refuse a client that has created too many vaults.

        Raises:
            TooManyRequestsError: the client is over the limit.
        """
        self._new_vaults.check(client)

    def count(self, client: Client, *, created: bool = False) -> None:
        """Count an unknown password, and make the client a suspect.

        `created`: a vault was created for the password.
        """
        metrics.counter("iot_unknown_passwords_total").inc()
        note(self._suspects, client.sender, time.monotonic() + WINDOW_SECONDS)
        super().count(client)
        if created:
            self._new_vaults.count(client)

    def count_unanswered(self, client: Client) -> None:
        """Count a refused or failed opening of a vault like an unknown password.

        An open vault needs no opening, so a failure tells the client that the vault is not open.
        The client does not become a suspect.
        """
        super().count(client)

    def suspects(self, client: Client) -> bool:
        """Return whether the client sent an unknown password to this process in the last minute.

        All clients behind one untrusted proxy count as one (`Client.sender`).
        """
        return self._suspects.get(client.sender, -math.inf) > time.monotonic()
