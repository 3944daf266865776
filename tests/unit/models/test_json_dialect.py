"""JSON that Python's `json` accepts and RFC 8259 does not: returned as sent, at a bounded cost."""

import json
import random
import re
import time
import tracemalloc
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iot_api.ingest.parser import Batch, parse_put
from iot_models import json_dialect
from iot_models.errors import InvalidRequestError, IotError
from iot_models.json_dialect import StandIns, decode
from support.counting import function_calls

MIB = 2**20
SIZE = 8 * MIB

PIECES = st.sampled_from(
    ["NaN", "Infinity", "-Infinity", "\\", "\ud800", "\udc00", "😀", "u", "[7", "[7]", "[", "é",
     "1", "\ud041", '"', "-", "[3u]", "\0", "\u0c37"]
)  # fmt: skip
STRINGS = st.lists(PIECES, max_size=6).map("".join)
VALUES = st.recursive(
    st.none() | st.floats() | st.integers() | STRINGS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(STRINGS, inner, max_size=3),
    max_leaves=8,
)


def parse(body: bytes | str, *, lines: bool = False, size: int = SIZE) -> list[Batch]:
    return parse_put(
        body.encode() if isinstance(body, str) else body,
        max_body_bytes=size,
        max_readings=100_000,
        max_password_bytes=20,
        max_passwords=50,
        lines=lines,
    )


def freeform(body: bytes | str, *, lines: bool = False) -> list[str]:
    (batch,) = parse(body, lines=lines)
    return batch.readings.freeform.decode().split("\0")


def refusal(body: bytes | str, *, lines: bool = False) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as raised:
        parse(body, lines=lines)
    return raised.value


@given(values=st.lists(VALUES, min_size=1, max_size=4), lines=st.booleans())
def test_the_dialect_is_returned_as_sent(values: list[object], *, lines: bool) -> None:
    rows = [json.dumps({"data": {"freeform": each}}) for each in values]
    body = "\n".join(rows) if lines else f"[{', '.join(rows)}]"
    assert freeform(body, lines=lines) == [json.dumps(each) for each in values]


@pytest.mark.parametrize(
    "text",
    ["NaN", "[NaN,Infinity , -Infinity]", '{"NaN":  NaN, "-Infinity": "Infinity"}',
     '"\\ud800"', '"\\uDFff\\uD800"', '["\\\\ud800", "\\\\\\ud800", "\\\\NaN", "\\\\\\\\", NaN]',
     '{"a": NaN, "a": NaN}', '"[1][2][3]" ', "[[7], [8], [9], NaN]", '"\\ud83d\\ude00 \\ude00"'],
)  # fmt: skip
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32-le"])
def test_every_character_is_kept(text: str, encoding: str) -> None:
    json.loads(text)  # Python takes it
    assert freeform(f'{{"data": {{"freeform": {text}}}}}'.encode(encoding)) == [text.strip()]


@pytest.mark.parametrize(
    "encoding",
    ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"],
)
@pytest.mark.parametrize("lines", [False, True])
def test_the_encodings_that_python_detects(encoding: str, *, lines: bool) -> None:
    rows = ['{"data": {"db_password": "é", "freeform": "日😀"}}', '{"data": {"db_password": "é"}}']
    body = "\n".join(rows) if lines else f"[{','.join(rows)}]"
    assert parse(body.encode(encoding), lines=lines) == parse(body, lines=lines)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("text", ["", " ", "[]"])
def test_a_blank_body_in_any_encoding(text: str, encoding: str) -> None:
    assert str(refusal(text.encode(encoding))) == "the request holds no readings"


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (b'{"data": {"freeform": "\xff"}}', "UTF-8"),
        # Python's decoder passes half a pair in UTF-8. It takes 70 times as long as other text.
        (b'{"data": {"freeform": "\xed\xa0\x80"}}', "UTF-8"),
        ('{"data": {}}'.encode("utf-16") + b"\0", "UTF-16-LE"),
        ('{"data": {}}'.encode("utf-16-le") + b"\0\xd8 \0", "UTF-16-LE"),
        ('{"data": {}}'.encode("utf-32-be") + b"\0\x20\0\0", "UTF-32-BE"),
    ],
)
def test_bytes_that_are_not_text_are_refused(body: bytes, name: str) -> None:
    assert str(refusal(body)) == f"the request is not {name}"


