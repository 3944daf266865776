"""The keyring: master keys by id, one of them primary, and the pepper."""

import base64
import hmac
import json
import secrets
import time
import uuid
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

from iot_models.errors import DecryptionError, SettingsError
from iot_models.text_files import create_file

from .chain_keys import RetiredKey, derive_chain_key, parse_retired
from .encryption import KEY_BYTES, derive
from .followed_file import FollowedFile, strict_json
from .secrets import SecretHolder

KeyId = int
"""Id of a master key, 1 to 2**32 - 1. It is stored in every ciphertext that needs the key."""


def key_id_of(sealed: bytes) -> KeyId:
    """Return the id of the master key that a ciphertext or a link needs, from its header."""
    return int.from_bytes(sealed[1:5], "big")


_TRANSIT = b"iot-sensor transit v1"
_WRAP = b"iot-sensor wrap v1"
_AUDIT = b"iot-sensor audit v1"
_MARK = b"iot-sensor keyring mark v1"
_SCRYPT_SALT = b"iot-sensor scrypt salt v2"


class Keyring(SecretHolder):
    """The master keys, the pepper, and the keys derived from them for each purpose."""

    __slots__ = ("_derived", "_masters", "_pepper", "primary_id", "retired")

    def __init__(
        self,
        primary_id: KeyId,
        masters: Mapping[KeyId, bytes],
        pepper: bytes,
        retired: Mapping[KeyId, RetiredKey] = MappingProxyType({}),
    ) -> None:
        self.primary_id = primary_id
        self.retired = dict(retired)
        self._masters = dict(masters)
        self._pepper = pepper
        self._derived = lru_cache(maxsize=64)(self._derive)

    @property
    def key_ids(self) -> tuple[KeyId, ...]:
        """Ids of all master keys."""
        return tuple(self._masters)

    def lookup(self, password: bytes) -> bytes:
        """Return the lookup of a password for vaults of format 1.

        This lookup costs no scrypt, so an attacker who has the pepper can test passwords fast.
        Version 0.1 knows only this lookup. New vaults get format 2 once the upgrade from version
        0.1 is complete.
        """
        return hmac.digest(self._pepper, password, "sha256")

    def scrypt_salt(self) -> bytes:
        """Return the 32-byte salt of scrypt for vaults of format 2, the same for all passwords.

        The salt is derived from the pepper: without the pepper nobody can test a password, and with
        it each test costs a scrypt.
        """
        return derive(self._pepper, salt=b"", info=_SCRYPT_SALT)

    def mark(self, installation: uuid.UUID) -> bytes:
        """Return the mark of the keyring in an installation: 32 bytes derived from the pepper."""
        return derive(self._pepper, salt=installation.bytes, info=_MARK)

    def transit_key(self, key_id: KeyId) -> bytes:
        """Return the key of entries and orders. Raises `DecryptionError` for an unknown id."""
        return self._derived(key_id, _TRANSIT)

    def wrap_key(self, key_id: KeyId) -> bytes:
        """Return the key of the outer wrap. Raises `DecryptionError` for an unknown id."""
        return self._derived(key_id, _WRAP)

    def audit_key(self, key_id: KeyId) -> bytes:
        """Return the key of the audit log. Raises `DecryptionError` for an unknown id."""
        return self._derived(key_id, _AUDIT)

    def chain_key(self, key_id: KeyId) -> bytes:
        """Return the chain key of a master key, also of a retired one.

        Raises `DecryptionError` for an unknown id."""
        if key_id in self.retired:
            return self.retired[key_id].chain_key
        return derive_chain_key(self.audit_key(key_id))

    def _derive(self, key_id: KeyId, info: bytes) -> bytes:
        if key_id not in self._masters:
            raise DecryptionError(f"the keyring has no master key {key_id}")
        return derive(self._masters[key_id], salt=b"", info=info)


