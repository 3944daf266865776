"""Invalid requests, generated from a seed."""

import gzip
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import zstandard

GOOD = b'{"data": {"db_password": "fuzz", "freeform": 1}}'
_TEXTS = ["", "x", "\u00e9", "\ufeff", "\x00", "\x1e", "\U0001f600", "\\ud800", "x" * 2000, "'; --"]
_NUMBERS = [
    "0", "-1", "1e400", "-1e400", "NaN", "Infinity", "9223372036854775807", "9223372036854775808",
    "1" * 5000, "-0.0", "1e-400", "0x10", "01", "1_000", "1.763877e+15", "true", "null", "\u0663",
]  # fmt: skip
_PATHS = [
    "/api/iot", "/api/rssi", "/api/iot/", "/api/iot/maxtime", "/api/iot/seconds/{}",
    "/api/iot/last/{}", "/api/iot/{}", "/api/iot/{}/{}", "/api/iot/stored/{}", "/api/audit",
    "/healthz", "/readyz", "/", "/{}", "/api/iot/../audit", "//api//iot", "/api/iot;x",
    "/%2e%2e/{}", "/api/vault/password", "/api/vault",
]  # fmt: skip
_PIECES = [
    "0", "-1", "9" * 30, "1e9", "nan", "inf", "%00", "%ff%fe", "%", "%zz", "%2F", "..", "a" * 300,
    "%C3%A9", "%ED%A0%80", "AAAA", "AAAA" * 40, "==", "\t", "1.5", "%201", "+1", "1%0d%0aX:%201",
]  # fmt: skip
_METHODS = ["PUT", "POST", "GET", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE"]
_READS = [
    "/api/iot", "/api/rssi/{}", "/api/iot/{}/{}", "/api/iot/seconds/{}", "/api/iot/last/{}",
    "/api/iot/maxtime",
]  # fmt: skip
_TYPES = [
    "application/json", "application/x-ndjson", "text/plain", "application/json; charset=utf-16",
    "application/xml", "multipart/form-data; boundary=x", "", ";", "a/b/c", "x" * 500, "text/json",
    "application/x-www-form-urlencoded", "application/vnd.x+json", "application/json; charset=nope",
]  # fmt: skip
_QUERIES = [
    "", "", "", "?ack=stored", "?ack=queued", "?ack=", "?ack=x&ack=stored", "?%ff", "?a[]=%00",
    "?&&&=", "?limit=9" + "9" * 40,
]  # fmt: skip
_VALUES = ["", "x", "0", "-1", "y" * 255, "y" * 256, "\u00e9", "a, b", '"', "%00", "\t", " "]


@dataclass(frozen=True)
class Request:
    """An HTTP request."""

    method: str
    path: str
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)


def requests(seed: int) -> Iterator[Request]:
    """Yield requests forever. The same seed gives the same requests."""
    chance = random.Random(seed)
    while True:
        yield _request(chance)


def _request(chance: random.Random) -> Request:
    method, path = _target(chance)
    path = path.format(*(chance.choice(_PIECES) for _ in range(path.count("{}"))))
    headers: dict[str, str] = {}
    if chance.random() < 0.9:
        headers["Content-Type"] = chance.choice(_TYPES[:2] if chance.random() < 0.7 else _TYPES)
    for name in ("Idempotency-Key", "X-Request-Id", "Accept", "X-Forwarded-For", "Origin", "Range"):
        if chance.random() < 0.08:
            headers[name] = chance.choice(_VALUES)
    body = None if chance.random() < 0.05 else _body(chance)
    if body is not None and chance.random() < 0.3:
        encoding, body = _packed(chance, body)
        headers["Content-Encoding"] = encoding
    return Request(method, path + chance.choice(_QUERIES), body, headers)


def _target(chance: random.Random) -> tuple[str, str]:
    """Return a method and a path, mostly of a route that reads a body."""
    kind = chance.random()
    if kind < 0.4:
        return "PUT", chance.choice(["/api/iot", "/api/rssi"])
    if kind < 0.7:
        return "POST", chance.choice(_READS)
    return chance.choice(_METHODS), chance.choice(_PATHS)