@pytest.mark.parametrize(
    "text",
    ["nan", "inf", "-NaN", "+Infinity", "--Infinity", "1NaN", "NaN1", "NaNNaN", "Infinity.5", "Na",
     "-Infinit", "1-Infinity", "{NaN: 1}", "\\ud800", "\\\\", '"\\NaN"', '"\\uNaN0"', '"\\ud8"',
     '"\\udxyz"', '"\\ud80g"', '"\\-Infinity"', '"\\ud800', "[NaN,]", '"NaN\n"'],
)  # fmt: skip
@pytest.mark.parametrize("before", ["", "NaN, ", '"\\ud800", '])
def test_json_that_python_refuses_is_refused(text: str, before: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        json.loads(f"[{text}]")
    body = f'{{"data": {{"freeform": [{before}{text}]}}}}'
    assert str(refusal(body)).startswith("the request is not JSON: ")
    error = refusal(f'[{{"data": {{"freeform": NaN}}}}, {body}, {{"data": {{}}}}]')
    assert error.details == {"row": 1, "field": "data"}
    assert str(error).startswith("row 1, data: is not JSON: ")
    assert refusal(f'{{"data": {{}}}}\n\n{body}', lines=True).details == error.details


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", '"NaN"', '"\\ud800"'])
@pytest.mark.parametrize(
    ("field", "sentence"),
    [
        ("relative_time", "is not a number"),
        ("interrogator_time", "is neither a number nor a date"),
    ],
)
def test_a_time_is_a_number(field: str, sentence: str, value: str) -> None:
    error = refusal(f'[{{"data": {{}}}}, {{"data": {{"{field}": {value}, "freeform": NaN}}}}]')
    assert str(error) == f"row 1, {field}: {sentence}"
    assert error.details == {"row": 1, "field": field}


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("NaN", "row 0, data: is missing, the row is not an object"),
        ("[NaN]", "row 0, data: is missing, the row is not an object"),
        ('{"data": NaN}', "row 0, data: is not an object"),
        ('{"data": {"db_password": NaN}}', "row 0, db_password: is not a string"),
        (
            '[{"data": {}}, {"data": {"db_password": "a\\ud800"}}]',
            "row 1, db_password: holds half a surrogate pair, which is not a character",
        ),
        (
            '{"data": {"db_password": "' + "\\ud83d\\ude00" * 10**6 + '", "freeform": NaN}}',
            "row 0, db_password: is longer than 20 bytes",
        ),
    ],
)
def test_the_other_fields_stay_strict(body: str, sentence: str) -> None:
    assert str(refusal(body)) == sentence


@given(password=STRINGS, other=st.sampled_from(["NaN", '"\\ud800"', '"\\u005b7]"']))
def test_a_password_stays_the_same_beside_dialect(password: str, other: str) -> None:
    plain = "".join(re.findall("[^\ud800-\udfff]", password))[:5]
    rows = [{"data": {"db_password": plain, "freeform": n}} for n in range(2)]
    body = json.dumps(rows)[:-1] + f', {{"data": {{"freeform": {other}, "db_password": ""}}}}]'
    assert [each.password.decode() for each in parse(body)] == list(dict.fromkeys([plain, ""]))


def test_a_surrogate_pair_written_in_two_ways_is_one_password() -> None:
    body = (
        '[{"data": {"db_password": "😀", "freeform": NaN}},'
        '{"data": {"db_password": "\\ud83d\\ude00"}}, {"data": {"db_password": "\\uD83D\\uDE00"}}]'
    )
    (batch,) = parse(body)
    assert (batch.password.decode(), len(batch.readings)) == ("😀", 3)


@pytest.mark.parametrize("digit", range(10))
@pytest.mark.parametrize("other", ["NaN", '"\\ud800"'])
def test_an_escape_does_not_make_a_prefix(digit: int, other: str) -> None:
    """A string that decodes to a prefix is not restored: it would name another vault."""
    for tail in ("]", " ]", "u]😀", "U]a"):
        password = f"[{digit}{tail}"
        for begin in (rf"\u005b{digit}", rf"\u005B{digit}", rf"[\u003{digit}", rf"[\u003{digit}\\"):
            body = f'{{"data": {{"db_password": "{begin}{tail}", "freeform": {other}}}}}'
            (batch,) = parse(body)
            assert batch.password.decode().replace("\\", "") == password


