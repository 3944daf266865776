"""Compression of responses: gzip and zstd, as the request's `Accept-Encoding` allows."""

import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from typing import Any, Protocol, cast

import zstandard
from flask import Response
from werkzeug.http import parse_accept_header

from iot_api.limits.memory_budget import charge_request
from iot_models.errors import UnavailableError

MIN_BYTES = 1024
"""Shorter responses are sent uncompressed."""
VARY_CODING = "Accept-Encoding"
VARY = f"Accept, {VARY_CODING}"


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


# Level 1: an API process has one core for all of its requests, and higher levels save little.
_ZSTD = zstandard.ZstdCompressionParameters.from_level(1, window_log=18)
_CODINGS: dict[str, tuple[Callable[[], _Compressor], int]] = {
    "zstd": (
        lambda: zstandard.ZstdCompressor(compression_params=_ZSTD).compressobj(),
        _ZSTD.estimated_compression_context_size() + 2**18,
    ),
    # 2**18 bytes are the state of zlib (zconf.h).
    "gzip": (lambda: cast("_Compressor", zlib.compressobj(1, wbits=31)), 2**18 + 2**16),
}
"""For each coding: a function that returns a compressor, and the compressor's memory in bytes. The
preferred coding comes first."""


def accepted_coding(header: str) -> str | None:
    """Return the coding that an `Accept-Encoding` header prefers, None for no coding.

    Of codings with the same weight, zstd comes first. For `*` alone, return None.
    """
    if not header:
        return None
    weights = {name.lower(): weight for name, weight in parse_accept_header(header)}
    weights.setdefault("gzip", weights.get("x-gzip", 0))
    best = max(_CODINGS, key=lambda coding: weights.get(coding, 0))
    weight = weights.get(best, 0)
    return best if weight and weight >= weights.get("identity", 0) else None


def compress_response(response: Response, environ: Mapping[str, Any]) -> Response:
    """Compress the body of a response, if the request allows it. A stream stays a stream.

    The memory of a stream's compressor is charged to the request. If the process is short of
    memory, the stream is sent uncompressed.
    """
    response.headers["Vary"] = VARY
    coding = accepted_coding(environ.get("HTTP_ACCEPT_ENCODING", ""))
    if coding is None:
        return response
    begin, kept_bytes = _CODINGS[coding]
    if not response.is_streamed:
        body = response.get_data()
        if len(body) < MIN_BYTES:
            return response
        compressor = begin()
        response.set_data(compressor.compress(body) + compressor.flush())
    else:
        try:
            charge_request(environ, kept_bytes)
        except UnavailableError:
            return response
        response.response = _compressed(cast("Iterator[bytes]", response.response), begin())
    response.headers["Content-Encoding"] = coding
    return response


def _compressed(pieces: Iterator[bytes], compressor: _Compressor) -> Iterator[bytes]:
    """Compress a stream.

    If the stream fails, the last bytes are missing, so the client sees that the stream is cut off.
    """
    with closing(cast("Any", pieces)):
        for piece in pieces:
            data = compressor.compress(piece)
            del piece
            if data:
                yield data
            del data
        yield compressor.flush()
