"""A text under a key of a Secret: tokens.json, a keyring, or the keys of the writers."""

import sys
from collections.abc import Callable

from .connection import connect
from .first_secrets import KEYRING, TOKENS, WRITER_KEYS, keyring, tokens, writer_keys
from .secret_creation import ANNOTATIONS, LABELS, SecretCreation, SecretRequest
from .secret_objects import ClusterError, SecretObject, SecretObjects

_ATTEMPTS = 20
_PATIENCE = 15.0


class TextInSecret:
    """The text under one key of a Secret. `change` leaves the other keys unchanged."""

    def __init__(self, secrets: SecretObjects, secret: str, key: str, about: str) -> None:
        """`about` is the description that the Secret gets if `change` has to create it."""
        self.name = f"Secret {secret} in namespace {secrets.namespace}"
        self.absence = ""
        self._secrets = secrets
        self._secret = secret
        self._key = key
        self._about = about

    def read(self) -> str | None:
        """Return the text, or None if the Secret or its key does not exist (see `absence`)."""
        return self._text(self._secrets.read(self._secret))

    def change(self, change: Callable[[str | None], str]) -> None:
        """Replace the text by `change(text)`. Create the Secret or its key if necessary.

        Print a line if the Secret or the key was created: its name may be a mistake.

        `text` is None if the Secret has no text yet. If another client has changed the Secret
        meanwhile, `change` is called again with the new text.
        """
        written: str | None = None
        for _ in range(_ATTEMPTS):
            found = self._secrets.read(self._secret)
            text = self._text(found)
            if written is not None and text == written:
                return  # the last attempt succeeded, and only its response was lost
            written = change(text)
            if self._write(found, written):
                if text is None:
                    what = "created" if found is None else f"added the key {self._key}"
                    print(f"{self.name}: {what}", file=sys.stderr)  # a new token goes to stdout
                return
        raise ClusterError(f"other clients keep changing {self.name}; try again")

    def _write(self, found: SecretObject | None, text: str) -> bool:
        if found is not None:
            return self._secrets.change(found, {self._key: text})
        annotations = {**ANNOTATIONS, "kubernetes.io/description": self._about}
        return self._secrets.create(
            self._secret, {self._key: text}, labels=LABELS, annotations=annotations
        )

    def _text(self, found: SecretObject | None) -> str | None:
        if found is None:
            self.absence = "does not exist"
            return None
        self.absence = f"has no value for the key {self._key}"
        return found.content.get(self._key)


def tokens_in_secret(secret: str, namespace: str | None) -> TextInSecret:
    """Return an object that reads and changes the tokens.json in a Secret."""
    return TextInSecret(_open(namespace), secret, TOKENS, tokens(secret, dict).about)


def keyring_in_secret(secret: str, key: str | None, namespace: str | None) -> TextInSecret:
    """Return an object that reads and changes the keyring under a key of a Secret."""
    key = key or KEYRING
    return TextInSecret(_open(namespace), secret, key, keyring(secret, key).about)


def writer_keys_in_secret(secret: str, key: str | None, namespace: str | None) -> TextInSecret:
    """Return an object that reads and changes the writers' keys under a key of a Secret."""
    key = key or WRITER_KEYS
    return TextInSecret(_open(namespace), secret, key, writer_keys(secret, str).about)


def create_keyring_secret(secret: str, namespace: str | None) -> None:
    """Create a Secret with a new keyring. If the Secret exists, leave it unchanged."""
    SecretCreation(_open(namespace), SecretRequest(keyring=secret)).run()


def _open(namespace: str | None) -> SecretObjects:
    return SecretObjects(
        connect(namespace),
        patience=_PATIENCE,
        report=lambda line: print(line, file=sys.stderr),  # a new token goes to stdout
    )
