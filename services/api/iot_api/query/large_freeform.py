"""The members of JSON texts of any size, in bounded memory.

Python objects for all values of a text may take fifty times the memory of the text. So the members
of a large text stay JSON texts, and only requested members are decoded.
"""

import io
import json
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import count
from typing import Any, TypedDict

import msgspec

from iot_models.reading import SEPARATOR
from iot_models.segment import RUN_CHARACTERS

SMALL_BYTES = 2 * RUN_CHARACTERS
"""Objects and lists of up to this size, in bytes, are decoded as a whole."""
_MAX_DIGITS = 4300
"""Maximum number of digits of an integer. msgspec has the same limit, and so has CPython by
default."""
_PER_TURN = 64
"""`_replaced` lets other greenlets run after this number of regular expression matches."""
# The possessive `++` and `*+` never backtrack, so a string of any length takes no memory. The bound
# `{0,4096}` lets other greenlets run between two matches. The bound is not possessive: CPython
# before 3.11.5 would match too much if an alternative failed halfway
# (https://github.com/python/cpython/issues/106052).
_CONSTANTS = re.compile(
    rb'(?P<before>(?:[^"NI-]++|-(?!I)|"(?:[^"\\]++|\\.)*+"){0,4096})'
    rb"(?P<odd>NaN|-?Infinity)?"
)
_SURROGATES = re.compile(
    rb"(?P<before>(?:[^\\]++|\\u[Dd][89ABab][0-9A-Fa-f]{2}\\u[Dd][C-Fc-f][0-9A-Fa-f]{2}"
    rb"|\\(?!u[Dd][89A-Fa-f]).){0,4096})(?P<odd>\\u[Dd][89A-Fa-f][0-9A-Fa-f]{2})?"
)
"""Matches JSON up to a lone surrogate (the group `odd`), which UTF-8 can't encode.

A pair of surrogates is one character."""


def split_runs(texts: bytes) -> Iterator[bytes]:
    """Split texts joined by `SEPARATOR` into runs of whole texts.

    A run has up to `RUN_CHARACTERS` characters, or is a single longer text.
    """
    begin = 0
    while begin <= len(texts):
        end = begin + RUN_CHARACTERS
        if end < len(texts):
            before = texts.rfind(SEPARATOR, begin, end)
            end = before if before >= 0 else texts.find(SEPARATOR, begin)
        end = len(texts) if end < 0 else min(end, len(texts))
        yield texts[begin:end]
        begin = end + 1


def decode_leniently(text: str) -> Any:
    """Decode JSON that msgspec refuses; return None if it is nested too deeply.

    NaN, Infinity, a float too large for a double and an integer of more than `_MAX_DIGITS` digits
    become None. A lone surrogate becomes U+FFFD.
    """
    with suppress(ValueError, RecursionError):
        return json.loads(
            _replaced(_SURROGATES, text.encode(), rb"\ufffd").decode() if "\\u" in text else text,
            parse_constant=lambda _: None,
            parse_float=finite_float,
            parse_int=_integer,
        )
    return None


def text_of_container(content: Any) -> Any:
    """Return the JSON text of an object or a list; return any other value as it is."""
    if isinstance(content, dict | list):
        with suppress(RecursionError):
            return json.dumps(content, separators=(",", ":"))
        return None
    return content


