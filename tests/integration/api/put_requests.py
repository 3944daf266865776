"""PUT requests of every kind, as bytes on the wire, in groups that share an app.

`tests/fixtures/put_answers.json` holds the answers of the code before ADR 0015, which served a
plain PUT and every other PUT in two separate ways.
"""

import gzip
import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import zstandard

from integration.api.asking import row

Requests = Mapping[str, bytes]

GOOD = json.dumps(row(freeform="x")).encode()
ROWS = json.dumps([row(freeform=number) for number in range(5)]).encode()
LINES = b"".join(json.dumps(row(freeform=number)).encode() + b"\n" for number in range(3))
ZSTD = zstandard.compress(GOOD)
GZIP = gzip.compress(GOOD, mtime=0)
JSON = "Content-Type: application/json"
NDJSON = "Content-Type: application/x-ndjson"
CHUNKED = "Transfer-Encoding: chunked"
LIMITS = {"max_readings": 5, "max_passwords": 2, "max_password_bytes": 20, "max_body_bytes": 2000}


@dataclass(frozen=True)
class Group:
    """Requests to one app, in order."""

    make: Callable[[Mapping[str, str]], Requests]
    """A function that makes the requests from a token of each scope."""
    settings: Mapping[str, object] = field(default_factory=dict)
    needs_tokens: bool = False
    shuts_down: bool = False
    """True while the worker shuts down."""


def put(
    body: bytes = GOOD,
    *headers: str,
    path: str = "/api/iot",
    method: str = "PUT",
    version: str = "1.1",
    length: int | None = -1,
) -> bytes:
    """Return a request; `length` replaces the length of the body, None omits the header."""
    lines = [f"{method} {path} HTTP/{version}", "Host: api.example", *headers]
    if length is not None:
        lines.append(f"Content-Length: {len(body) if length < 0 else length}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def chunks(*parts: bytes) -> bytes:
    """Return a chunked body."""
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (*parts, b""))


def rows(*many: object) -> bytes:
    return json.dumps(many).encode()


def _accepted(_: Mapping[str, str]) -> Requests:
    return {
        "one reading": put(GOOD, JSON),
        "one reading to rssi": put(GOOD, JSON, path="/api/rssi"),
        "five readings": put(ROWS, JSON),
        "no content type": put(GOOD),
        "form, as curl says": put(GOOD, "Content-Type: application/x-www-form-urlencoded"),
        "text/plain": put(GOOD, "Content-Type: text/plain"),
        "json with charset": put(GOOD, "Content-Type: application/json; charset=utf-8"),
        "JSON in capitals": put(GOOD, "Content-Type: Application/JSON"),
        "+json": put(GOOD, "Content-Type: application/vnd.iot+json"),
        "Japanese": put(json.dumps(row(freeform="温度"), ensure_ascii=False).encode(), JSON),
        "NaN": put(b'{"data": {"db_password": "p", "freeform": NaN}}', JSON),
        "UTF-16": put(GOOD.decode().encode("utf-16"), JSON),
        "float times": put(rows(row(relative_time=1.5, interrogator_time=1e3)), JSON),
        "trailing slash": put(GOOD, JSON, path="/api/iot/"),
        "rssi with a trailing slash": put(GOOD, JSON, path="/api/rssi/"),
        "double slashes": put(GOOD, JSON, path="//api///iot//"),
        "escaped slash": put(GOOD, JSON, path="/api/%2Fiot"),
        "escaped letter": put(GOOD, JSON, path="/api/%69ot"),
        "absolute URI": put(GOOD, JSON, path="http://api.example/api/iot"),
        "empty query": put(GOOD, JSON, path="/api/iot?"),
        "unknown parameters": put(GOOD, JSON, path="/api/iot?a=1&b&limit=x"),
        "ack=queued": put(GOOD, JSON, path="/api/iot?ack=queued"),
        "escaped ack": put(GOOD, JSON, path="/api/iot?a%63k=queu%65d&ack=nonsense"),
        "gzip": put(GZIP, JSON, "Content-Encoding: gzip"),
        "x-gzip in capitals": put(GZIP, JSON, "Content-Encoding:  X-GZIP "),
        "zstd": put(ZSTD, JSON, "Content-Encoding: zstd"),
        "identity": put(GOOD, JSON, "Content-Encoding: identity"),
        "NDJSON": put(LINES, NDJSON),
        "NDJSON by another name": put(LINES, "Content-Type: text/jsonl; charset=utf-8"),
        "NDJSON in gzip": put(gzip.compress(LINES, mtime=0), NDJSON, "Content-Encoding: gzip"),
        "chunked": put(chunks(GOOD[:9], GOOD[9:]), JSON, CHUNKED, length=None),
        "chunked gzip": put(chunks(GZIP), JSON, CHUNKED, "Content-Encoding: gzip", length=None),
        "request id": put(GOOD, JSON, "X-Request-Id: trace-1.a_B"),
        "request id that is not fit to log": put(GOOD, JSON, "X-Request-Id: a b"),
        "empty request id": put(GOOD, JSON, "X-Request-Id: "),
        "origin": put(GOOD, JSON, "Origin: https://one.example"),
        "100-continue": put(GOOD, JSON, "Expect: 100-continue"),
        "HTTP/1.0": put(GOOD, JSON, version="1.0"),
        "forwarded": put(GOOD, JSON, "X-Forwarded-For: 10.1.2.3", "Via: 1.1 proxy"),
        "forwarded prefix": put(GOOD, JSON, "X-Forwarded-Prefix: /sensors"),
        "token that nobody asks for": put(GOOD, JSON, "Authorization: Bearer nobody"),
        "close": put(GOOD, JSON, "Connection: close"),
    }


