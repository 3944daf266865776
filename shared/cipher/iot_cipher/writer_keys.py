"""The keys of a writer: they open entries and orders, and encrypt the audit log.

They are derived one-way from the keyring. So an attacker who controls a writer can neither test
passwords (this takes the pepper) nor unwrap data keys.
"""

import base64
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, Protocol

from iot_models.errors import DecryptionError, SettingsError
from iot_models.text_files import read_text, replace_file

from .chain_keys import RetiredKey, derive_chain_key
from .encryption import KEY_BYTES, TransitKeys, derive
from .followed_file import FollowedFile, strict_json
from .keyring import KeyId, Keyring, is_for_writers, parse_keyring
from .secrets import SecretHolder

_FINGERPRINT = b"iot-sensor key fingerprint v1"


class AuditKeys(Protocol):
    """The keys of the audit log."""

    @property
    def primary_id(self) -> KeyId:
        """The id of the key that encrypts new records."""

    @property
    def key_ids(self) -> tuple[KeyId, ...]:
        """The ids of all keys that decrypt."""

    @property
    def retired(self) -> Mapping[KeyId, RetiredKey]:
        """The retired keys of the keyring; empty if the key file holds only a writer's keys."""

    def audit_key(self, key_id: KeyId) -> bytes:
        """Return the key with this id. Raises `DecryptionError` for an unknown id."""

    def chain_key(self, key_id: KeyId) -> bytes:
        """Return the chain key of a master key, also of a retired one.

        Raises `DecryptionError` for an unknown id."""


class KeySet(TransitKeys, Protocol):
    """The keys of a keyring, or a writer's keys, which are derived from a keyring."""

    @property
    def key_ids(self) -> tuple[KeyId, ...]:
        """The ids of all keys."""


def fingerprints(keys: KeySet) -> dict[KeyId, str]:
    """Return a fingerprint of each key: 16 hex digits, derived one-way.

    A keyring and the writer's keys derived from it have the same fingerprints. Another key under
    the same id has another fingerprint.
    """
    return {
        key_id: derive(keys.transit_key(key_id), salt=b"", info=_FINGERPRINT)[:8].hex()
        for key_id in keys.key_ids
    }


class _Keys(NamedTuple):
    transit: bytes
    audit: bytes


class WriterKeys(SecretHolder):
    """The transit and audit keys of a writer. A writer has no pepper and no wrap keys."""

    __slots__ = ("_keys", "from_keyring", "primary_id", "retired")

    def __init__(
        self,
        primary_id: KeyId,
        keys: Mapping[KeyId, tuple[bytes, bytes]],
        *,
        from_keyring: bool = False,
        retired: Mapping[KeyId, RetiredKey] = MappingProxyType({}),
    ) -> None:
        """`keys`: transit key and audit key by id.

        `from_keyring`: whether the keys were derived from a whole keyring, for example because the
        writer's key file holds one. `retired`: the retired keys, which only a whole keyring has.
        """
        self.primary_id = primary_id
        self.from_keyring = from_keyring
        self.retired = dict(retired)
        self._keys = {key_id: _Keys(*pair) for key_id, pair in keys.items()}

    @property
    def key_ids(self) -> tuple[KeyId, ...]:
        """The ids of all keys."""
        return tuple(self._keys)

    def transit_key(self, key_id: KeyId) -> bytes:
        """Return the key of entries and orders. Raises `DecryptionError` for an unknown id."""
        return self._of(key_id).transit

    def audit_key(self, key_id: KeyId) -> bytes:
        """Return the key of the audit log. Raises `DecryptionError` for an unknown id."""
        return self._of(key_id).audit

    def chain_key(self, key_id: KeyId) -> bytes:
        """Return the chain key of a master key. Raises `DecryptionError` for an unknown id.

        Keys that were derived from a whole keyring also have the chain keys of retired master keys.
        """
        if key_id in self.retired:
            return self.retired[key_id].chain_key
        return derive_chain_key(self.audit_key(key_id))

    def _of(self, key_id: KeyId) -> _Keys:
        if key_id not in self._keys:
            raise DecryptionError(f"the writer has no keys for the master key {key_id}")
        return self._keys[key_id]


