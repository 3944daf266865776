"""Receipts: they tell a client whether its acknowledged readings are stored."""

import base64
import binascii
import logging
import struct
import time
from collections.abc import Iterator, Mapping, Sequence

from redis.exceptions import RedisError

from iot_cipher.encryption import EntryName
from iot_models.errors import InvalidRequestError
from iot_stores import ledger
from iot_stores.backlog import Backlog
from iot_stores.postgres import Pool
from iot_stores.store_states import POSTGRES_UNAVAILABLE, report

_NAME = struct.Struct(">H16sQ")
"""An entry name in a plain list: shard, session, number. The first byte of a name is 0, because a
shard is below 256. So no plain list begins with `_GROUPED`."""
_GROUPED = 2
"""First byte of a receipt whose names are grouped by session."""
_GROUP = struct.Struct(">16sBB")
"""Beginning of a group of names: their session, the number of names minus 1, and the size of each
entry number in bytes. Then come the shards of all names, one byte each, and the numbers of all
names. If `_WITH_NEXT` is added to the size, the length (one byte) and the bits of a bitmap follow
for each name: bit n stands for the entry number that is n + 1 greater."""
_WITH_NEXT = 128
_MAX_BITS = 64
_MAX_GROUP = 256
"""Maximum number of names in a group. A session with more names gets several groups."""
_MAX_LISTED = 64
"""`encode_receipt` writes up to this many names as a plain list, and groups more names by session.
Proxies and gunicorn accept a request line of about 4 KiB, which holds a plain list of 114 names. In
groups, one name of each of 256 shards takes 3.1 KiB at most."""
_FIRST_PAUSE, _MAX_PAUSE = 0.01, 0.2
"""Seconds between two checks of `Receipts.wait`: the first pause, and the longest. Each pause is
twice as long as the one before."""

_log = logging.getLogger(__name__)


class Receipts:
    """Checks whether entries are stored.

    Only the ledger in Postgres knows whether an entry is stored. A query to Redis costs less than a
    query to Postgres, so `wait` first waits until the entries have left the backlog.
    """

    def __init__(self, pool: Pool, backlog: Backlog) -> None:
        self._pool = pool
        self._backlog = backlog

    def stored(self, entries: Sequence[EntryName]) -> bool:
        """Return whether all `entries` (at least one) are in Postgres. Raises `psycopg.Error`."""
        return self._pool.run_idempotent(lambda connection: ledger.are_stored(connection, entries))

    def wait(self, entries: Sequence[EntryName], ends: Mapping[int, int], seconds: float) -> bool:
        """Wait until all entries are in Postgres and in the hot window; return whether they are.

        Return False if this takes longer than `seconds`, or if a store is away. Also return False
        if the entries leave the backlog without being stored, for example as dead letters.

        `ends` says where the entries end in each shard of the backlog (`AppendResult.ends`). It
        lacks the shards of entries that an earlier attempt appended. In these shards, wait for all
        entries that the backlog holds when the wait begins.
        """
        end = time.monotonic() + seconds
        pause = _FIRST_PAUSE
        held = False
        try:
            if earlier := {name.shard for name in entries} - ends.keys():
                now = self._backlog.ends()
                ends = {**ends, **{shard: now.get(shard, 0) for shard in earlier}}
            while True:
                # A writer removes entries after it has added them to the hot window.
                if self._backlog.all_removed(ends):
                    stored = self.stored(entries)
                    # Released entries wait in the backlog again, at positions behind `ends`.
                    held = held or self._backlog.has_held_entries()
                    if stored or not held:
                        return stored
                if time.monotonic() + pause > end:
                    return False
                time.sleep(pause)
                pause = min(2 * pause, _MAX_PAUSE)
        except (RedisError, *POSTGRES_UNAVAILABLE) as error:
            report(_log, "it is unknown whether readings are stored", error)
            return False


