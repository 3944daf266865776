"""The API's exchange and gunicorn's parser find the same requests in the same bytes.

The corpus: gunicorn's and llhttp's own tests, the cases of a smuggling scanner, and requests of
devices. `make parser-test` compares many more mutations of it.
"""

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from iot_api.server.exchange import ApiRequest
from support.http_parsers import PEER, Server, by_exchange, by_gunicorn, config

CORPUS = Path(__file__).parents[3] / "fixtures" / "http" / "requests.jsonl"
NEXT = b"GET /next HTTP/1.1\r\nHost: next\r\n\r\n"
"""Shows where the request before ends."""
CHUNKED = b"5\r\nhello\r\n0\r\n\r\n"
BODY = b'{"data": {"db_password": "p", "freeform": 21.5}}'
SMUGGLER = tuple(
    gadget % ((byte,) * gadget.count(b"%c"))
    for byte in (1, 4, 8, 9, 10, 11, 12, 13, 0x1F, 0x20, 0x7F, 0xA0, 0xFF)
    for gadget in (
        b"Transfer-Encoding:%cchunked",
        b"Transfer-Encoding%c: chunked",
        b"%cTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked%c",
        b"X: X%cTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked%cX: X",
        b"X: X\r%cTransfer-Encoding: chunked",
        b"X: X%c\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\r%cX: X",
        b"Transfer-Encoding: chunked%c\nX: X",
        b"%cTransfer-Encoding%c: chunked",
        b"%cTransfer-Encoding:%cchunked",
        b"%cTransfer-Encoding: chunked%c",
        b"Transfer-Encoding%c:%cchunked",
        b"Transfer-Encoding%c: chunked%c",
        b"Transfer-Encoding:%cchunked%c",
    )
)
"""The headers with which https://github.com/defparam/smuggler (MIT) hides Transfer-Encoding."""