def _keys(_: Mapping[str, str]) -> Requests:
    key = "Idempotency-Key: first"
    return {
        "key": put(GOOD, JSON, key),
        "key again": put(GOOD, JSON, key),
        "key again with another body": put(ROWS, JSON, key),
        "key again in gzip and with an origin": put(
            GZIP, JSON, key, "Content-Encoding: gzip", "Origin: https://one.example"
        ),
        "empty key": put(GOOD, JSON, "Idempotency-Key: "),
        "key too long": put(GOOD, JSON, "Idempotency-Key: " + "k" * 256),
        "key not ASCII": put(GOOD, JSON, "Idempotency-Key: \xe9"),
        "key and a wrong ack": put(GOOD, JSON, "Idempotency-Key: \xe9", path="/api/iot?ack=no"),
        "key and a wrong body": put(b"no", JSON, "Idempotency-Key: \xe9", path="/api/iot?ack=no"),
    }


def _refused(_: Mapping[str, str]) -> Requests:
    long = GOOD.ljust(2001)
    return {
        "empty body": put(b"", JSON),
        "no length": put(b"", JSON, length=None),
        "blank body": put(b"  \n", JSON),
        "empty list": put(b"[]", JSON),
        "not JSON": put(b"not JSON", JSON),
        "JSON cut off": put(GOOD[:-1], JSON),
        "not UTF-8": put(b'{"data": {"freeform": "\xff"}}', JSON),
        "nested too deep": put(b"[" * 1999, JSON),
        "a string": put(b'"x"', JSON),
        "a row without data": put(rows(row(), {}), JSON),
        "a password that is a number": put(rows(row(), {"data": {"db_password": 5}}), JSON),
        "a time that is none": put(rows(row(), row(relative_time="soon")), JSON),
        "a time beyond 64 bits": put(rows(row(interrogator_time=2**63)), JSON),
        "a long password": put(rows(row("x" * 21)), JSON),
        "too many readings": put(rows(*[row()] * 6), JSON),
        "too many passwords": put(rows(row("a"), row("b"), row("c")), JSON),
        "as large as may be": put(GOOD.ljust(2000), JSON),
        "too large": put(long, JSON),
        "too large in chunks": put(chunks(long), JSON, CHUNKED, length=None),
        "too large unpacked": put(gzip.compress(long, mtime=0), JSON, "Content-Encoding: gzip"),
        "zstd too large unpacked": put(zstandard.compress(long), JSON, "Content-Encoding: zstd"),
        "cut off": put(GOOD, JSON, length=500),
        "cut off with a query": put(GOOD, JSON, length=500, path="/api/iot?ack=queued"),
        "a chunk that is none": put(b"x\r\n", JSON, CHUNKED, length=None),
        "another media type": put(GOOD, "Content-Type: text/html; charset=utf-8"),
        "a media type that is none": put(GOOD, "Content-Type: ;"),
        "no JSON type": put(GOOD, "Content-Type: application/jsonx"),
        "deflate": put(zlib.compress(GOOD), JSON, "Content-Encoding: deflate"),
        "two encodings": put(GZIP, JSON, "Content-Encoding: gzip, gzip"),
        "empty encoding": put(GOOD, JSON, "Content-Encoding: "),
        "not gzip": put(GOOD, JSON, "Content-Encoding: gzip"),
        "gzip cut short": put(GZIP[:-9], JSON, "Content-Encoding: gzip"),
        "a bad line": put(LINES + b"no\n", NDJSON),
        "JSON lines without their type": put(LINES, JSON),
        "wrong ack": put(GOOD, JSON, path="/api/iot?ack=now"),
        "empty ack": put(GOOD, JSON, path="/api/iot?ack"),
        "error with a request id": put(b"no", JSON, "X-Request-Id: trace-2"),
        "error with an origin": put(b"no", JSON, "Origin: https://one.example"),
        "error over HTTP/1.0": put(b"no", JSON, version="1.0"),
        "gzip, chunked": put(chunks(GZIP), JSON, "Transfer-Encoding: gzip, chunked", length=None),
    }


