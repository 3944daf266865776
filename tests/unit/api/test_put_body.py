"""The body of a PUT: what it becomes, and what is said of one that is wrong."""

import json
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iot_api import put_body
from iot_api.put_body import Batch, parse_put
from iot_models.errors import InvalidRequestError, TooLargeError
from iot_models.reading import INT64_MAX, INT64_MIN

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
    return parse_put(given, max_readings=100, max_password_bytes=20, max_passwords=50, lines=lines)


@given(
    rows=st.lists(
        st.tuples(st.sampled_from(["", "p", "é"]), INT64, INT64, JSON), min_size=1, max_size=8
    ),
    ascii_only=st.booleans(),
)
def test_every_row_comes_to_its_password_in_order(
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


def test_what_is_left_out() -> None:
    (batch,) = parse('{"data": {}}')
    assert batch.password == b""
    assert batch.readings.relative == batch.readings.interrogator == array("q", [-1])
    assert batch.readings.freeform == b'""'


def test_what_is_not_known_is_passed_over() -> None:
    (batch,) = parse('{"data": {"extra": [1], "freeform": 1}, "more": {"data": 5}}')
    assert batch.readings.freeform == b"1"


def test_freeform_is_kept_as_it_was_written() -> None:
    """A number keeps its digits, which a float would not."""
    text = '{"a":  1.50, "n": 12345678901234567890123, "e": 1e400}'
    (batch,) = parse(f'{{"data": {{"freeform": {text}}}}}')
    assert batch.readings.freeform.decode() == text


@pytest.mark.parametrize(
    ("character", "escaped"),
    [("é", "\\u00e9"), ("€", "\\u20ac"), ("😀", "\\ud83d\\ude00"), ("\x7f", "\\u007f")],
)
def test_what_is_not_ascii_is_escaped(character: str, escaped: str) -> None:
    (batch,) = parse(f'{{"data": {{"freeform": {{"{character}": "{character}"}}}}}}')
    assert batch.readings.freeform.decode() == f'{{"{escaped}": "{escaped}"}}'


def test_one_row_too_many() -> None:
    rows = '{"data": {}},' * 100
    parse(f"[{rows[:-1]}]")
    with pytest.raises(TooLargeError) as raised:
        parse(f'[{rows}{{"data": {{}}}}]')
    assert str(raised.value) == "a request may hold 100 readings, this one holds 101"


def test_a_password_s_length_is_counted_in_bytes() -> None:
    parse(json.dumps([{"data": {"db_password": "é" * 10}}]))
    with pytest.raises(InvalidRequestError) as raised:
        parse(json.dumps([{"data": {}}, {"data": {"db_password": "é" * 10 + "x"}}]))
    assert raised.value.details == {"row": 1, "field": "db_password"}


@pytest.mark.parametrize("lines", [False, True])
@given(body=st.binary(max_size=40) | st.text(alphabet='{}[]":,\\u0dat1e.-\n ', max_size=40))
def test_whatever_comes_it_is_taken_or_refused(*, body: bytes | str, lines: bool) -> None:
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
def test_a_field_of_any_kind_is_taken_or_named(value: object, field: str) -> None:
    body = json.dumps([{"data": {}}, {"data": {field: value}}])
    refusal: InvalidRequestError | None = None
    try:
        parse(body)
    except InvalidRequestError as error:
        refusal = error
    if refusal is not None:
        assert refusal.details == {"row": 1, "field": field}
        assert str(refusal).startswith(f"row 1, {field}: is ")


def test_nothing_of_a_request_is_printed() -> None:
    """A traceback that shows variables, or a log line with an object in it, tells no password."""
    body = b'{"data": {"db_password": "the password", "freeform": "a secret"}}'
    batches = parse(body)
    row = put_body._one.decode(body)  # noqa: SLF001 - what is in memory meanwhile
    for each in (batches, batches[0], batches[0].readings, row, row.data):
        assert "password" not in repr(each)
        assert "secret" not in repr(each)
