"""Changes of a keyring's text: add, promote and remove master keys. The pepper never changes."""

import base64
import json
import secrets
from collections.abc import Callable
from typing import Any

from iot_models.errors import SettingsError

from .chain_keys import RetiredKey, retired_json
from .encryption import KEY_BYTES
from .followed_file import strict_json
from .keyring import KeyId, parse_keyring

MAX_KEY_ID = 2**32 - 1


def with_new_key(text: str) -> tuple[str, KeyId]:
    """Add a random master key that is not primary. Return the new text and the id of the key.

    Raises:
        SettingsError: the keyring is invalid, or has no free id.
    """
    keyring = parse_keyring(text)
    key_id = max([*keyring.key_ids, *keyring.retired]) + 1  # no id is used twice
    if key_id > MAX_KEY_ID:
        raise SettingsError(
            f"the keyring has no free key id: the highest id, {MAX_KEY_ID}, is taken"
        )
    key = base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()
    return _changed(text, lambda content: content["keys"].update({str(key_id): key})), key_id


def with_primary(text: str, key_id: KeyId) -> str:
    """Return the keyring with the master key `key_id` as its primary key.

    Raises:
        SettingsError: the keyring is invalid, or lacks the key.
    """
    _require_key(text, key_id)
    return _changed(text, lambda content: content.update(primary=key_id))


def without_key(text: str, key_id: KeyId, *, sequence: int, link: bytes) -> str:
    """Return the keyring without a master key. Only its chain key stays, under `retired`.

    `sequence` and `link` are the number and the link of the last record in the audit log's chain.

    Raises:
        SettingsError: the keyring is invalid, or the key is missing or primary.
    """
    require_removable(text, key_id)
    retired = RetiredKey(parse_keyring(text).chain_key(key_id), sequence, link)

    def remove(content: dict[str, Any]) -> None:
        del content["keys"][str(key_id)]
        content.setdefault("retired", {})[str(key_id)] = retired_json(retired)

    return _changed(text, remove)


def require_removable(text: str, key_id: KeyId) -> None:
    """Raise `SettingsError` if the keyring is invalid, or the key is missing or primary."""
    _require_key(text, key_id)
    if key_id == parse_keyring(text).primary_id:
        raise SettingsError(f"master key {key_id} is primary: promote another key first")


def _require_key(text: str, key_id: KeyId) -> None:
    known = parse_keyring(text).key_ids
    if key_id not in known:
        listed = ", ".join(map(str, sorted(known)))
        raise SettingsError(f"the keyring has no master key {key_id}: its keys are {listed}")


def _changed(text: str, change: Callable[[dict[str, Any]], object]) -> str:
    # `parse_keyring` has accepted the text. Members of the JSON that it ignores are kept.
    content: dict[str, Any] = strict_json(text)
    change(content)
    return json.dumps(content)