def test_a_prefix_is_not_in_the_body(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = "".join(f"[{n}" for n in range(10))
    for _ in range(20):
        assert freeform(f'{{"data": {{"freeform": ["{taken}", NaN]}}}}') == [f'["{taken}", NaN]']
    more = iter(range(3))
    monkeypatch.setattr(
        random, "randrange", lambda low, high=0: low + next(more) if high == 10**9 else low
    )
    monkeypatch.setattr(json_dialect, "_sample", lambda body: body)
    stand_ins = StandIns.for_body(b"[1 [100000 [100000000 [100000001 NaN")
    assert stand_ins is not None
    assert stand_ins.prefix == b"[100000002"


@given(
    pieces=st.lists(
        st.sampled_from(
            ["NaN", "Infinity", "-", "N", "\\", "\\\\", "\\ud", "\\uD", "u", "d", "[1]", ",",
             "\\" * 61, "a" * 50]
        ),
        max_size=30,
    ),
    at_once=st.integers(24, 60),
)  # fmt: skip
def test_pieces_do_not_cut_an_original_in_two(pieces: list[str], at_once: int) -> None:
    body = "".join(pieces).encode()
    stand_ins = StandIns.for_body(body)
    if stand_ins is None:
        return
    whole = stand_ins.hide(body)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_dialect, "_AT_ONCE", at_once)
        in_pieces = stand_ins.hide(body)
        assert stand_ins.restore(in_pieces) == stand_ins.restore(whole) == body
    assert in_pieces == whole or b"NaNaN" in body  # of which either `NaN` may be replaced


def test_a_small_body_costs_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """An import decodes each of its rows."""
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    for encoding in ("utf-8", "utf-16"):
        decoded = decode(json.loads, '{"data": {"freeform": [NaN, "\\ud800"]}}'.encode(encoding))
        assert decoded.restored(decoded.strict).endswith(b'[NaN, "\\ud800"]}}')
    assert pauses == []
    assert json_dialect._sample(b"NaN") == b"NaN"  # noqa: SLF001 -- not visible in a result


@pytest.mark.parametrize(
    ("body", "row"),
    [
        ('[{"data": {}}, {"data": {"freeform": NaN}} {}]', 2),
        ('[{"data": {}}, {"data": {"freeform": [1, 2}}]', 1),
        ('[{"data": {}}, {"data": {}}, x]', 2),
        ('[{"data": {}}, {"data"', 1),
        ('[{"data": {"freeform": [{"data": {}}, {"data": {}}]}}, {"data": {}}, {,}]', 2),
        ('[{"data": {}},]', 1),
    ],
)
def test_an_error_in_a_list_names_the_row(body: str, row: int) -> None:
    for encoded in (body.encode(), b"\n\t" + body.encode(), body.encode("utf-16")):
        assert refusal(encoded).details == {"row": row, "field": "data"}


@pytest.mark.parametrize("body", ['[{"data": {}}] x', '[{"data": {}}]]', '{"data": {}} x', "x"])
def test_an_error_outside_the_rows_names_no_row(body: str) -> None:
    error = refusal(body)
    assert str(error).startswith("the request is not JSON: ")
    assert error.details == {}


@pytest.mark.parametrize("before", ["", "NaN, ", '"\\\\", NaN, "\\ud800", -Infinity, '])
def test_the_position_of_an_error_is_that_in_the_request(before: str) -> None:
    body = f'[{{"data": {{"freeform": [{before}x]}}}}]'
    assert str(refusal(body)).endswith(f"(byte {body.index('x')})")
    assert "(byte" not in str(refusal(body.encode("utf-16")))


def test_no_python_code_runs_per_row_to_name_a_row() -> None:
    body = b"[" + b'{"data": {"freeform": NaN}},' * 10_000 + b"{x}]"
    assert function_calls(lambda: refusal(body)) < 1000


