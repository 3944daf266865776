"""The parser of PUT bodies: the readings, and the errors of invalid bodies."""

import json
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iot_api.ingest import parser
from iot_api.ingest.parser import Batch, parse_put
from iot_models.errors import InvalidRequestError, TooLargeError
from iot_models.reading import INT64_MAX, INT64_MIN
from support.counting import function_calls

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=3)
    ),
    max_leaves=8,
)
INT64 = st.integers(INT64_MIN, INT64_MAX)


def parse(body: bytes | str, *, lines: bool = False) -> list[Batch]:
    given = body.encode() if isinstance(body, str) else body
    return parse_put(
        given,
        max_body_bytes=2**20,
        max_readings=100,
        max_password_bytes=20,
        max_passwords=50,
        lines=lines,
    )


@given(
    rows=st.lists(
        st.tuples(st.sampled_from(["", "p", "é"]), INT64, INT64, JSON), min_size=1, max_size=8
    ),
    ascii_only=st.booleans(),
)
def test_rows_are_grouped_by_password_in_order(
    rows: list[tuple[str, int, int, object]], *, ascii_only: bool
) -> None:
    keys = ("db_password", "relative_time", "interrogator_time", "freeform")
    objects = [{"data": dict(zip(keys, row, strict=True))} for row in rows]
    body = json.dumps(objects, ensure_ascii=ascii_only)
    lines = "\n".join(json.dumps(each, ensure_ascii=ascii_only) for each in objects)
    batches = parse(body)
    assert batches == parse(lines, lines=True)
    assert [each.password.decode() for each in batches] == list(
        dict.fromkeys(row[0] for row in rows)
    )
    for batch in batches:
        ours = [row for row in rows if row[0].encode() == batch.password]
        assert batch.readings.relative == array("q", [row[1] for row in ours])
        assert batch.readings.interrogator == array("q", [row[2] for row in ours])
        assert batch.readings.freeform.isascii()
        texts = batch.readings.freeform.split(b"\0")
        assert texts == [json.dumps(row[3]).encode() for row in ours]


def test_missing_fields_have_defaults() -> None:
    (batch,) = parse('{"data": {}}')
    assert batch.password == b""
    assert batch.readings.relative == batch.readings.interrogator == array("q", [-1])
    assert batch.readings.freeform == b'""'


def test_unknown_fields_are_ignored() -> None:
    (batch,) = parse('{"data": {"extra": [1], "freeform": 1}, "more": {"data": 5}}')
    assert batch.readings.freeform == b"1"


def test_freeform_keeps_its_json_text() -> None:
    """A number keeps all its digits; a float would lose some."""
    text = '{"a":  1.50, "n": 12345678901234567890123, "e": 1e400}'
    (batch,) = parse(f'{{"data": {{"freeform": {text}}}}}')
    assert batch.readings.freeform.decode() == text


@pytest.mark.parametrize(
    ("character", "escaped"),
    [("é", "\\u00e9"), ("€", "\\u20ac"), ("😀", "\\ud83d\\ude00"), ("\x7f", "\\u007f")],
)
def test_characters_beyond_ascii_are_escaped(character: str, escaped: str) -> None:
    (batch,) = parse(f'{{"data": {{"freeform": {{"{character}": "{character}"}}}}}}')
    assert batch.readings.freeform.decode() == f'{{"{escaped}": "{escaped}"}}'


def test_one_row_too_many() -> None:
    rows = '{"data": {}},' * 100
    parse(f"[{rows[:-1]}]")
    with pytest.raises(TooLargeError) as raised:
        parse(f'[{rows}{{"data": {{}}}}]')
    assert str(raised.value) == "a request may have at most 100 readings, this request has 101"


def test_the_length_of_a_password_is_in_bytes() -> None:
    parse(json.dumps([{"data": {"db_password": "é" * 10}}]))
    with pytest.raises(InvalidRequestError) as raised:
        parse(json.dumps([{"data": {}}, {"data": {"db_password": "é" * 10 + "x"}}]))
    assert raised.value.details == {"row": 1, "field": "db_password"}


@pytest.mark.parametrize("lines", [False, True])
@given(body=st.binary(max_size=40) | st.text(alphabet='{}[]":,\\u0dat1e.-\n ', max_size=40))
def test_any_body_is_accepted_or_refused(*, body: bytes | str, lines: bool) -> None:
    try:
        batches = parse(body, lines=lines)
    except InvalidRequestError as error:
        sentence = str(error)
        assert sentence
        assert "`" not in sentence  # the decoder's own words for types
        assert "Expected" not in sentence
    else:
        assert sum(len(batch.readings) for batch in batches) > 0


