"""Malformed requests as raw bytes, which no HTTP library sends."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from system.reliability.fuzzing import GOOD, Request, requests

_HEAD = b"PUT /api/iot HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
_CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
_LENGTHS = [b"-1", b"+5", b"1e3", b"", b"5, 5", b"5, 6", b"0x10", b"9" * 40, b"\xd9\xa3", b"4 4"]
_LINES = [
    b"PUT\r\n\r\n", b"PUT /api/iot\r\n\r\n", b"PUT  /api/iot HTTP/1.1\r\n\r\n",
    b"PUT /api/iot HTTP/9.9\r\n\r\n", b"PUT /api/iot HTTP/1.1\n\n", b"\x16\x03\x01\x02\x00\x01",
    b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"\r\n\r\n\r\n", b"GET \x00 HTTP/1.1\r\n\r\n",
    b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n", b"GET http://[::1/ HTTP/1.1\r\nHost: x\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", b"GET //x\\..\\y HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /%00%ff?%00 HTTP/1.0\r\n\r\n", b"G\xc3\x89T / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /#f HTTP/1.1\r\nHost: x\r\n\r\n", b"GET * HTTP/1.1\r\nHost: x\r\n\r\n",
]  # fmt: skip
_HEADERS = [
    b"X: " + b"x" * 9000, b"X" * 9000 + b": x", b"A: b\r\n" * 150 + b"A: b", b" folded: x",
    b"X : y", b"X", b": y", b"X: \x00", b"X: \xff", b"X_Y: 1", b"Expect: 100-continue",
    b"Expect: cake", b"Content-Encoding: \xff", b"Idempotency-Key: \xff\xfe",
    b"X-Forwarded-For: x", b"Upgrade: websocket\r\nConnection: upgrade", b"Cookie: =;=;;=",
    b"Connection: \xff", b"Origin: \xff", b"Content-Type: \xff/\xff", b"X-Request-Id: " + b"x" * 99,
]  # fmt: skip
_CHUNKS = [
    b"5\r\n{\"dat", b"-1\r\n", b"fffffffffffffffff\r\nx", b"zz\r\nx\r\n0\r\n\r\n", b"0\r\n", b"",
    b"3\r\nabcdef\r\n0\r\n\r\n", b"0\r\nTrailer: x\r\n\r\n", b"3;" + b"a" * 9000 + b"\r\nabc\r\n",
    b"0\r\n" + b"T: x\r\n" * 500 + b"\r\n", b"1\n{\n0\n\n",
]  # fmt: skip


@dataclass(frozen=True)
class Wire:
    """Bytes to send. A `whole` request must be answered."""

    parts: tuple[bytes, ...]
    whole: bool = False

    @property
    def is_head(self) -> bool:
        """Whether the response has no body."""
        return b"".join(self.parts).startswith(b"HEAD ")


def wires(seed: int) -> Iterator[Wire]:
    """Yield requests forever. The same seed gives the same requests."""
    chance = random.Random(seed)
    well_formed = requests(seed)
    while True:
        kind = chance.randrange(8)
        if kind == 0:
            yield Wire((chance.choice(_LINES),))
        elif kind == 1:
            length = chance.choice([*_LENGTHS, b"%d" % chance.randrange(2 * len(GOOD))])
            yield Wire((_HEAD + b"Content-Length: " + length + b"\r\n\r\n" + GOOD,))
        elif kind == 2:
            yield Wire((_HEAD + _CHUNKED + chance.choice(_CHUNKS),))
        elif kind == 3:
            head = _HEAD + chance.choice(_HEADERS) + b"\r\nContent-Length: %d\r\n\r\n" % len(GOOD)
            yield Wire((head + GOOD,))
        elif kind == 4:
            whole = _wire(next(well_formed))
            yield Wire((whole[: chance.randrange(len(whole))],))
        else:
            yield Wire(_split(chance, _wire(next(well_formed))), whole=True)


def _wire(request: Request) -> bytes:
    target = request.path.replace("\t", "%09").encode()
    lines = [request.method.encode() + b" " + target + b" HTTP/1.1", b"Host: x"]
    lines += [f"{name}: {value}".encode("latin-1") for name, value in request.headers.items()]
    lines += [b"Content-Length: %d" % len(request.body or b""), b"Connection: close"]
    return b"\r\n".join(lines) + b"\r\n\r\n" + (request.body or b"")


def _split(chance: random.Random, whole: bytes) -> tuple[bytes, ...]:
    """Return the bytes whole, or at random in pieces."""
    if chance.random() < 0.8:
        return (whole,)
    at = sorted(chance.randrange(len(whole)) for _ in range(3))
    return tuple(whole[a:b] for a, b in zip([0, *at], [*at, len(whole)], strict=True))
