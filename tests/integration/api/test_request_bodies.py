"""The size, the compression and the media type of request bodies."""

import gzip
import json
import tracemalloc
from collections.abc import Callable

import pytest
import zstandard

from integration.api.asking import JSON, Api, assert_error, row
from integration.api.conftest import MakeApi
from iot_api.http.request import NDJSON_TYPES
from iot_writer.writer import Writer
from support.draining import drain_all

NDJSON = {"Content-Type": "application/x-ndjson"}
PACK: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "zstd": zstandard.compress,
}
LIMIT = 64 * 1024
BODY = json.dumps([row(freeform="packed"), row(freeform="readings")]).encode()


def packed(encoding: str) -> dict[str, str]:
    return {**JSON, "Content-Encoding": encoding}


@pytest.mark.parametrize("encoding", ["gzip", "GZip", "x-gzip", "zstd", "identity"])
def test_compressed_readings_are_stored(api: Api, writer: Writer, encoding: str) -> None:
    body = PACK.get(encoding.lower(), bytes)(BODY)
    assert api.ask("PUT", "/api/iot", body, packed(encoding)).status_code == 201
    drain_all(writer)
    assert [each["freeform"] for each in api.read()] == ['"packed"', '"readings"']


def test_a_compressed_password_reads(api: Api, writer: Writer) -> None:
    api.put(row())
    drain_all(writer)
    body = gzip.compress(b'{"data": {"db_password": "p"}}')
    answer = api.ask("POST", "/api/iot", body, packed("gzip"))
    assert len(answer.get_json()["data"]) == 1


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_several_gzip_members_are_one_body(module_api: Api, encoding: str) -> None:
    body = b"".join(PACK[encoding](part) for part in (BODY[:20], BODY[20:]))
    answer = module_api.ask("PUT", "/api/iot", body, packed(encoding))
    assert answer.get_json() == {"success": "2 object(s) created"}


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
@pytest.mark.parametrize("cut", [1, 4, 9, 20])
def test_a_truncated_compressed_body_is_refused(module_api: Api, encoding: str, cut: int) -> None:
    answer = module_api.ask("PUT", "/api/iot", PACK[encoding](BODY)[:-cut], packed(encoding))
    assert_error(answer, 400, "invalid_request")


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
@pytest.mark.parametrize("body", [BODY, b"\0" * 50, b"(\xb5/\xfd", b"\x1f\x8b"])
def test_a_body_with_the_wrong_content_encoding_is_refused(
    module_api: Api, encoding: str, body: bytes
) -> None:
    assert_error(module_api.ask("PUT", "/api/iot", body, packed(encoding)), 400, "invalid_request")


def test_a_flipped_bit_in_a_compressed_body_is_found(module_api: Api) -> None:
    body = bytearray(gzip.compress(BODY))
    body[-6] ^= 1  # in the checksum
    answer = module_api.ask("PUT", "/api/iot", bytes(body), packed("gzip"))
    assert_error(answer, 400, "invalid_request")


@pytest.mark.parametrize("encoding", ["br", "deflate", "gzip, gzip", "compress", "*"])
def test_an_unknown_content_encoding_is_415(module_api: Api, encoding: str) -> None:
    error = assert_error(
        module_api.ask("PUT", "/api/iot", BODY, packed(encoding)), 415, "unsupported_media_type"
    )
    assert error["error"] == "Content-Encoding must be gzip, zstd or identity"


@pytest.mark.parametrize(
    "media_type", ["text/html", "multipart/form-data; boundary=x", "application/xml", "image/png"]
)
@pytest.mark.parametrize(("method", "path"), [("PUT", "/api/iot"), ("POST", "/api/rssi/last/5")])
def test_another_media_type_is_415(
    module_api: Api, method: str, path: str, media_type: str
) -> None:
    answer = module_api.ask(method, path, BODY, {"Content-Type": media_type})
    error = assert_error(answer, 415, "unsupported_media_type")
    assert media_type.partition(";")[0] in error["error"]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": "application/json; charset=UTF-8"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/vnd.api+json"},
    ],
)
def test_the_json_media_types_of_old_clients_are_accepted(
    module_api: Api, headers: dict[str, str]
) -> None:
    assert module_api.ask("PUT", "/api/iot", BODY, headers).status_code == 201


