"""Values of fields of `freeform`: the same in readings of any size, and in bounded memory."""

import json
import time
import tracemalloc

import pytest
from werkzeug.datastructures import MultiDict

from iot_api.query import series_fields, series_windows
from iot_api.query.large_freeform import SMALL_BYTES
from iot_api.query.series_fields import FieldReader
from iot_api.query.series_query import parse_series_query
from iot_api.query.timed_rows import TimedColumns
from iot_models.errors import InvalidRequestError
from iot_models.reading import SEPARATOR
from iot_models.segment import SegmentColumns

FIELDS = ["a", 'é"', "a.b", "a.b.c", "a.b.c.d", "n", 'q"', 'q".x', "\\", "é", "\ufffd"]
PADDING = json.dumps("x" * SMALL_BYTES)
BEYOND = 2**1024
"""The least power of two that is beyond a double."""


def values(*texts: str, fields: list[str] = FIELDS) -> dict[str, list[object]]:
    """Return the values of the fields in each text."""
    joined = SEPARATOR.join(text.encode() for text in texts)
    columns = FieldReader(fields).columns(joined, len(texts))
    return {name: column.values for name, column in columns.items()}


@pytest.mark.parametrize(
    "members",
    [
        '"a":1,"n":-1.5',
        '"a":{"b":{"c":{"d":7}}}',
        '"a":{"b.c":1,"b":{"c":[1.10, 1e2,{"x":null}]}}',
        '"a.b":null,"a":{"b":5},"a.b.c":true',
        '"a.b":{"c":9},"a":[{"b":1}],"a":{"b":2}',
        '"a":NaN,"n":[-Infinity,Infinity,{"a":NaN}]',
        '"a":"NaN","n":"\\"-Infinity,\\\\","x":[NaN]',
        '"a":{"b":"\\ud800"},"\\udc00":"x\\ud83d\\ude00\\\\ud800"',
        '"a":{"b":1e999,"c":[1e999]},"n":1e999',
        f'"a":{"9" * 400},"n":[{"9" * 400}]',
        f'"a":{"9" * 5000},"n":[{"9" * 5000},-{"9" * 4300}]',
        '"q\\"":{"x":1},"\\u005c":2,"\\u00e9":"\\u00e9","\\u00e9\\"":8,"a":{"b":{"b":1}}',
        '"q\\u0022":"\\"","a":{},"n":[]',
        f'"a":{{"b":{"[" * 5000 + "]" * 5000}}},"n":1',
        '"x":{"a":1}',
    ],
)
def test_values_do_not_depend_on_the_size_of_the_reading_or_on_other_members(members: str) -> None:
    (alone, *others) = (f"{{{members}{more}}}" for more in ("", ',"z":NaN', f',"z":{PADDING}'))
    others += [f'{{"z":{PADDING},"y":NaN,{members}}}', f'{{"z":[1,2], {members}, "y":"\\ud800"}}']
    wanted = values(alone)
    for other in others:
        assert values(other) == wanted
    for fields in (["a", "n"], ["a.b.c"]):  # without a name that JSON escapes
        short = values(alone, fields=fields)
        assert short == {name: wanted[name] for name in fields}
        for other in others:
            assert values(other, fields=fields) == short


def test_small_and_large_readings_keep_their_order() -> None:
    large = f'{{"a":3,"z":{PADDING}}}'
    rest = [f'{{"a":{number}}}' for number in range(30_000)]
    texts = ['{"a":1}', "[2]", large, large, *rest, f"[{PADDING}]", '{"a":NaN}', large]
    wanted = [1, None, 3, 3, *range(30_000), None, None, 3]
    assert values(*texts, fields=["a"]) == {"a": wanted}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (str(BEYOND), None), (str(-BEYOND), None), ("9" * 405, None), ("9" * 5000, None),
        ("1e309", None), ("NaN", None), (f'"{BEYOND}"', str(BEYOND)),
        (str(BEYOND // 2), BEYOND // 2), (str(10**30), 10**30), (str(2**64), 2**64),
    ],
)  # fmt: skip
def test_a_number_beyond_a_double_has_no_value(text: str, value: object) -> None:
    joined = SEPARATOR.join([b'{"a":%b}' % text.encode(), b'{"a":1}', b"{}", b'{"a":"x"}'])
    column = FieldReader(["a"]).columns(joined, 4)["a"]
    assert column.values == [value, 1, None, "x"]
    numbers = series_fields.numbers_of(column)
    assert numbers.values == [value if isinstance(value, int) else None, 1, None, None]


@pytest.mark.parametrize("more", ["", ',"n":NaN', ',"n":"\\ud800"'])
@pytest.mark.parametrize(
    "element",
    ['{"":0}', "[]", "[0]", "[[[[[[[]]]]]]]", '""', "-1.5", "NaN", '"\\ud800"', '{"\\udc00":NaN}'],
)
def test_a_large_reading_takes_bounded_memory_and_lets_others_run(
    element: str, more: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its Python objects would take up to fifty times its bytes."""
    turns: list[float] = []
    monkeypatch.setattr(time, "sleep", turns.append)
    elements = ",".join([element] * (2**19 // (len(element) + 1)))
    text = f'{{"a":{{"b":[{elements}]}}{more}}}'.encode()
    charged: list[int] = []
    reader = FieldReader(["a.b"], charged.append)
    tracemalloc.start()
    try:
        column = reader.columns(text, 1)["a.b"]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    (value,) = column.values
    assert isinstance(value, str)
    assert value.startswith("[")
    assert len(value) > 2**18
    assert peak < 5 * len(text)
    assert sum(charged) >= 3 * len(text)
    assert len(turns) >= 3
    before = sum(charged)
    reader.columns(text, 1)
    assert sum(charged) == before, "a reading is charged for what it takes beyond the last ones"


@pytest.mark.parametrize("text", ["[0]", '"x"'])
def test_texts_that_wait_for_their_windows_take_bounded_memory(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    each = 2**19
    monkeypatch.setattr(series_windows, "_PENDING_BYTES", 4 * each)
    query = parse_series_query(MultiDict({"fields": "v", "agg": "last", "step": "1d"}))
    windows = series_windows.SeriesWindows(query, 86_400_000)
    elements = (text + ",") * (each // (len(text) + 1))
    content = f'{{"v":[{elements}0]}}'.encode()
    tracemalloc.start()
    try:
        for number in range(40):
            one = SegmentColumns([number], [number], [0], [number], [content.decode()])
            windows.add(TimedColumns(one, slice(0, 1), content))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    ((_, last),) = windows.rows()
    assert last == content[5:-1].decode()
    assert peak < 12 * each


@pytest.mark.parametrize(("text", "fits"), [("a" * 1000, True), ("a" * 999 + "🙂", False)])
def test_the_texts_of_windows_are_limited_by_their_memory(
    text: str, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One character outside ASCII makes each character take up to four bytes."""
    monkeypatch.setattr(series_windows, "MAX_TEXT_BYTES", 1000)
    query = parse_series_query(MultiDict({"fields": "v", "agg": "last", "step": "1d"}))
    windows = series_windows.SeriesWindows(query, 86_400_000)
    content = json.dumps({"v": text})
    one = SegmentColumns([1], [1], [0], [1], [content])
    windows.add(TimedColumns(one, slice(0, 1), content.encode()))
    if fits:
        assert [last for _, last in windows.rows()] == [text]
    else:
        with pytest.raises(InvalidRequestError, match="more than 1000 bytes"):
            list(windows.rows())
