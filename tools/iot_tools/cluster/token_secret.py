"""A tokens.json in a Secret of the cluster."""

import sys
from collections.abc import Callable

from .connection import connect
from .create import KEPT, OURS
from .first_secrets import TOKENS, tokens
from .secret_objects import ClusterError, SecretObject, SecretObjects

_ATTEMPTS = 20
_PATIENCE = 15.0


class TokensInSecret:
    """A tokens.json in a Secret, under the key that the chart mounts. Other keys are left alone."""

    def __init__(self, secrets: SecretObjects, secret: str) -> None:
        self.name = f"Secret {secret} in namespace {secrets.namespace}"
        self._secrets = secrets
        self._secret = secret

    def read(self) -> str | None:
        """The text as it stands, None when there is none."""
        return self._text(self._secrets.read(self._secret))

    def change(self, change: Callable[[str | None], str]) -> None:
        """Keep what `change` makes of the text. Done again when somebody else was faster."""
        written: str | None = None
        for _ in range(_ATTEMPTS):
            found = self._secrets.read(self._secret)
            text = self._text(found)
            if written is not None and text == written:
                return  # it was done, and only the answer got lost
            written = change(text)
            if self._write(found, written):
                return
        raise ClusterError(f"{self.name} is changed by others all the time; try again")

    def _write(self, found: SecretObject | None, text: str) -> bool:
        if found is not None:
            return self._secrets.change(found, {TOKENS: text})
        notes = {**KEPT, "kubernetes.io/description": tokens(self._secret, dict).about}
        return self._secrets.create(self._secret, {TOKENS: text}, labels=OURS, annotations=notes)

    def _text(self, found: SecretObject | None) -> str | None:
        return None if found is None else found.content.get(TOKENS)


def tokens_in_secret(secret: str, namespace: str | None) -> TokensInSecret:
    """At the cluster that is at hand. What goes on is told on stderr: a token goes to stdout."""
    secrets = SecretObjects(
        connect(namespace),
        patience=_PATIENCE,
        tell=lambda line: print(line, file=sys.stderr),
    )
    return TokensInSecret(secrets, secret)