def encode_receipt(entries: Sequence[EntryName]) -> str:
    """Encode the names of entries as text for a URL.

    For 10,000 entries of a request, the text fits into a request line, because their numbers are
    close together in each shard. `decode_receipt` may return the entries in another order.
    """
    if len(entries) <= _MAX_LISTED:
        return encode_list(entries)
    by_session: dict[bytes, list[tuple[EntryName, int]]] = {}
    for name in sorted(set(entries)):
        firsts = by_session.setdefault(name.session, [])
        first, following = firsts[-1] if firsts else (name, 0)
        distance = name.number - first.number
        if first.shard == name.shard and 0 < distance <= _MAX_BITS:
            firsts[-1] = first, following | 1 << distance - 1
        else:
            firsts.append((name, 0))
    receipt = bytearray([_GROUPED])
    for session, firsts in by_session.items():
        for begin in range(0, len(firsts), _MAX_GROUP):
            receipt += _encode_group(session, firsts[begin : begin + _MAX_GROUP])
    return base64.urlsafe_b64encode(receipt).decode()


def _encode_group(session: bytes, firsts: Sequence[tuple[EntryName, int]]) -> bytes:
    """Encode a group of names, each with a bitmap of the names that follow it."""
    width = _size(max(name.number for name, _ in firsts)) or 1
    with_next = any(following for _, following in firsts)
    group = _GROUP.pack(session, len(firsts) - 1, width + with_next * _WITH_NEXT)
    group += bytes(name.shard for name, _ in firsts)
    group += b"".join(name.number.to_bytes(width) for name, _ in firsts)
    for _, following in firsts if with_next else ():
        size = _size(following)
        group += bytes([size]) + following.to_bytes(size)
    return group


def _size(number: int) -> int:
    return (number.bit_length() + 7) // 8


def encode_list(entries: Sequence[EntryName]) -> str:
    """Encode the names of entries as a plain list of any length.

    Version 0.1 of the service reads no other form of a receipt.
    """
    return base64.urlsafe_b64encode(b"".join(_NAME.pack(*name) for name in entries)).decode()


def decode_receipt(text: str) -> list[EntryName]:
    """Return the names of the entries in a receipt.

    Raises `InvalidRequestError` if the text is no receipt.
    """
    try:
        names = base64.b64decode(text, altchars=b"-_", validate=True)
        if names[:1] == bytes([_GROUPED]):
            entries = list(_grouped(names))
        else:
            entries = [EntryName(*fields) for fields in _NAME.iter_unpack(names)]
    except (binascii.Error, struct.error, ValueError, IndexError):
        entries = []
    if not entries or any(name.shard > 255 or name.number >= 2**63 for name in entries):
        raise InvalidRequestError(
            "the path has no valid receipt; send GET to the Location of the 202 answer"
        )
    return entries


def _grouped(receipt: bytes) -> Iterator[EntryName]:
    """Yield the names in a receipt that groups them by session.

    Raises `ValueError`, `IndexError` or `struct.error` if the receipt is malformed.
    """
    at = 1
    while at < len(receipt):
        session, last, width = _GROUP.unpack_from(receipt, at)
        width, with_next = width % _WITH_NEXT, width >= _WITH_NEXT
        shards = at + _GROUP.size
        numbers = shards + last + 1
        at = numbers + width * (last + 1)
        if not 1 <= width <= 8 or at > len(receipt):
            raise ValueError("malformed")
        for position in range(last + 1):
            begin = numbers + position * width
            number = int.from_bytes(receipt[begin : begin + width])
            shard = receipt[shards + position]
            yield EntryName(shard, session, number)
            if with_next:
                size = receipt[at]
                following = int.from_bytes(receipt[at + 1 : at + 1 + size])
                at += 1 + size
                if 8 * size > _MAX_BITS or at > len(receipt):
                    raise ValueError("malformed")
                for bit in range(following.bit_length()):
                    if following >> bit & 1:
                        yield EntryName(shard, session, number + bit + 1)
