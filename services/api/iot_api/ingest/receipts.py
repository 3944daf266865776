"""Receipts: whether what was acknowledged is stored, for those who want to know."""

import base64
import binascii
import logging
import struct
import time
from collections.abc import Iterator, Mapping, Sequence

from redis.exceptions import RedisError

from iot_cipher.envelope import EntryName
from iot_models.errors import InvalidRequestError
from iot_stores import ledger
from iot_stores.backlog import Backlog
from iot_stores.postgres import AWAY, Pool
from iot_stores.store_states import report

_NAME = struct.Struct(">H16sQ")
"""The list of names. Its first byte is 0, for a shard is below 256."""
_GROUPED = 2
"""First byte of a receipt in which names are grouped by session."""
_GROUP = struct.Struct(">16sBB")
"""Session, number of its names less one, bytes of a number. Shards and numbers follow."""
_MOST_LISTED = 64
"""More names than these are grouped. A proxy, and gunicorn, take about 4 KiB of a request line: 114
names in a list, while 256 shards make 3.1 KiB in groups."""
_SOONEST, _LATEST = 0.01, 0.2

_log = logging.getLogger(__name__)


class Receipts:
    """Asks the backlog, which knows when an entry is done with, and the ledger, which knows how."""

    def __init__(self, pool: Pool, backlog: Backlog) -> None:
        self._pool = pool
        self._backlog = backlog

    def stored(self, entries: Sequence[EntryName]) -> bool:
        """Whether all entries are in Postgres. Raises `psycopg.Error` when it is away."""
        if not entries:
            return True
        return self._pool.run_idempotent(lambda connection: ledger.are_stored(connection, entries))

    def wait(self, entries: Sequence[EntryName], ends: Mapping[int, int], seconds: float) -> bool:
        """Wait until entries are stored and can be read; False if they are not in time.

        `ends` tells where they end in the backlog; of a request that is repeated it is not known.
        """
        end = time.monotonic() + seconds
        pause = _SOONEST
        held = False
        try:
            while True:
                in_time = time.monotonic() + pause <= end
                if not in_time or not ends or self._backlog.all_removed(ends):
                    stored = self.stored(entries)
                    # Entries that are released wait in the backlog again, behind these ends.
                    held = held or self._backlog.has_held_entries()
                    if stored or not in_time or (ends and not held):
                        return stored
                time.sleep(pause)
                pause = min(2 * pause, _LATEST)
        except (RedisError, *AWAY) as error:
            report(_log, "it can't be told whether requests are stored", error)
            return False


def encode_receipt(entries: Sequence[EntryName]) -> str:
    """The names of entries, at most one of each shard, as text for a URL."""
    if len(entries) <= _MOST_LISTED:
        return encode_list(entries)
    by_session: dict[bytes, list[EntryName]] = {}
    for name in entries:
        by_session.setdefault(name.session, []).append(name)
    receipt = bytearray([_GROUPED])
    for session, group in by_session.items():
        width = max(1, (max(name.number for name in group).bit_length() + 7) // 8)
        receipt += _GROUP.pack(session, len(group) - 1, width)
        receipt += bytes(name.shard for name in group)
        receipt += b"".join(name.number.to_bytes(width) for name in group)
    return base64.urlsafe_b64encode(receipt).decode()


def encode_list(entries: Sequence[EntryName]) -> str:
    """The names of entries as text of any length, in the only form that version 0.1 reads."""
    return base64.urlsafe_b64encode(b"".join(_NAME.pack(*name) for name in entries)).decode()


def decode_receipt(text: str) -> list[EntryName]:
    """The names in a receipt of either form. Raises `InvalidRequestError` when it is none."""
    try:
        names = base64.b64decode(text, altchars=b"-_", validate=True)
        if names[:1] == bytes([_GROUPED]):
            entries = list(_grouped(names))
        else:
            entries = [EntryName(*fields) for fields in _NAME.iter_unpack(names)]
    except (binascii.Error, struct.error, ValueError):
        entries = []
    if not entries or any(name.shard > 255 or name.number >= 2**63 for name in entries):
        raise InvalidRequestError("this is no receipt of a request")
    return entries


def _grouped(receipt: bytes) -> Iterator[EntryName]:
    """Raises `ValueError` or `struct.error` when it is cut off or has a group that none writes."""
    at = 1
    while at < len(receipt):
        session, last, width = _GROUP.unpack_from(receipt, at)
        shards = at + _GROUP.size
        numbers = shards + last + 1
        at = numbers + width * (last + 1)
        if not 1 <= width <= 8 or at > len(receipt):
            raise ValueError("malformed")
        for place in range(last + 1):
            begin = numbers + place * width
            number = int.from_bytes(receipt[begin : begin + width])
            yield EntryName(receipt[shards + place], session, number)
