"""The position of a listener in a live stream: which readings it has.

Within a shard, ids rise in the order in which Postgres commits readings. So one id says what a
listener has of a shard: all readings up to this id, and none above it. Neither a compaction nor a
failover changes an id.

`IOT_SHARDS` may change, so a position has an id for each shard that it knows, and `floor` for all
others. The others may include a shard that was added later: its ids begin above all ids used
before.

Readings in Postgres have no index by id. So `since` limits a search: the listener has all readings
received before `since`. Imported, held and replayed readings are exceptions: the stream leaves
them out.
"""

import binascii
import struct
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b

from iot_models.errors import InvalidRequestError
from iot_stores.months import END_MS

VERSION = 1
_HEAD = struct.Struct("<BqqH")
_SHARD = struct.Struct("<Bq")
_CHECKSUM_BYTES = 8


@dataclass(frozen=True, slots=True)
class LivePosition:
    """For each shard, the id up to which a listener has all readings."""

    since: int
    """The listener has all readings received before this time: Unix milliseconds, by the clock of
    Redis."""
    floor: int
    """The id for a shard that `ids` lacks."""
    ids: Mapping[int, int]

    def id_of(self, shard: int) -> int:
        """Return the id up to which the listener has the readings of a shard."""
        return self.ids.get(shard, self.floor)

    def includes(self, other: "LivePosition") -> bool:
        """Return whether this position includes all readings that `other` includes."""
        shards = self.ids.keys() | other.ids.keys()
        return all(self.id_of(shard) >= other.id_of(shard) for shard in shards)

    def advanced(self, ids: Mapping[int, int], since: int = 0) -> "LivePosition":
        """Return this position, advanced to `ids` (by shard) and `since` where they are greater."""
        merged = dict(self.ids)
        for shard, last in ids.items():
            merged[shard] = max(last, self.id_of(shard))
        return LivePosition(max(self.since, since), self.floor, merged)


def encode_position(position: LivePosition, vault_id: bytes) -> str:
    """Encode a position as the id of an event. The id is valid for this vault only.

    A position is no secret: a client that may read a vault may read it from any position.
    """
    body = _HEAD.pack(VERSION, position.since, position.floor, len(position.ids))
    body += b"".join(_SHARD.pack(shard, last) for shard, last in sorted(position.ids.items()))
    return urlsafe_b64encode(body + _checksum(body, vault_id)).rstrip(b"=").decode()


def decode_position(field: str, text: str, vault_id: bytes) -> LivePosition:
    """Decode a position that `encode_position` encoded. `field` names its member or header.

    Raises:
        InvalidRequestError: the position is malformed, or belongs to another vault.
    """
    try:
        data = b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        data = b""
    body, checksum = data[:-_CHECKSUM_BYTES], data[-_CHECKSUM_BYTES:]
    position = _unpacked(body) if checksum == _checksum(body, vault_id) else None
    if position is None:
        raise InvalidRequestError(
            f"{field}: no live stream of this password has sent this id; omit the id to begin "
            "with new readings",
            field=field,
        )
    return position


def _unpacked(body: bytes) -> LivePosition | None:
    # A valid checksum proves nothing: anybody can compute it.
    if len(body) < _HEAD.size or (len(body) - _HEAD.size) % _SHARD.size:
        return None
    version, since, floor, count = _HEAD.unpack_from(body)
    shards = list(_SHARD.iter_unpack(body[_HEAD.size :]))
    ids = dict(shards)
    is_valid = version == VERSION and count == len(shards) == len(ids)
    if not is_valid or not 0 <= since < END_MS or min(floor, *ids.values(), floor) < 0:
        return None
    return LivePosition(since, floor, ids)


def _checksum(body: bytes, vault_id: bytes) -> bytes:
    return blake2b(body + vault_id, person=b"iot-live", digest_size=_CHECKSUM_BYTES).digest()