@given(value=JSON, field=st.sampled_from(["relative_time", "interrogator_time", "db_password"]))
def test_a_field_of_any_type_is_accepted_or_named(value: object, field: str) -> None:
    body = json.dumps([{"data": {}}, {"data": {field: value}}])
    refusal: InvalidRequestError | None = None
    try:
        parse(body)
    except InvalidRequestError as error:
        refusal = error
    if refusal is not None:
        assert refusal.details == {"row": 1, "field": field}
        assert str(refusal).startswith(f"row 1, {field}: is ")


def test_a_batch_does_not_print_its_content() -> None:
    """A traceback with variables, or a log line with an object, discloses no password."""
    body = b'{"data": {"db_password": "the password", "freeform": "a secret"}}'
    batches = parse(body)
    row = parser._one.decode(body)  # noqa: SLF001 - what is in memory meanwhile
    for each in (batches, batches[0], batches[0].readings, row, row.data):
        assert "password" not in repr(each)
        assert "secret" not in repr(each)


def test_a_full_body_of_japanese_fits_and_text_that_grows_more_is_refused() -> None:
    def body(character: str) -> str:
        begin, end = '{"data": {"freeform": "', '"}}'
        room = 2**20 - len(begin + end)
        return begin + character * (room // len(character.encode())) + end

    (batch,) = parse(body("日"))
    assert len(batch.readings.freeform) > 1.99 * 2**20
    for character in ("é", "\x7f", "😀"):
        with pytest.raises(TooLargeError) as raised:
            parse(body(character))
        assert raised.value.details == {"limit": 2**21}


def test_the_limit_of_escaped_text_is_for_all_passwords_together() -> None:
    def body(*texts: str) -> str:
        rows = [{"data": {"db_password": str(n), "freeform": text}} for n, text in enumerate(texts)]
        return json.dumps(rows, ensure_ascii=False)

    # Escaped, `text` has 1.2 MiB.
    text, other = "é" * (2**20 // 5), "x" * (2**20 // 2)
    parse(body(text, other))
    for texts in ((text, text), (text, "é" * 100_000, other), (other, text, "é" * 100_000)):
        with pytest.raises(TooLargeError) as raised:
            parse(body(*texts))
        assert raised.value.details == {"limit": 2**21}


def test_passwords_are_counted_before_rows_are_grouped() -> None:
    rows = [{"data": {"db_password": str(n % 51)}} for n in range(100)]
    with pytest.raises(TooLargeError) as raised:
        parse(json.dumps(rows))
    assert str(raised.value) == "a request may have at most 50 passwords, this request has 51"


@pytest.mark.parametrize("tail", [b'\xff"}}', b'\xc3"}}', b"\xe6\x97", b"\xc3", b"\xed\xa0\x80"])
def test_invalid_utf_8_is_refused_anywhere(tail: bytes) -> None:
    for size in (0, 2**18 - 30, 2**18 - 24, 2**18, 2**19):
        with pytest.raises(InvalidRequestError, match="not UTF-8"):
            parse(b'{"data": {"freeform": "\xc3\xa9' + b"a" * size + tail)


@pytest.mark.parametrize("before", [0, 1, 2, 7, 99])
@pytest.mark.parametrize("after", [0, 1, 50])
@pytest.mark.parametrize("between", ["\n", "\n\n", "\r\n \n"])
def test_an_invalid_line_is_named(before: int, after: int, between: str) -> None:
    lines = ['{"data": {"freeform": "é"}}'] * before + ["{no"] + ['{"data": {}}'] * after
    for begin in ("", "\n", " \n\n"):
        with pytest.raises(InvalidRequestError) as raised:
            parse(begin + between.join(lines), lines=True)
        assert raised.value.details == {"row": before, "field": "data"}


@given(
    sizes=st.lists(st.sampled_from([0, 1, 50, 900]), max_size=12),
    at=st.integers(0, 12),
    between=st.sampled_from(["\n", "\n\n\n"]),
    end=st.sampled_from(["", "\n", "\n\n"]),
)
def test_an_invalid_line_is_named_beside_long_lines(
    sizes: list[int], at: int, between: str, end: str
) -> None:
    lines = [json.dumps({"data": {"freeform": "x" * size}}) for size in sizes]
    at = min(at, len(lines))
    lines.insert(at, "{no")
    with pytest.raises(InvalidRequestError) as raised:
        parse(between.join(lines) + end, lines=True)
    assert raised.value.details == {"row": at, "field": "data"}


def test_no_python_code_runs_per_line_to_name_a_line() -> None:
    def refused() -> None:
        with pytest.raises(InvalidRequestError):
            parse(b'{"data": {}}\n' * 10_000 + b"\n" * 100_000 + b"{", lines=True)

    assert function_calls(refused) < 1000