@pytest.mark.parametrize("encoding", ["identity", "gzip", "zstd"])
def test_a_body_over_the_limit_is_413(make_api: MakeApi, encoding: str) -> None:
    api = make_api(max_body_bytes=LIMIT)

    def put(size: int) -> int:
        body = json.dumps(row(freeform="")).encode()
        body += b" " * (size - len(body))
        return api.ask(
            "PUT", "/api/iot", PACK.get(encoding, bytes)(body), packed(encoding)
        ).status_code

    assert [put(LIMIT), put(LIMIT + 1)] == [201, 413]


def test_the_body_of_a_read_is_small(module_api: Api) -> None:
    """A large body would be parsed outside of the slots for large bodies."""
    body = json.dumps({"data": {"db_password": ""}, "more": "x" * 100_000})
    assert_error(module_api.ask("POST", "/api/iot", body, JSON), 413, "too_large")


def test_the_error_for_a_large_body_names_the_limit(make_api: MakeApi) -> None:
    api = make_api(max_body_bytes=LIMIT)
    for method in ("PUT", "POST"):
        answer = api.ask(method, "/api/iot", b" " * (LIMIT + 1), JSON)
        assert assert_error(answer, 413, "too_large")["error"] == "the request is too large"
        answer = api.ask(method, "/api/iot", gzip.compress(b" " * (LIMIT + 1)), packed("gzip"))
        assert assert_error(answer, 413, "too_large")["limit"] == LIMIT


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_decompression_bomb_takes_little_memory(make_api: MakeApi, encoding: str) -> None:
    """A gigabyte of white space compresses to a megabyte or less."""
    api = make_api(max_body_bytes=2**20)
    block = b" " * 2**20
    if encoding == "gzip":
        bomb = gzip.compress(block, 9) * 1000
    else:
        bomb = zstandard.compress(block, 19) * 1000
    assert len(bomb) < 1.2 * 2**20
    bomb = bomb[: 2**20]
    tracemalloc.start()
    try:
        answer = api.ask("PUT", "/api/iot", bomb, packed(encoding))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert_error(answer, 413, "too_large")
    assert peak < 12 * 2**20


def test_ndjson_has_one_row_per_line(api: Api, writer: Writer) -> None:
    lines = [json.dumps(row(freeform=n)) for n in range(3)]
    body = f"{lines[0]}\n\n{lines[1]}\r\n{lines[2]}\n"
    answer = api.ask("PUT", "/api/iot", body, NDJSON)
    assert answer.get_json() == {"success": "3 object(s) created"}
    drain_all(writer)
    assert [each["freeform"] for each in api.read()] == ["0", "1", "2"]


@pytest.mark.parametrize("name", sorted(NDJSON_TYPES))
def test_ndjson_has_several_media_types(api: Api, name: str) -> None:
    for kind in (name, name.upper(), f"{name}; charset=utf-8", f"{name.title()} ;x=y"):
        answer = api.ask("PUT", "/api/iot", '{"data": {}}\n{"data": {}}', {"Content-Type": kind})
        assert answer.get_json() == {"success": "2 object(s) created"}, kind


@pytest.mark.parametrize(
    "body",
    [
        '{"data": {}}\n{"data": {}}',
        '{"data": {}}\r\n\r\n{"data": {}}\r\n',
        '\n {"data": {}} \n\t{"data": {}}',
        '{"data": {}}\n{"data": nonsense}',
        '[{"data": {}}]\n[{"data": {}}]',
    ],
)
@pytest.mark.parametrize("kind", ["application/json", "text/plain", ""])
def test_ndjson_sent_as_json_names_the_right_media_type(
    module_api: Api, body: str, kind: str
) -> None:
    headers = {"Content-Type": kind} if kind else {}
    error = assert_error(module_api.ask("PUT", "/api/iot", body, headers), 400, "invalid_request")
    assert "`Content-Type: application/x-ndjson`" in error["error"]