def derive_writer_keys(keyring: Keyring) -> WriterKeys:
    """Derive a writer's keys from the keyring."""
    keys = {
        key_id: (keyring.transit_key(key_id), keyring.audit_key(key_id))
        for key_id in keyring.key_ids
    }
    return WriterKeys(keyring.primary_id, keys, from_keyring=True, retired=keyring.retired)


def writer_keys_text(keyring: Keyring) -> str:
    """Return the JSON of a writer's keys. The same keyring always gives the same text."""
    derived = derive_writer_keys(keyring)
    keys = {
        str(key_id): {
            "transit": base64.b64encode(derived.transit_key(key_id)).decode(),
            "audit": base64.b64encode(derived.audit_key(key_id)).decode(),
        }
        for key_id in sorted(derived.key_ids)
    }
    content = {"version": 2, "for": "writer", "primary": derived.primary_id, "keys": keys}
    return json.dumps(content)


def parse_writer_keys(text: str) -> WriterKeys:
    """Parse the JSON of a writer's keys. If `text` is a whole keyring, derive the keys from it.

    The master keys and the pepper are not kept.

    Raises:
        SettingsError: the keys are invalid. The message contains no key.
    """
    if not is_for_writers(text):
        return derive_writer_keys(parse_keyring(text))
    parsed = _parsed(text)
    if parsed is None:
        # Raised outside `except`: the context would be the parser's error, which holds the keys.
        raise SettingsError(
            "the writer's keys are not JSON of the form that `iot-sensor keys writer` writes: "
            "derive them from the keyring again"
        )
    version, primary, keys = parsed
    if version != 2:
        raise SettingsError(
            f"the writer's keys have the unknown version {version}: use a newer version of this "
            "service"
        )
    if primary not in keys:
        raise SettingsError(f"the writer's primary key {primary} is not among its keys")
    if not all(0 < key_id < 2**32 for key_id in keys):
        raise SettingsError("the writer's keys have an id outside 1 to 4294967295")
    return WriterKeys(primary, keys)


def _parsed(text: str) -> tuple[int, KeyId, dict[KeyId, tuple[bytes, bytes]]] | None:
    """Return version, primary id and keys, or None if the text has another form."""
    try:
        content = strict_json(text)
        if set(content) != {"version", "for", "primary", "keys"}:
            return None
        keys = {int(key_id): _pair(pair) for key_id, pair in content["keys"].items()}
        if [str(key_id) for key_id in keys] != list(content["keys"]):
            return None
        if type(content["version"]) is not int or type(content["primary"]) is not int:
            return None
        return content["version"], content["primary"], keys
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _pair(keys: Mapping[str, str]) -> tuple[bytes, bytes]:
    if set(keys) != {"transit", "audit"}:
        raise SettingsError(
            "each of the writer's keys must have exactly the members transit and audit"
        )
    pair = tuple(base64.b64decode(keys[name], validate=True) for name in ("transit", "audit"))
    if any(len(key) != KEY_BYTES for key in pair):
        raise SettingsError(f"one of the writer's keys is not {KEY_BYTES} bytes long")
    return pair[0], pair[1]


class WriterKeysFile(FollowedFile[WriterKeys]):
    """A writer's keys that are reloaded when their file changes."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises `SettingsError` if the file can't be read or is invalid."""
        super().__init__(
            path, parse_writer_keys, what="file of keys", variable="IOT_KEYRING_FILE", clock=clock
        )


def write_writer_keys_file(keyring: Path, path: Path) -> bool:
    """Derive the writer's keys from a keyring file and write them to `path` (mode 0600).

    Return False if `path` holds these keys already. An existing file is overwritten only if it
    holds a writer's keys: any other file may be the keyring.

    Raises:
        SettingsError: the keyring can't be read or is invalid, or `path` holds something other than
            a writer's keys.
        OSError: `path` can't be read or written; the file is unchanged.
    """
    text = writer_keys_text(parse_keyring(read_text(keyring)))
    if path.exists():
        present = path.read_text(encoding="utf-8", errors="replace")
        if present == text:
            return False
        if not is_for_writers(present):
            raise SettingsError(
                f"{path} is not overwritten, because it does not hold writers' keys: "
                "name another file"
            )
    replace_file(path, text)
    return True
