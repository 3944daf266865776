"""JSON text in ASCII: exact, bounded, and without Python code per character."""

import re
import string
import time
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iot_api.ingest import ascii_json
from iot_api.ingest.ascii_json import escape_json
from iot_models.errors import TooLargeError
from support.counting import function_calls

NO_LIMIT = 2**40
SPECIAL = '"\\\n\t\r\0'
ALPHABETS = st.sampled_from(
    [
        SPECIAL + "é",
        SPECIAL + "\x7f~",
        'u0\\"é日😀',
        string.printable[:95] + SPECIAL + "é",
        string.printable[:95] + SPECIAL + "日😀\uffff\U0010ffff",
        "aé\x7f\x80\u07ff\u0800\ud7ff\ue000\U00010000",
    ]
)
TEXTS = ALPHABETS.flatmap(lambda alphabet: st.text(alphabet, max_size=300)) | st.text(
    st.characters(exclude_categories=["Cs", "Cc"], include_characters=SPECIAL + "\x7f\x80"),
    max_size=100,
)
MIB = 2**20
EVERY = string.printable[:95].replace('"', "").replace("\\", "")
HOSTILE = {
    "delete characters": "\x7f",
    "two bytes": "é",
    "two bytes and ASCII in turn": "aé",
    "three bytes": "日",
    "astral characters": "a😀",
    "one in 4 KiB": "a" * 4095 + "é",
    "all characters of two bytes": "".join(map(chr, range(0x80, 0x800))),
    "many astral characters": "".join(map(chr, range(0x10000, 0x50000))),
    "quotes": '\\"é',
    "backslashes": "\\\\\\\\é",
    "white space": '\t\r\n ,"é"',
    "rows of one character": '"é"\0',
    "every stand-in is taken": EVERY + '\\"' * 20_000 + "é",
}


def reference(text: str) -> str:
    """Escape one character at a time."""

    def escape(match: re.Match[str]) -> str:
        units = match[0].encode("utf-16-be").hex()
        return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4))

    return re.sub(r"[^\x00-\x7e]", escape, text)


@given(text=TEXTS, size=st.sampled_from([4, 5, 64, 2**16]))
def test_all_but_printable_ascii_is_escaped(text: str, size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ascii_json, "SLICE", size)
        escaped = escape_json(text.encode(), limit=NO_LIMIT)
    assert escaped.decode() == reference(text)


@pytest.mark.parametrize("unit", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_is_escaped_exactly(unit: str) -> None:
    text = unit * (200_000 // len(unit) + 1)
    assert escape_json(text.encode(), limit=NO_LIMIT).decode() == reference(text)


@pytest.mark.parametrize("unit", HOSTILE.values(), ids=HOSTILE)
def test_no_python_code_runs_per_character(unit: str) -> None:
    text = (unit * (MIB // len(unit.encode()) + 1)).encode()
    calls = function_calls(lambda: escape_json(text, limit=NO_LIMIT))
    slices = len(text) // (ascii_json.SLICE - 3) + 1
    assert calls < 200 * slices


@pytest.mark.parametrize("unit", HOSTILE.values(), ids=HOSTILE)
def test_no_more_memory_is_taken_than_for_the_result_and_its_copy(unit: str) -> None:
    text = (unit * (4 * MIB // len(unit.encode()) + 1)).encode()
    tracemalloc.start()
    try:
        escaped = escape_json(text, limit=NO_LIMIT)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2.5 * len(escaped) + 2 * MIB


def test_other_greenlets_run_after_every_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[float] = []
    monkeypatch.setattr(time, "sleep", turns.append)
    escape_json(b"\x7f" * MIB, limit=NO_LIMIT)
    assert turns == [0] * (MIB // ascii_json.SLICE)


@pytest.mark.parametrize(
    ("unit", "factor"), [("a", 1), ("\x7f", 6), ("é", 3), ("日", 2), ("😀", 3)]
)
def test_the_size_after_escaping_is_bounded(unit: str, factor: int) -> None:
    text = unit.encode() * 1000
    size = factor * len(text)
    assert len(escape_json(text, limit=size)) == size
    assert len(escape_json(text, limit=size + 7, used=7)) == size
    for limit, used in ((size - 1, 0), (size, 1)):
        with pytest.raises(TooLargeError) as raised:
            escape_json(text, limit=limit, used=used)
        assert raised.value.details == {"limit": limit}


def test_escaping_stops_at_the_limit() -> None:
    text = b"\x7f" * MIB
    few = function_calls(lambda: escape_json(text, limit=NO_LIMIT))

    def refused() -> None:
        with pytest.raises(TooLargeError):
            escape_json(text, limit=1000)

    assert function_calls(refused) < few / 4