def _body(chance: random.Random) -> bytes:
    make: Callable[[random.Random], bytes] = chance.choice(_BODIES)
    body = make(chance)
    return _damaged(chance, body) if chance.random() < 0.2 else body


def _row(chance: random.Random) -> bytes:
    fields = {"db_password": '"fuzz"'}
    for name in ("db_password", "relative_time", "interrogator_time", "freeform", "other"):
        if chance.random() < 0.4:
            fields[name] = _value(chance)
    inner = ", ".join(f'"{name}": {value}' for name, value in fields.items())
    return f'{{"data": {{{inner}}}}}'.encode("utf-8", "surrogatepass")


def _value(chance: random.Random) -> str:
    kind = chance.randrange(6)
    if kind == 0:
        return chance.choice(_NUMBERS)
    if kind == 1:
        return json.dumps(chance.choice(_NUMBERS))
    if kind == 2:
        return '"' + chance.choice(_TEXTS) + '"'
    if kind == 3:
        return "[" * 5 + "]" * 5
    if kind == 4:
        return '{"a": {"a": null}}'
    return json.dumps(chance.choice(_TEXTS))


def _rows(chance: random.Random) -> bytes:
    return b"[" + b", ".join(_row(chance) for _ in range(chance.randrange(5))) + b"]"


def _lines(chance: random.Random) -> bytes:
    return chance.choice([b"\n", b"\r\n", b"\n\n", b"\r"]).join(_row(chance) for _ in range(3))


def _deep(chance: random.Random) -> bytes:
    depth = chance.choice([10, 500, 3000, 100_000])
    opening, closing = chance.choice([(b"[", b"]"), (b'{"a":', b"}"), (b'{"data":', b"}")])
    nested = opening * depth + b"1" + closing * (depth if chance.random() < 0.7 else 0)
    if chance.random() < 0.5:
        return b'{"data": {"db_password": "fuzz", "freeform": ' + nested + b"}}"
    return nested


def _recoded(chance: random.Random) -> bytes:
    text = _row(chance).decode("utf-8", "surrogatepass")
    encoding = chance.choice(["utf-16", "utf-16-le", "utf-32", "utf-8-sig", "latin-1", "utf-7"])
    return text.encode(encoding, "replace")


def _noise(chance: random.Random) -> bytes:
    return chance.randbytes(chance.choice([0, 1, 7, 300, 5000]))


def _good(chance: random.Random) -> bytes:
    del chance
    return GOOD


def _asked(chance: random.Random) -> bytes:
    return b'{"data": {"db_password": %b}}' % _value(chance).encode("utf-8", "surrogatepass")


_BODIES = [_row, _row, _rows, _lines, _deep, _recoded, _noise, _good, _asked]


def _damaged(chance: random.Random, body: bytes) -> bytes:
    if not body:
        return body
    at = chance.randrange(len(body))
    how = chance.randrange(4)
    if how == 0:
        return body[:at]
    if how == 1:
        return body[:at] + chance.randbytes(3) + body[at + 1 :]
    if how == 2:
        return body[:at] + b"\xed\xa0\x80" + body[at:]
    return body + body[at:]


def _packed(chance: random.Random, body: bytes) -> tuple[str, bytes]:
    bomb = gzip.compress(b" " * 20_000_000) if chance.random() < 0.01 else b"\x1f\x8b"
    return chance.choice(
        [
            ("gzip", gzip.compress(body)),
            ("zstd", zstandard.compress(body)),
            ("gzip", _damaged(chance, gzip.compress(body))),
            ("zstd", _damaged(chance, zstandard.compress(body))),
            ("gzip", bomb),
            ("zstd", b"\x28\xb5\x2f\xfd" + chance.randbytes(20)),
            (chance.choice(["br", "gzip, gzip", "GZIP", "", "x-gzip", "deflate"]), body),
            ("identity", body),
        ]
    )