class LargeFreeform:
    """Reads the values of given fields from large JSON texts."""

    def __init__(self, paths: Mapping[str, Sequence[str]], charge: Callable[[int], None]) -> None:
        """`paths` has, for each field, a list of its name and the steps of its path, such as
        `{"a.b": ["a.b", "a", "b"]}`. `charge` is called with each increase in memory, in bytes, and
        may raise.
        """
        self._charge = charge
        self._most = 0
        self._paths = {
            name: [(name,)] if len(path) == len((name, name)) else [(name,), tuple(path[1:])]
            for name, path in paths.items()
        }
        steps: dict[tuple[str, ...], dict[str, type]] = {}
        for path in (path for ways in self._paths.values() for path in ways):
            for depth, step in enumerate(path):
                steps.setdefault(path[:depth], {})[step] = msgspec.Raw
        self._decoders = [(parent, _decoder(steps[parent])) for parent in sorted(steps, key=len)]

    def values(self, text: bytes) -> dict[str, Any]:
        """Return the value of each field. Other greenlets run meanwhile."""
        used = 2 * len(text)
        self._use(used)
        found = self._members(text)
        values: dict[str, Any] = {}
        for name, ways in self._paths.items():
            values[name] = None
            for raw in filter(None, map(found.get, ways)):
                if len(raw) > SMALL_BYTES:
                    used += 2 * len(raw)
                    self._use(used)
                    time.sleep(0)
                values[name] = _value(raw)
                if values[name] is not None:
                    break
        return values

    def _use(self, used: int) -> None:
        if used > self._most:
            self._charge(used - self._most)
            self._most = used

    def _members(self, text: bytes) -> dict[tuple[str, ...], memoryview]:
        """Return the JSON texts of the fields, and of the objects that contain them, by path.

        The field `a.b` has the path `("a.b",)` if it is a member of this name, or `("a", "b")` in
        the object `("a",)`. The path of the whole text is `()`. Missing paths are left out.
        """
        try:
            return self._found(text)
        except msgspec.ValidationError:  # not an object
            return {}
        except (msgspec.DecodeError, RecursionError):
            text = _replaced(_CONSTANTS, text, b"null")
        with suppress(msgspec.DecodeError, RecursionError):
            return self._found(_replaced(_SURROGATES, text, rb"\ufffd"))
        return {}

    def _found(self, text: bytes) -> dict[tuple[str, ...], memoryview]:
        found: dict[tuple[str, ...], memoryview] = {(): memoryview(text)}
        for parent, decoder in self._decoders:
            whole = found.get(parent)
            if whole is not None and (not parent or whole[0] == ord("{")):
                members = decoder.decode(whole)
                found |= {(*parent, step): memoryview(raw) for step, raw in members.items()}
                if len(whole) > SMALL_BYTES:
                    time.sleep(0)
        return found


def _decoder(members: dict[str, type]) -> msgspec.json.Decoder[dict[str, msgspec.Raw]]:
    # Unlike a struct, a TypedDict takes names that JSON escapes. msgspec 0.22 finds a name that is
    # not ASCII only if the string has cached its UTF-8 form; `encode` fills this cache.
    for name in members:
        msgspec.json.encode(name)
    return msgspec.json.Decoder(TypedDict("Members", members, total=False))  # type: ignore[operator]


def _value(raw: memoryview) -> Any:
    if len(raw) > SMALL_BYTES and raw[0] in b"{[":
        with suppress(RecursionError):
            return msgspec.json.format(raw, indent=-1).decode()
        return None
    try:
        return text_of_container(msgspec.json.decode(raw))
    except (msgspec.DecodeError, RecursionError):
        return text_of_container(decode_leniently(str(raw, "ascii")))


def _replaced(pattern: re.Pattern[bytes], text: bytes, new: bytes) -> bytes:
    """Replace every match of the group `odd` in a JSON text. Other greenlets run meanwhile.

    `pattern` is `_CONSTANTS` or `_SURROGATES`: `odd` matches what msgspec refuses.
    """
    replaced, end = io.BytesIO(), 0
    for number in count(1):
        match = pattern.match(text, end)
        if match is None or match.end() == end:  # the end, or not JSON
            break
        replaced.write(match["before"])
        if match["odd"]:
            replaced.write(new)
        end = match.end()
        if number % _PER_TURN == 0:
            time.sleep(0)
    replaced.write(text[end:])
    return replaced.getvalue()


def finite_float(text: str) -> float | None:
    """Return the number in `text`; None if it is too large for a double."""
    number = float(text)
    return number if math.isfinite(number) else None


def _integer(text: str) -> int | None:
    return int(text) if len(text.lstrip("-")) <= _MAX_DIGITS else None
