"""A keyring, and the writers' keys derived from it, in files or in Secrets."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from iot_cipher.keyring import KeyId, Keyring, is_for_writers, parse_keyring
from iot_cipher.keyring_changes import with_new_key
from iot_cipher.writer_keys import parse_writer_keys, writer_keys_text
from iot_models.errors import SettingsError

from .file_on_disk import FileOnDisk, StoredText
from .secret_options import add_namespace, refuse_without

VARIABLE = "IOT_KEYRING_FILE"


class StoredKeyring:
    """A keyring that commands change, and the writers' keys, which are derived from it."""

    def __init__(self, keyring: StoredText, writer_keys: StoredText | None) -> None:
        self.name = keyring.name
        self._source = keyring
        self._writer_keys = writer_keys

    def read(self) -> Keyring:
        """Return the keyring as it is now.

        Raises:
            SettingsError: the keyring does not exist or is invalid.
        """
        return parse_keyring(self.text())

    def text(self) -> str:
        """Return the text of the keyring. Raises `SettingsError` if the keyring does not exist."""
        return self._required(self._source.read())

    def change(self, change: Callable[[str], str]) -> None:
        """Replace the text of the keyring by `change(text)`, and derive the writers' keys again."""
        self.derive_writer_keys()  # refuses a wrong file before anything is changed
        self._source.change(lambda text: change(self._required(text)))
        self.derive_writer_keys()

    def add_key(self) -> KeyId:
        """Add a master key, which is not primary. Return its id."""
        added = 0

        def add(text: str) -> str:
            nonlocal added
            changed, added = with_new_key(text)
            return changed

        self.change(add)
        return added

    @property
    def derivation(self) -> str:
        """Text that tells the user to derive the writers' keys again.

        It is empty if an option names the writers' keys: in this case, `change` derives them.
        """
        if self._writer_keys is not None:
            return ""
        source = f"--keyring {self.name}" if isinstance(self._source, FileOnDisk) else ""
        how = (
            f"`iot-sensor keys writer {source} --file FILE`"
            if source
            else "with `--writer-secret`, or `iot-sensor keys writer`"
        )
        return f"Derive the writers' keys again: {how}."

    def derive_writer_keys(self) -> None:
        """Derive the writers' keys again, if they do not match the keyring.

        Do nothing if no option names the writers' keys.
        """
        if self._writer_keys is None:
            return

        def derive(present: str | None) -> str:
            if present is not None and not is_for_writers(present):
                # The file or Secret may hold the keyring itself, which must not be lost.
                raise SettingsError(
                    f"{writer_keys.name} is not overwritten, because it does not hold writers' "
                    "keys: name another file or Secret"
                )
            return writer_keys_text(self.read())

        writer_keys = self._writer_keys
        if writer_keys.read() != writer_keys_text(self.read()):
            writer_keys.change(derive)

    def retired_key_of_writers(self) -> KeyId | None:
        """Return the id of the newest retired master key that a writers' key is derived from.

        Return None if no writers' key is derived from a retired master key, or if the writers' keys
        are not found.
        """
        text = None if self._writer_keys is None else self._writer_keys.read()
        if text is None or not is_for_writers(text):
            return None
        left = set(parse_writer_keys(text).key_ids) & set(self.read().retired)
        return max(left, default=None)

    def _required(self, text: str | None) -> str:
        if text is None:
            raise SettingsError(
                f"{self.name} {self._source.absence}: name another keyring, or create one with "
                "`iot-sensor keys create`"
            )
        return text


def add_keyring_options(action: argparse.ArgumentParser, *, writer_keys: bool) -> None:
    """Add the options that name the keyring, and with `writer_keys` also the writers' keys."""
    where = action.add_mutually_exclusive_group()
    where.add_argument("--keyring", type=Path, help=f"keyring file; default: {VARIABLE}")
    where.add_argument("--secret", help="Secret with the keyring in the cluster, instead of a file")
    action.add_argument(
        "--secret-key",
        metavar="KEY",
        help="key that holds the keyring in the Secret (default keyring.json)",
    )
    add_namespace(action)
    if not writer_keys:
        return
    derived = action.add_mutually_exclusive_group()
    derived.add_argument(
        "--writer-keys",
        type=Path,
        help="file with the writers' keys; the command derives them again",
    )
    derived.add_argument(
        "--writer-secret",
        metavar="SECRET",
        help="Secret with the writers' keys; the command derives them again",
    )
    action.add_argument(
        "--writer-secret-key",
        metavar="KEY",
        help="key that holds the writers' keys in the Secret of --writer-secret "
        "(default writer-keys.json)",
    )


def stored_keyring(parsed: argparse.Namespace) -> StoredKeyring:
    """Return the keyring and the writers' keys that the options name.

    Raises:
        SettingsError: neither an option nor IOT_KEYRING_FILE names the keyring, or an option for a
            Secret is given without the Secret.
    """
    refuse_without(parsed, "secret_key", "secret")
    refuse_without(parsed, "writer_secret_key", "writer_secret")
    refuse_without(parsed, "namespace", "secret", "writer_secret")
    return StoredKeyring(_keyring(parsed), _writer_keys(parsed))


def _keyring(parsed: argparse.Namespace) -> StoredText:
    if parsed.secret is None:
        return FileOnDisk(_path(parsed))
    from iot_tools.cluster.secret_text import keyring_in_secret  # noqa: PLC0415 -- slow import

    return keyring_in_secret(parsed.secret, parsed.secret_key, parsed.namespace)


def _writer_keys(parsed: argparse.Namespace) -> StoredText | None:
    if getattr(parsed, "writer_keys", None) is not None:
        return FileOnDisk(parsed.writer_keys)
    if getattr(parsed, "writer_secret", None) is None:
        return None
    from iot_tools.cluster.secret_text import writer_keys_in_secret  # noqa: PLC0415 -- slow import

    return writer_keys_in_secret(parsed.writer_secret, parsed.writer_secret_key, parsed.namespace)


def _path(parsed: argparse.Namespace) -> Path:
    if parsed.keyring is not None:
        return Path(parsed.keyring)
    name = os.environ.get(VARIABLE, "").strip()
    if not name:
        raise SettingsError(
            f"--keyring, --secret and {VARIABLE} are not set: name the keyring file or its Secret"
        )
    return Path(name)