def parse_keyring(text: str) -> Keyring:
    """Parse a keyring: `{"version": 1, "primary": 1, "keys": {"1": ...}, "pepper": ...}`.

    Keys and pepper are 32 bytes each, in base64. If master keys were retired, the keyring also has
    the section `"retired"` (see `chain_keys`).

    Raises:
        SettingsError: the keyring is invalid. The message contains no key.
    """
    if is_for_writers(text):
        raise SettingsError(
            "the keyring file holds only a writer's keys, which open no vault: use the whole "
            "keyring"
        )
    content = _parsed(text)
    if content is None:
        # Raised outside `except`: the context would be the parser's error, which holds the keys.
        raise SettingsError(
            'the keyring is not JSON of the form {"version": 1, "primary": <id>, '
            '"keys": {"<id>": <base64>, ...}, "pepper": <base64>}, or repeats the name of a member'
        )
    version, primary, keys, pepper, retired = content
    if version != 1:
        raise SettingsError(
            f"the keyring has the unknown version {version}: use a newer version of this service"
        )
    masters = {key_id: _key_bytes(f"key {key_id}", key) for key_id, key in keys.items()}
    if primary not in masters:
        raise SettingsError(f"the keyring's primary key {primary} is not among its keys")
    if not all(0 < key_id < 2**32 for key_id in masters):
        wrong = next(key_id for key_id in masters if not 0 < key_id < 2**32)
        raise SettingsError(f"the keyring has the key id {wrong}; ids are 1 to 4294967295")
    if both := set(masters) & set(retired):
        raise SettingsError(
            f"the keyring has the id {min(both)} both under keys and under retired: if the key was "
            "restored, remove the id under retired"
        )
    return Keyring(primary, masters, _key_bytes("pepper", pepper), retired)


def is_for_writers(text: str) -> bool:
    """Return whether a text is a JSON object with `"for": "writer"`, as `writer_keys` writes it.

    The keys in it are not checked.
    """
    try:
        content = strict_json(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.get("for") == "writer"


def _parsed(
    text: str,
) -> tuple[int, KeyId, dict[KeyId, str], str, dict[KeyId, RetiredKey]] | None:
    """Return version, primary id, keys, pepper and retired keys; None if the text has another form.

    Also return None for a repeated name and for an id such as 01. Otherwise, of two keys with the
    names "1" and "01", only one would be kept.
    """
    try:
        content = strict_json(text)
        keys = {int(key_id): key for key_id, key in content["keys"].items()}
        if [str(key_id) for key_id in keys] != list(content["keys"]):
            return None
        if type(content["version"]) is not int or type(content["primary"]) is not int:
            return None
        retired = parse_retired(content.get("retired", {}))
        return content["version"], content["primary"], keys, content["pepper"], retired
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _key_bytes(name: str, text: str) -> bytes:
    key = _base64(text)
    if key is None:
        raise SettingsError(f"the keyring's {name} is not base64")
    if len(key) != KEY_BYTES:
        raise SettingsError(f"the keyring's {name} is not {KEY_BYTES} bytes long")
    return key


def _base64(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except (ValueError, TypeError):  # b64decode raises ValueError for a non-ASCII character
        return None


def new_keyring_text() -> str:
    """Return the JSON of a new keyring: one master key with id 1, and a pepper."""
    fresh = [base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode() for _ in range(2)]
    return json.dumps({"version": 1, "primary": 1, "keys": {"1": fresh[0]}, "pepper": fresh[1]})


def create_keyring_file(path: Path) -> bool:
    """Write a new keyring to `path` (mode 0600) unless the file exists; return True if written."""
    return create_file(path, new_keyring_text())


class KeyringFile(FollowedFile[Keyring]):
    """A keyring that is reloaded when its file changes."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises `SettingsError` if the file can't be read or is invalid."""
        super().__init__(
            path, parse_keyring, what="keyring", variable="IOT_KEYRING_FILE", clock=clock
        )
