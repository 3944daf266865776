"""Decompression of request bodies: gzip and zstd, in bounded time and memory."""

import re
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import zstandard

from iot_api.limits.memory_budget import BODY_FACTOR, charge_request
from iot_models.errors import InvalidRequestError, TooLargeError, UnsupportedMediaTypeError

MAX_MEMBERS = 1000
"""Maximum number of gzip members or zstd frames in one body. Even an empty member takes
microseconds to decompress. bgzip and pzstd write members of 64 kB or more, so 1000 members hold at
least 64 MB."""

_BYTES_PER_TURN = 2**20
_MEMBERS_PER_TURN = 16
_FIRST_BYTES = 2**20
_MAX_ZSTD_WINDOW = 2**27


class _Member(Protocol):
    """Decompressor of one gzip member or zstd frame."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...


Grow = Callable[[int], None]
"""Called with the decompressed size so far, in bytes. May wait, or raise to refuse the body."""

GrowFrom = Callable[[int, int], None]
"""`Grow`, with a second argument: the size of the body as received, in bytes."""

_Decompress = Callable[[bytes, int], bytes]
"""(compressed bytes, maximum size of the result) -> the result. zstd ignores the maximum."""


@dataclass(frozen=True, slots=True)
class Codec:
    """Decompresses bodies of one Content-Encoding."""

    name: str
    members: str
    """The word for the parts of a body in error messages: `members` (gzip) or `frames` (zstd)."""
    slice_bytes: int
    """Number of compressed bytes that are decompressed at a time."""
    first_slice_bytes: int
    """Value of `slice_bytes` until the result has `_FIRST_BYTES` bytes, so that `grow` learns early
    that a body is large."""
    padding: re.Pattern[bytes]
    """Bytes that may follow a member."""
    begin: Callable[[], tuple[_Member, _Decompress]]

    def decompress(self, body: bytes, limit: int, grow: Grow = lambda _: None) -> bytes:
        """Decompress all gzip members or zstd frames of a body; return their joined contents.

        `grow` is called again and again as the result grows (see `Grow`).

        Raises:
            InvalidRequestError: the body has another format, is cut short, has more than
                `MAX_MEMBERS` members, or has a zstd window of more than 128 MiB.
            TooLargeError: the result is larger than `limit` bytes.
        """
        decompressed = bytearray()
        at = members = 0
        while at < len(body):
            if members == MAX_MEMBERS:
                raise InvalidRequestError(
                    f"the {self.name} body has more than {MAX_MEMBERS} {self.members}"
                )
            if members % _MEMBERS_PER_TURN == 0:
                time.sleep(0)  # other greenlets get a turn
            members += 1
            end = self._decompress_member(body, at, decompressed, limit, grow)
            padding = self.padding.match(body, end)
            at = padding.end() if padding else end
        return bytes(decompressed)

    def _decompress_member(
        self, body: bytes, start: int, decompressed: bytearray, limit: int, grow: Grow
    ) -> int:
        """Append the content of one member to `decompressed`; return where the member ends."""
        member, decompress = self.begin()
        at = turned = start
        while not member.eof:
            is_first = len(decompressed) < _FIRST_BYTES
            size = self.first_slice_bytes if is_first else self.slice_bytes
            if at >= len(body):
                raise InvalidRequestError(f"the {self.name} body is cut short")
            # One slice at a time: the member copies all bytes behind its end to `unused_data`.
            part = body[at : at + size]
            at += len(part)
            try:
                decompressed += decompress(part, limit + 1 - len(decompressed))
            except (zlib.error, zstandard.ZstdError):
                raise InvalidRequestError(
                    f"Content-Encoding is {self.name}, but the body is not valid {self.name}"
                ) from None
            if len(decompressed) > limit:
                raise TooLargeError(
                    f"the body may have at most {limit} bytes after decompression", limit=limit
                )
            grow(len(decompressed))
            if at - turned >= _BYTES_PER_TURN:
                time.sleep(0)
                turned = at
        return at - len(member.unused_data)


def _begin_gzip() -> tuple[_Member, _Decompress]:
    member = zlib.decompressobj(wbits=31)
    return member, member.decompress


def _begin_zstd() -> tuple[_Member, _Decompress]:
    frame = zstandard.ZstdDecompressor(max_window_size=_MAX_ZSTD_WINDOW).decompressobj()

    def decompress(compressed: bytes, _: int) -> bytes:
        try:
            return frame.decompress(compressed)
        except zstandard.ZstdError as error:
            if "too much memory" not in str(error):
                raise
            raise InvalidRequestError(
                f"the window of the zstd body may have at most {_MAX_ZSTD_WINDOW} bytes"
            ) from None

    return frame, decompress


# Some senders pad gzip with zeros to whole blocks. gzip and Python accept that, too.
GZIP = Codec("gzip", "members", 16 * 1024, 2 * 1024, re.compile(rb"\0*"), _begin_gzip)
# 512 bytes of zstd decompress to at most 16 MiB, and 64 bytes to at most 2 MiB.
ZSTD = Codec("zstd", "frames", 512, 64, re.compile(rb""), _begin_zstd)
_CODECS = {"identity": None, "gzip": GZIP, "x-gzip": GZIP, "zstd": ZSTD}


def check_coding(environ: Mapping[str, Any]) -> None:
    """Check the Content-Encoding of a request before its body is received.

    Raises:
        UnsupportedMediaTypeError: the Content-Encoding is not supported.
    """
    _codec(environ)


def decompress_body(
    environ: Mapping[str, Any], body: bytes, limit: int, grow: GrowFrom = lambda *_: None
) -> bytes:
    """Decompress a received body by its Content-Encoding.

    `grow` is called again and again as the result grows (see `GrowFrom`).

    Raises:
        TooLargeError: the body decompresses to more than `limit` bytes.
        UnsupportedMediaTypeError: the Content-Encoding is not supported.
        InvalidRequestError: the body does not match its Content-Encoding.
        UnavailableError: the memory budget of this process is used up.
    """
    codec = _codec(environ)
    if codec is None:
        return body
    received = len(body)
    decompressed = codec.decompress(body, limit, lambda size: grow(size, received))
    charge_request(environ, len(decompressed) * BODY_FACTOR)
    return decompressed


def _codec(environ: Mapping[str, Any]) -> Codec | None:
    coding = str(environ.get("HTTP_CONTENT_ENCODING", "identity")).strip().lower()
    try:
        return _CODECS[coding]
    except KeyError:
        problem = "Content-Encoding must be gzip, zstd or identity"
        raise UnsupportedMediaTypeError(problem) from None
