"""Keys of the audit log's hash chain. A chain key makes and checks links, and decrypts nothing.

The chain keys of retired master keys stay in the keyring, to check the links made with them:

    "retired": {"<id>": {"chain": <base64>, "sequence": <number>, "link": <hex>}}

`sequence` and `link` are the number and the link of the record that was the last of the chain when
the master key was retired. Links made with `chain` are valid only up to this record, so a thief of
the key can't extend the chain.
"""

import base64
from collections.abc import Mapping
from typing import Any

from iot_models.errors import SettingsError

from .encryption import KEY_BYTES, derive
from .secrets import SecretHolder

LINK_BYTES = 37
"""Length of a link; `audit_link` lists its fields."""
BEFORE_FIRST = bytes(LINK_BYTES)
"""Stands for the previous link of the first record."""
_INFO = b"iot-sensor audit chain v1"


class RetiredKey(SecretHolder):
    """What the keyring keeps of a retired master key."""

    __slots__ = ("chain_key", "link", "sequence")

    def __init__(self, chain_key: bytes, sequence: int, link: bytes) -> None:
        """`sequence` and `link` are the number and the link of the record that was the last of the
        chain when the key was retired. If the chain was empty, they are 0 and `BEFORE_FIRST`."""
        self.chain_key = chain_key
        self.sequence = sequence
        self.link = link


def derive_chain_key(audit_key: bytes) -> bytes:
    """Derive the chain key of a master key from its audit key."""
    return derive(audit_key, salt=b"", info=_INFO)


def retired_json(key: RetiredKey) -> dict[str, str | int]:
    """Return the JSON object that the keyring has for a retired key."""
    chain = base64.b64encode(key.chain_key).decode()
    return {"chain": chain, "sequence": key.sequence, "link": key.link.hex()}


def parse_retired(content: Mapping[str, Mapping[str, Any]]) -> dict[int, RetiredKey]:
    """Parse the section `retired` of a keyring.

    Raises:
        SettingsError: the section is invalid. The message contains no key.
        ValueError, KeyError, TypeError, AttributeError: the section is invalid. The error may
            contain a key, so callers must catch it and must not log it.
    """
    if any(str(int(key_id)) != key_id for key_id in content):
        raise SettingsError(
            "the keyring's ids under `retired` must be numbers without leading zeros"
        )
    return {int(key_id): _retired(entry) for key_id, entry in content.items()}


def _retired(entry: Mapping[str, Any]) -> RetiredKey:
    chain_key = base64.b64decode(entry["chain"], validate=True)
    sequence, link = entry["sequence"], bytes.fromhex(entry["link"])
    if len(chain_key) != KEY_BYTES or len(link) != LINK_BYTES:
        raise SettingsError(
            "the keyring's entries under `retired` must each have a `chain` of "
            f"{KEY_BYTES} bytes and a `link` of {LINK_BYTES} bytes"
        )
    if type(sequence) is not int or sequence < 0:
        raise SettingsError(
            "the keyring's entries under `retired` must each have an integer of at least 0 as "
            "`sequence`"
        )
    return RetiredKey(chain_key, sequence, link)