FRAMINGS = (
    b"Content-Length: 18",
    b"Content-Length: +18",
    b"Content-Length: -0",
    b"Content-Length: 0x12",
    b"Content-Length: 018",
    b"Content-Length: 1_8",
    b"Content-Length: 18, 18",
    b"Content-Length: \xb2",
    b"Content-Length:",
    b"Content-Length: 18\r\nContent-Length: 18",
    b"Content-Length: 18\r\ncontent-length: 4",
    b"Content-Length: 18\r\nTransfer-Encoding: chunked",
    b"Content-Length: 99999999999999999999",
    b"Content_Length: 4\r\nContent-Length: 18",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: CHUNKED",
    b"Transfer-Encoding: chunked, chunked",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    b"Transfer-Encoding: identity, chunked",
    b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: chunked, gzip",
    b"Transfer-Encoding: xchunked",
    b"Transfer-Encoding:",
    b"Transfer-Encoding: \x0bchunked",
    b"Transfer-Encoding:\r\n chunked",
    b"Transfer_Encoding: chunked",
    b"Trailer: X\r\nTransfer-Encoding: chunked",
    b"Host: y\r\nContent-Length: 18",
    b"Content-Type: a\r\nContent-Type: b\r\nContent-Length: 18",
    b"X-A: 1\r\nX-A: 2\r\nx-a: 3\r\nContent-Length: 18",
    b"Expect: 100-continue\r\nContent-Length: 18",
    b"Expect: 100-Continue\r\nExpect: 100-continue\r\nContent-Length: 18",
    b"Expect: 200-ok\r\nContent-Length: 18",
    b"Connection: close\r\nContent-Length: 18",
    b"Connection: close, TE\r\nContent-Length: 18",
    b"Connection: keep-alive\r\nContent-Length: 18",
    b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 18",
    b"Connection: Upgrade\r\nUpgrade: websocket",
    b"X-Forwarded-Proto: https\r\nContent-Length: 18",
    b"X-Note: \xe4\t \xff \t\r\nContent-Length: \t18 \t",
    b"X-Note: a\x00b\r\nContent-Length: 18",
    b"X-Note: a\x7fb\r\nContent-Length: 18",
    b"X-Note: a\rb\r\nContent-Length: 18",
    b"X-Note: a\nContent-Length: 18",
    b"X-Note: a\r\n b\r\nContent-Length: 18",
    b" X-Note: a\r\nContent-Length: 18",
    b"X-Note : a\r\nContent-Length: 18",
    b": a\r\nContent-Length: 18",
    b"X-Note\r\nContent-Length: 18",
    b"X-Note: " + b"x" * 8180 + b"\r\nContent-Length: 18",
    b"X-Note: " + b"x" * 8181 + b"\r\nContent-Length: 18",
    b"X: 1\r\n" * 97 + b"Content-Length: 18",
    b"X: 1\r\n" * 98 + b"Content-Length: 18",
    b"X: 1\r\n" * 99 + b"Content-Length: 18",
)
LINES = (
    b"PUT /api/iot HTTP/1.1",
    b"PUT /api/iot?a=b&c HTTP/1.0",
    b"PUT /api/%69ot HTTP/1.1",
    b"PUT //api/iot HTTP/1.1",
    b"PUT /api/iot#f?q HTTP/1.1",
    b"PUT /api/iot;p?q#f HTTP/1.1",
    b"PUT http://x/api/iot?q HTTP/1.1",
    b"PUT http://[x/api/iot HTTP/1.1",
    b"PUT api/iot HTTP/1.1",
    b"PUT * HTTP/1.1",
    b"OPTIONS * HTTP/1.1",
    b"CONNECT x:80 HTTP/1.1",
    b"PUT  /api/iot HTTP/1.1",
    b"PUT /api/iot  HTTP/1.1",
    b"PUT /api/iot HTTP/1.1 ",
    b" PUT /api/iot HTTP/1.1",
    b"PUT\t/api/iot HTTP/1.1",
    b"PUT /api/i ot HTTP/1.1",
    b"PUT /api/\xe4 HTTP/1.1",
    b"PUT /api/iot HTTP/1.2",
    b"PUT /api/iot HTTP/2.0",
    b"PUT /api/iot HTTP/0.9",
    b"PUT /api/iot HTTP/01.1",
    b"PUT /api/iot http/1.1",
    b"PUT /api/iot",
    b"put /api/iot HTTP/1.1",
    b"SOURCE /api/iot HTTP/1.1",
    b"QUERY /api/iot HTTP/1.1",
    b"\r\nPUT /api/iot HTTP/1.1",
    b"\r\n\r\nPUT /api/iot HTTP/1.1",
    b"\nPUT /api/iot HTTP/1.1",
    b"PUT /" + b"x" * 4080 + b" HTTP/1.1",
    b"PUT /" + b"x" * 4081 + b" HTTP/1.1",
    b"PUT /" + b"x" * 9000 + b" HTTP/1.1",
)
CHUNKS = (
    CHUNKED,
    b"5;a=b\r\nhello\r\n0;c\r\n\r\n",
    b'5;a="b\\""\r\nhello\r\n0\r\n\r\n',
    b"5;\r\nhello\r\n0\r\n\r\n",
    b"5;a\nhello\r\n0\r\n\r\n",
    b"5 \r\nhello\r\n0\r\n\r\n",
    b"5\nhello\n0\n\n",
    b"+5\r\nhello\r\n0\r\n\r\n",
    b"0x5\r\nhello\r\n0\r\n\r\n",
    b"5_\r\nhello\r\n0\r\n\r\n",
    b"00000005\r\nhello\r\n000\r\n\r\n",
    b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    b"5\r\nhello0\r\n\r\n",
    b"5\r\nhello\r\n0\r\nX: 1\r\nY: 2\r\n\r\n",
    b"5\r\nhello\r\n0\r\nContent-Length: 3\r\n\r\n",
    b"5\r\nhello\r\n0\r\nX : 1\r\n\r\n",
    b"5\r\nhello\r\n0\r\nX: 1\n\r\n",
    b"5\r\nhello\r\n0\r\n",
    b"5\r\nhel",
    b"\r\n0\r\n\r\n",
)