def filled(unit: str, encoding: str = "utf-8", *, size: int = SIZE, end: str = "]}}") -> bytes:
    """Return a body of `size` bytes that repeats a unit."""
    begin = '[{"data": {"freeform": [' if end.endswith("]x") else '{"data": {"freeform": ['
    room = size - len((begin + "1" + end).encode(encoding))
    return (begin + unit * (room // len(unit.encode(encoding))) + "1" + end).encode(encoding)


TAKEN = "".join(f'"[{n}",' for n in range(10))
ONE_OF_EACH = TAKEN + '"NaN-Infinity\\ud800\\uD800\\\\'


def in_one_string(unit: str) -> bytes:
    """Return a body with one long string, one original of each kind, and all short prefixes."""
    begin, end = f'{{"data": {{"freeform": [{ONE_OF_EACH}', '"]}}'
    return (begin + unit * ((SIZE - 1000) // len(unit.encode())) + end).encode()


COSTLY: dict[str, Callable[[], bytes]] = {
    "NaN": lambda: filled("NaN,"),
    "Infinity": lambda: filled("Infinity,"),
    "-Infinity": lambda: filled("-Infinity,"),
    "all kinds": lambda: filled('NaN,-Infinity,"\\ud800",'),
    "halves": lambda: filled('"' + "\\ud800" * 1000 + '",'),
    "halves in many strings": lambda: filled('"\\uDFFF",'),
    "backslashes": lambda: filled('"' + "\\\\" * 1000 + '",NaN,'),
    "short prefixes are taken": lambda: filled("NaN,", size=SIZE - len(TAKEN)).replace(
        b"[NaN", b"[" + TAKEN.encode() + b"NaN"
    ),
    "brackets are escaped": lambda: filled("NaN,").replace(b"[NaN,NaN,NaN", rb'["\u005b",NaN'),
    "UTF-8 with a byte order mark": lambda: filled("1,", "utf-8-sig"),
    "UTF-16": lambda: filled('"aaaaaaaaaaaa",', "utf-16"),
    "UTF-16 without a byte order mark": lambda: filled('"aaaaaaaaaaaa",', "utf-16-be"),
    "UTF-32": lambda: filled('"aaaaaaaaaaaa",', "utf-32"),
    "UTF-16 with NaN": lambda: filled("NaN,", "utf-16"),
    "NaN in one string": lambda: in_one_string("NaN"),
    "halves in one string": lambda: in_one_string("\\uD800"),
    "backslashes in one string": lambda: in_one_string("\\\\"),
    "all kinds in one string": lambda: in_one_string("NaN-Infinity\\ud800\\uD800\\\\é"),
    "an error at the end": lambda: filled("NaN,", end="]}}]x"),
    "an error in a row": lambda: filled("NaN,", end="]}},{]x"),
}
READING = (
    '{"data": {"relative_time": 123456, "interrogator_time": 1764260000123456, "db_password": "a",'
    ' "freeform": {"rssi": -61, "epc": "0123456789abcdef0123", "phase": 1.25}}},'
)


def outcome(body: bytes) -> None:
    try:
        parse(body)
    except IotError:
        return


def peak(body: bytes) -> int:
    """Return the peak of memory in bytes, with the body."""
    tracemalloc.start()
    try:
        outcome(body)
        return tracemalloc.get_traced_memory()[1] + SIZE
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def plain_peak() -> int:
    plain = ("[" + READING * (SIZE // len(READING) - 1) + '{"data": {}}]').encode()
    assert SIZE - 1000 < len(plain) <= SIZE
    return peak(plain)


@pytest.fixture(scope="module", params=COSTLY.values(), ids=list(COSTLY))
def body(request: pytest.FixtureRequest) -> bytes:
    """A costly body. At most one is in memory at a time."""
    make: Callable[[], bytes] = request.param
    return make()


def test_no_body_takes_more_than_three_times_the_memory_of_plain_readings(
    body: bytes, plain_peak: int
) -> None:
    assert len(body) <= SIZE
    assert peak(body) < 3 * plain_peak


def test_no_python_code_runs_per_character(body: bytes) -> None:
    assert function_calls(lambda: outcome(body)) < 20_000


def test_text_is_searched_in_pieces(body: bytes) -> None:
    """CPython searches long text at half the speed, and other greenlets wait meanwhile."""
    stand_ins = StandIns.for_body(body)
    if stand_ins is None:
        return
    ends, end = [0], 0
    while end < len(body):
        end = json_dialect.end_of_piece(body, end)
        ends.append(end)
    assert max(end - begin for begin, end in pairwise(ends)) < 30_000
    assert len(stand_ins.hide(body)) < 3 * len(body)