def _other(_: Mapping[str, str]) -> Requests:
    origin = "Origin: https://one.example"
    return {
        "preflight": put(
            b"", origin, "Access-Control-Request-Method: PUT",
            "Access-Control-Request-Headers: content-type, idempotency-key", method="OPTIONS",
        ),
        "OPTIONS": put(b"", method="OPTIONS"),
        "GET": put(b"", method="GET"),
        "HEAD": put(b"", method="HEAD", length=None),
        "DELETE": put(b"", method="DELETE"),
        "PATCH": put(GOOD, JSON, method="PATCH"),
        "POST": put(GOOD, JSON, method="POST"),
        "PUT elsewhere": put(GOOD, JSON, path="/api/other"),
        "PUT below": put(GOOD, JSON, path="/api/iot/5"),
        "PUT to maxtime": put(GOOD, JSON, path="/api/iot/maxtime"),
        "PUT to the audit log": put(GOOD, JSON, path="/api/audit", method="PUT"),
        "PUT to the health check": put(GOOD, JSON, path="/healthz"),
        "PUT to the root": put(GOOD, JSON, path="/"),
        "capitals in the path": put(GOOD, JSON, path="/API/iot"),
    }  # fmt: skip


def _tokens(tokens: Mapping[str, str]) -> Requests:
    made: dict[str, bytes] = {}
    given = {
        "no token": None,
        "empty": "",
        "basic": "Basic dXNlcjpwYXNz",
        "unknown": "Bearer iot_" + "A" * 43,
        "malformed": "Bearer two words",
        "read": f"Bearer {tokens['read']}",
        "ingest": f"Bearer {tokens['ingest']}",
        "admin": f"bearer  {tokens['admin']}",
    }
    for name, authorization in given.items():
        headers = [JSON] if authorization is None else [JSON, f"Authorization: {authorization}"]
        made[name] = put(GOOD, *headers)
        made[f"{name}, not JSON"] = put(b"no", *headers)
        made[f"{name}, with a query and an origin"] = put(
            GOOD, *headers, "Origin: https://one.example", path="/api/iot/?ack=queued"
        )
        made[f"{name}, OPTIONS"] = put(b"", *headers, method="OPTIONS")
    return made


def _receipts(_: Mapping[str, str]) -> Requests:
    ack = "/api/iot?ack=stored"
    prefix = "X-Forwarded-Prefix: /sensors"
    return {
        "not stored yet": put(GOOD, JSON, path=ack),
        "not stored yet, below a prefix": put(GOOD, JSON, prefix, path=ack),
        "not stored yet, rssi with an origin": put(
            ROWS, JSON, "Origin: https://one.example", path="/api//rssi?ack=stored"
        ),
        "not stored yet, with a key": put(GOOD, JSON, "Idempotency-Key: k", path=ack),
        "not stored yet, with a key again": put(GOOD, JSON, "Idempotency-Key: k", path=ack),
        "stored with a key, not waited for": put(GOOD, JSON, "Idempotency-Key: k"),
    }


def _simple(_: Mapping[str, str]) -> Requests:
    return {
        "plain": put(GOOD, JSON),
        "not JSON": put(b"no", JSON),
        "with an origin": put(GOOD, JSON, "Origin: https://one.example"),
        "with another origin": put(GOOD, JSON, "Origin: https://evil.test"),
        "with a query": put(GOOD, JSON, path="/api/iot?ack=queued"),
        "NDJSON": put(LINES, NDJSON),
        "health": put(b"", method="GET", path="/healthz"),
    }


GROUPS = {
    "accepted": Group(_accepted),
    "keys": Group(_keys),
    "refused": Group(_refused, LIMITS),
    "other methods and paths": Group(_other),
    "tokens": Group(_tokens, needs_tokens=True),
    "anonymous ingest": Group(_tokens, {"anonymous_scopes": "ingest"}, needs_tokens=True),
    "receipts": Group(_receipts, {"ack_stored_seconds": 0, "trusted_proxies": 1}),
    "one origin": Group(_simple, {"cors_origins": "https://one.example"}),
    "no origin": Group(_simple, {"cors_origins": ""}),
    "a backlog too small": Group(_simple, {"backlog_max_bytes": 10}),
    "Redis away": Group(_simple, {"redis_url": "redis://127.0.0.1:1/0"}),
    "shutdown": Group(_simple, shuts_down=True),
}
