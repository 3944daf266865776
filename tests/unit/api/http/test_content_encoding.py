"""Compression of responses: memory of streams, and streams that end early."""

import gzip
from collections.abc import Iterator

import pytest
from flask import Response

from iot_api.http.content_encoding import compress_response
from iot_api.limits.memory_budget import CHARGE
from iot_models.errors import UnavailableError

PIECES = [b"piece %d, " % number * 500 for number in range(50)]


def test_a_stream_is_sent_as_it_is_if_memory_is_short() -> None:
    def refuse(_: int) -> None:
        raise UnavailableError("this server is short of memory", retry_after=1)

    response = Response(iter(PIECES))
    compress_response(response, {"HTTP_ACCEPT_ENCODING": "gzip", CHARGE: refuse})
    assert "Content-Encoding" not in response.headers
    assert response.get_data() == b"".join(PIECES)


def test_a_stream_charges_for_its_compressor() -> None:
    charges: list[int] = []
    compress_response(
        Response(iter(PIECES)), {"HTTP_ACCEPT_ENCODING": "zstd", CHARGE: charges.append}
    )
    (charged,) = charges
    assert 500_000 < charged < 2_000_000


def test_a_stream_that_fails_is_not_complete() -> None:
    closed: list[bool] = []

    def failing() -> Iterator[bytes]:
        try:
            yield from PIECES
            raise RuntimeError("a segment is damaged")
        finally:
            closed.append(True)

    response = compress_response(Response(failing()), {"HTTP_ACCEPT_ENCODING": "gzip"})
    sent: list[bytes] = []
    with pytest.raises(RuntimeError, match="damaged"):
        sent.extend(response.iter_encoded())
    with pytest.raises(EOFError):
        gzip.decompress(b"".join(sent))
    assert closed == [True]


def test_a_client_that_goes_away_ends_the_read() -> None:
    closed: list[bool] = []

    def pieces() -> Iterator[bytes]:
        try:
            while True:
                yield from PIECES
        finally:
            closed.append(True)

    response = compress_response(Response(pieces()), {"HTTP_ACCEPT_ENCODING": "zstd"})
    stream = iter(response.response)
    next(stream)
    response.close()
    assert closed == [True]
