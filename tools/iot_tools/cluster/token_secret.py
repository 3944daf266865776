"""A tokens.json in a Secret of a cluster."""

import sys
from collections.abc import Callable

from .connection import connect
from .first_secrets import TOKENS, tokens
from .secret_creation import ANNOTATIONS, LABELS
from .secret_objects import ClusterError, SecretObject, SecretObjects

_ATTEMPTS = 20
_PATIENCE = 15.0


class TokensInSecret:
    """A tokens.json in a Secret, under the key that the chart mounts. Other keys stay."""

    def __init__(self, secrets: SecretObjects, secret: str) -> None:
        self.name = f"Secret {secret} in namespace {secrets.namespace}"
        self._secrets = secrets
        self._secret = secret

    def read(self) -> str | None:
        """Return the text; None if there is none."""
        return self._text(self._secrets.read(self._secret))

    def change(self, change: Callable[[str | None], str]) -> None:
        """Replace the text by what `change` returns. Retry when another client was faster."""
        written: str | None = None
        for _ in range(_ATTEMPTS):
            found = self._secrets.read(self._secret)
            text = self._text(found)
            if written is not None and text == written:
                return  # the last attempt succeeded, and only its response was lost
            written = change(text)
            if self._write(found, written):
                return
        raise ClusterError(f"other clients keep changing {self.name}; try again")

    def _write(self, found: SecretObject | None, text: str) -> bool:
        if found is not None:
            return self._secrets.change(found, {TOKENS: text})
        annotations = {**ANNOTATIONS, "kubernetes.io/description": tokens(self._secret, dict).about}
        return self._secrets.create(
            self._secret, {TOKENS: text}, labels=LABELS, annotations=annotations
        )

    def _text(self, found: SecretObject | None) -> str | None:
        return None if found is None else found.content.get(TOKENS)


def tokens_in_secret(secret: str, namespace: str | None) -> TokensInSecret:
    """Open a tokens.json in the configured cluster. Progress goes to stderr, tokens to stdout."""
    secrets = SecretObjects(
        connect(namespace),
        patience=_PATIENCE,
        report=lambda line: print(line, file=sys.stderr),
    )
    return TokensInSecret(secrets, secret)