@pytest.mark.parametrize(
    "body",
    [
        '{"data": {}}\nno',
        '{"data": {}} {"data": {}}',
        '{"data":\n{"data": {}}',
        "no\n{}",
        '{"data": {"freeform":\n[}}',
        '[{"data": {}},\n{"data": {}}',
    ],
)
def test_other_invalid_json_is_not_mistaken_for_ndjson(module_api: Api, body: str) -> None:
    error = assert_error(module_api.ask("PUT", "/api/iot", body, JSON), 400, "invalid_request")
    assert "ndjson" not in error["error"]


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ('{"data": {"relative_time": "x"}}', "relative_time"),
        ('{"data": {"relative_time": null}}', "relative_time"),
        ('{"data": {"interrogator_time": 1e300}}', "interrogator_time"),
        ("{}", "data"),
        ("5", "data"),
        ('[{"data": {}}]', "data"),
    ],
)
def test_errors_in_ndjson_name_the_row(module_api: Api, bad: str, field: str) -> None:
    body = f'{{"data": {{}}}}\n{{"data": {{}}}}\n{bad}\n{{"data": {{}}}}'
    error = assert_error(module_api.ask("PUT", "/api/iot", body, NDJSON), 400, "invalid_request")
    assert (error["row"], error["field"]) == (2, field)


@pytest.mark.parametrize("body", ["", "\n\n", "no", '{"data": {}}\n{"da'])
def test_invalid_ndjson_is_refused(module_api: Api, body: str) -> None:
    assert_error(module_api.ask("PUT", "/api/iot", body, NDJSON), 400, "invalid_request")


def test_zstd_that_ends_between_blocks_is_truncated(api: Api) -> None:
    stream = zstandard.ZstdCompressor().compressobj()
    begin = stream.compress(b'{"data": {}}\n') + stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    rest = stream.compress(b'{"data": {}}\n') + stream.flush()
    headers = NDJSON | {"Content-Encoding": "zstd"}
    error = assert_error(api.ask("PUT", "/api/iot", begin, headers), 400, "invalid_request")
    assert "cut short" in error["error"]
    assert api.ask("PUT", "/api/iot", begin + rest, headers).status_code == 201
    assert api.ask("PUT", "/api/iot", (begin + rest) * 2, headers).status_code == 201


def test_an_invalid_line_is_named(api: Api) -> None:
    body = b'{"data": {}}\n\n{"data": {}}\n{"data": nonsense}\n'
    error = assert_error(api.ask("PUT", "/api/iot", body, NDJSON), 400, "invalid_request")
    assert error["row"] == 2


def test_the_number_of_passwords_per_request_is_limited(api: Api) -> None:
    rows = [{"data": {"db_password": str(number)}} for number in range(1001)]
    error = assert_error(api.put(rows), 413, "too_large")
    assert error["limit"] == 50


@pytest.mark.parametrize("encoding", ["identity", "gzip", "zstd"])
def test_text_that_is_too_large_when_escaped_is_413(
    make_api: MakeApi, writer: Writer, encoding: str
) -> None:
    api = make_api(max_body_bytes=LIMIT)

    def put(character: str) -> int:
        room = LIMIT - len(json.dumps(row(freeform="")))
        body = json.dumps(
            row(freeform=character * (room // len(character.encode()))), ensure_ascii=False
        ).encode()
        packed_body = PACK.get(encoding, bytes)(body)
        return api.ask("PUT", "/api/iot", packed_body, packed(encoding)).status_code

    assert [put(each) for each in ("a", "日", "é", "\x7f", "😀")] == [201, 201, 413, 413, 413]
    drain_all(writer)
    ascii_text, japanese = (json.loads(each["freeform"]) for each in api.read())
    assert set(ascii_text) == {"a"}
    assert set(japanese) == {"日"}


@pytest.mark.parametrize(("encoding", "members"), [("gzip", "members"), ("zstd", "frames")])
def test_a_body_with_too_many_members_is_refused(
    module_api: Api, encoding: str, members: str
) -> None:
    body = PACK[encoding](b"") * 100_000
    error = assert_error(
        module_api.ask("PUT", "/api/iot", body, packed(encoding)), 400, "invalid_request"
    )
    assert error["error"] == f"the {encoding} body has more than 1000 {members}"


def test_gzip_may_be_padded_with_zeros(api: Api) -> None:
    body = gzip.compress(BODY) + bytes(512)
    assert api.ask("PUT", "/api/iot", body, packed("gzip")).status_code == 201