def corpus() -> Iterator[bytes]:
    """Yield what clients send on one connection."""
    for line in CORPUS.read_text(encoding="utf-8").splitlines():
        request = json.loads(line)["request"].encode("latin-1")
        yield request + NEXT
        yield request.replace(b"POST /", b"PUT /api/iot?", 1) + b"\r\n\r\n" + NEXT
    for method in (b"POST /", b"PUT /api/iot"):
        for gadget in SMUGGLER:
            head = b"%b HTTP/1.1\r\n%b\r\nHost: x\r\nContent-Length: " % (method, gadget)
            yield head + b"%d\r\n\r\n" % len(CHUNKED) + CHUNKED + NEXT
            yield head + b"3\r\n\r\n" + CHUNKED + NEXT
        for framing in FRAMINGS:
            for version in (b"1.1", b"1.0"):
                start = method + b" HTTP/" + version
                yield b"%b\r\nHost: x\r\n%b\r\n\r\n%b%b" % (start, framing, CHUNKED, NEXT)
        for chunks in CHUNKS:
            start = method + b" HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            yield start + chunks + NEXT
    put = b"%b\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
    for start in LINES:
        yield put % (start, len(BODY), BODY) + NEXT
    yield b"".join(put % (LINES[0], size, BODY[:size]) for size in (5, 6, 5, 7, 8, 9, 5, 0)) + NEXT


CONNECTIONS = tuple(dict.fromkeys(corpus()))
LISTED: dict[bytes, str] = {}
"""Bytes in which the two may find different requests, with the reason. None are known."""
CONFIGS: tuple[dict[str, Any], ...] = (
    {},
    {"forwarded_allow_ips": "*"},
    {"header_map": "refuse"},
    {"proxy_protocol": "auto", "proxy_allow_ips": "*"},
    {"limit_request_line": 40, "limit_request_fields": 5, "casefold_http_method": True},
)
PIECES = (
    *(bytes([each]) for each in b"\r\n \t\0:,05\x7f\xff_/?#%"),
    b"\r\n",
    b"\r\n ",
    b"\r\n\r\n",
    b"HTTP/1.0",
    b"PUT ",
    b"chunked",
    b"close",
    b"keep-alive",
    b";a=b",
    b"X_Y: 1\r\n",
    b"Host: y\r\n",
    b"Connection: close\r\n",
    b"Content-Length: 5\r\n",
    b"Expect: 100-continue\r\n",
    b"Transfer-Encoding: chunked\r\n",
)


def mutated(connections: Sequence[bytes], chance: random.Random) -> bytes:
    """Return one of the connections with one to four changes."""
    data = bytearray(chance.choice(connections))
    for _ in range(chance.choice((1, 1, 2, 4))):
        # Most changes are in the first 300 bytes: long lines and bodies are dull.
        start = chance.randrange(min(len(data), chance.choice((60, 300, len(data)))) or 1)
        end = start + chance.choice((1, 1, 2, 8, 40))
        match chance.randrange(6):
            case 0:
                data[start:start] = chance.choice(PIECES)
            case 1:
                del data[start:end]
            case 2:
                data[start : start + 1] = bytes([chance.randrange(256)])
            case 3:
                data[start:start] = data[start:end]
            case 4:
                data[start:end] = data[start:end].swapcase()
            case 5:
                other = chance.choice(CONNECTIONS)
                cut = chance.randrange(len(other))
                data[start:start] = other[cut : cut + chance.choice((4, 20, 200))]
    return bytes(data)


