"""Unpacking of request bodies: gzip and zstd, in time and memory that limits bound."""

import re
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import zstandard

from iot_models.errors import InvalidRequestError, TooLargeError

MOST_MEMBERS = 1000
"""Gzip members or zstd frames in one body. Each takes some microseconds, even an empty one of a few
bytes. bgzip and pzstd write members of 64 kB or more."""

_BYTES_PER_TURN = 2**20
_MEMBERS_PER_TURN = 16
_FIRST_BYTES = 2**20


class _Member(Protocol):
    """Decompressor of one gzip member or zstd frame."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...


Grow = Callable[[int], None]
"""Told the size of what is unpacked so far; it may wait, and refuse to go on by raising."""

_Decompress = Callable[[bytes, int], bytes]
"""(packed bytes, most bytes to unpack; zstd can't limit them) -> unpacked bytes."""


@dataclass(frozen=True, slots=True)
class Packing:
    """How bodies of a Content-Encoding are unpacked."""

    name: str
    slice_bytes: int
    """Packed bytes that are unpacked at once."""
    first_slice_bytes: int
    """Likewise, until `_FIRST_BYTES` are unpacked: `grow` must hear early of what is large."""
    padding: re.Pattern[bytes]
    """What may follow a member."""
    begin: Callable[[], tuple[_Member, _Decompress]]

    def unpack(self, body: bytes, limit: int, grow: Grow = lambda _: None) -> bytes:
        """Unpack all members of a body.

        Raises:
            InvalidRequestError: the body is not packed like this, is cut short, or has more than
                `MOST_MEMBERS` members.
            TooLargeError: it unpacks to more than `limit` bytes.
        """
        unpacked = bytearray()
        at = members = 0
        while at < len(body):
            if members == MOST_MEMBERS:
                raise InvalidRequestError(
                    f"the request's {self.name} has more than {MOST_MEMBERS} members"
                )
            if members % _MEMBERS_PER_TURN == 0:
                time.sleep(0)  # other greenlets get a turn
            members += 1
            end = self._unpack_member(body, at, unpacked, limit, grow)
            padding = self.padding.match(body, end)
            at = padding.end() if padding else end
        return bytes(unpacked)

    def _unpack_member(
        self, body: bytes, start: int, unpacked: bytearray, limit: int, grow: Grow
    ) -> int:
        """Append what one member unpacks to; return where it ends."""
        member, decompress = self.begin()
        at = turned = start
        while not member.eof:
            is_first = len(unpacked) < _FIRST_BYTES
            size = self.first_slice_bytes if is_first else self.slice_bytes
            if at >= len(body):
                raise InvalidRequestError(f"the request's {self.name} is cut short")
            # In slices, so that the member's `unused_data` is no copy of all that follows.
            part = body[at : at + size]
            at += len(part)
            try:
                unpacked += decompress(part, limit + 1 - len(unpacked))
            except (zlib.error, zstandard.ZstdError):
                raise InvalidRequestError(
                    "the request is not what its Content-Encoding says"
                ) from None
            if len(unpacked) > limit:
                raise TooLargeError(f"a request may hold {limit} bytes unpacked", limit=limit)
            grow(len(unpacked))
            if at - turned >= _BYTES_PER_TURN:
                time.sleep(0)
                turned = at
        return at - len(member.unused_data)


def _begin_gzip() -> tuple[_Member, _Decompress]:
    member = zlib.decompressobj(wbits=31)
    return member, member.decompress


def _begin_zstd() -> tuple[_Member, _Decompress]:
    frame = zstandard.ZstdDecompressor(max_window_size=2**27).decompressobj()
    return frame, lambda packed, _: frame.decompress(packed)


# Some senders pad gzip with zeros to whole blocks; gzip and Python accept that, too.
GZIP = Packing("gzip", 16 * 1024, 2 * 1024, re.compile(rb"\0*"), _begin_gzip)
# 512 bytes of zstd unpack to 16 MiB at most, 64 to 2 MiB.
ZSTD = Packing("zstd", 512, 64, re.compile(rb""), _begin_zstd)