def in_pieces(data: bytes, chance: random.Random) -> list[bytes]:
    """Return the data as it may arrive."""
    if chance.random() < 0.5:
        return [data]
    cuts = sorted(chance.randrange(len(data) + 1) for _ in range(chance.randint(1, 5)))
    parts = [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    return [part for part in parts if part]


@pytest.mark.parametrize("changes", CONFIGS, ids=str)
def test_the_corpus(changes: dict[str, Any]) -> None:
    cfg, chance = config(**changes), random.Random(1)
    plain = 0
    for data in CONNECTIONS:
        slowly = [bytes([each]) for each in data[:200]] + [data[200:]]
        for pieces in ([data], in_pieces(data, chance)) if changes else ([data], slowly):
            ours = by_exchange(Server(cfg), pieces)
            assert ours == by_gunicorn(cfg, pieces) or data in LISTED, pieces
            plain += sum(each.body is not None for each in ours)
    assert plain > 500


def test_mutations_of_the_corpus(pytestconfig: pytest.Config) -> None:
    seed, count = pytestconfig.getoption("parser_seed"), pytestconfig.getoption("parser_mutations")
    chance, configs = random.Random(seed), [config(**changes) for changes in CONFIGS]
    # Most mutations of a refused request are refused.
    valid = [each for each in CONNECTIONS if by_gunicorn(configs[0], [each])[0].body is not None]
    accepted = 0
    for number in range(count):
        data = mutated(valid if number % 4 else CONNECTIONS, chance)
        cfg, pieces = chance.choice(configs), in_pieces(data, chance)
        ours = by_exchange(Server(cfg), pieces)
        assert ours == by_gunicorn(cfg, pieces) or data in LISTED, (seed, number, pieces)
        accepted += sum(each.body is not None for each in ours)
    print(f"seed {seed}: {count} mutations, {accepted} accepted requests, no difference")
    assert accepted > count / 4


@pytest.mark.parametrize(
    ("line", "headers", "is_plain"),
    [
        (b"PUT /api/iot HTTP/1.1", b"Content-Length: 0", True),
        (b"GET /a?b HTTP/1.0", b"Connection: keep-alive", True),
        (b"POST http://x/a HTTP/1.1", b"Transfer-Encoding: chunked", True),
        (b"PUT /api/iot HTTP/1.1", b"Expect: 100-continue\r\nContent-Length: 0", True),
        (b"OPTIONS * HTTP/1.1", b"Upgrade: h2c\r\nConnection: Upgrade", True),
        (b"GET /a HTTP/1.1", b"X_Y: 1", False),
        (b"QUERY /a HTTP/1.1", b"X: 1", False),
    ],
)
def test_which_heads_llhttp_parses(line: bytes, headers: bytes, is_plain: bool) -> None:
    """gunicorn's parser refuses all other heads, or accepts them as it always did."""
    reader = SimpleNamespace(pieces=[line + b"\r\nHost: x\r\n" + headers + b"\r\n\r\n"])
    reader.read = lambda *_: reader.pieces.pop()
    reader.unread = reader.pieces.append
    assert ApiRequest(config(), reader, PEER).is_plain == is_plain


def test_the_same_head_is_parsed_once() -> None:
    put = b"PUT /api/iot HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    server = Server(config())
    by_exchange(server, [(put % 2 + b"[]") * 3 + (put % 4 + b"[{}]") * 2 + put % 2 + b"{}"])
    assert [each.body for each in server.requests] == [b"[]"] * 3 + [b"[{}]"] * 2 + [b"{}"]
    assert len({*map(id, server.heads)}) == 2


def test_heads_with_many_headers_are_not_kept() -> None:
    """Parsed, they take twenty times their size."""
    server = Server(config())
    for count in (32, 33):
        fields = b"Content-Length: 0\r\n" + b"".join(
            b"X%d:\r\n" % each for each in range(count - 1)
        )
        by_exchange(server, [b"PUT /api/iot HTTP/1.1\r\n" + fields + b"\r\n"])
    assert [len(each.headers) for each in server.heads] == [32, 33]
    assert [len(each.headers) for each in server.put_heads.values()] == [32]
