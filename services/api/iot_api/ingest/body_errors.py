"""Say which row and which field of a PUT body is invalid, and why.

This code runs only for a body that the decoder has refused.
"""

import re
from functools import partial
from itertools import count
from typing import NoReturn

import msgspec

from iot_api.http.request import refuse_row
from iot_models.errors import InvalidRequestError
from iot_models.json_dialect import NotJsonError

from .put_rows import Row

_PATH = re.compile(r" - at `\$(?:\[(\d+)\])?(\.data)?(?:\.(\w+))?`$")
_WRONG_KIND = {
    "data": "is not an object",
    "db_password": "is not a string",
    "relative_time": "is not a number",
    "interrogator_time": "is neither a number nor a date",
}

_seen = count()


class _CountedRow(Row, gc=False):
    # msgspec calls `__post_init__` with each row, so `next(_seen, row)` counts the row. `next`
    # takes the row as a default value, so no Python code runs.
    __post_init__ = staticmethod(partial(next, _seen))  # type: ignore[misc] # takes the row, too


_one = msgspec.json.Decoder(Row)
_counted = msgspec.json.Decoder(list[_CountedRow])


def refuse_content(problem: str) -> NoReturn:
    """Raise an InvalidRequestError that tells the client, by row and field, what is wrong.

    `problem` is the decoder's message: `Expected ... - at `$[3].data.relative_time``.
    """
    if problem.startswith("Expected `array`"):
        raise InvalidRequestError("the request must be an object or a list of objects")
    found = _PATH.search(problem)
    row, within, field = found.groups() if found else (None, None, None)
    if problem.startswith("Object missing"):
        sentence = "is missing"
    elif problem.startswith(("Number out of range", "Integer value out of range")):
        sentence = "is beyond 64 bits"
    elif found and not within:
        sentence = "is missing, the row is not an object"
    else:
        sentence = _WRONG_KIND.get(field or "data", "is not understood")
    refuse_row(int(row or 0), field or "data", sentence)


def refuse_json(error: NotJsonError, *, lines: bool) -> NoReturn:
    """Raise an InvalidRequestError for a body that is not JSON.

    The error names the first invalid row, if the body is a list or NDJSON. `lines`: the request
    says that the body is NDJSON.
    """
    body, problem = error.strict, f"is not JSON: {error}"
    if lines:
        refuse_row(_bad_line(body), "data", problem)
    if _holds_lines(body):
        raise InvalidRequestError(
            "the request holds several JSON values, one a line: send it with "
            "`Content-Type: application/x-ndjson`, or send a list"
        ) from None
    row = _bad_row(body)
    if row is not None:
        refuse_row(row, "data", problem)
    raise InvalidRequestError(f"the request {problem}") from None


def _bad_row(body: bytes) -> int | None:
    """Return the number of the invalid row of a list; None if the error is not in a row.

    The body is decoded once more, by a decoder that counts the rows before the error.
    """
    if body.lstrip()[:1] != b"[":
        return None
    before = next(_seen)
    try:
        _counted.decode(body)  # no other greenlet runs meanwhile and counts rows
    except (msgspec.DecodeError, ValueError) as error:
        if "trailing characters" not in str(error):
            return next(_seen) - before - 1
    return None


def _holds_lines(body: bytes) -> bool:
    """Return whether an invalid JSON body looks like NDJSON.

    It does if its first line is an object or a list, and another object or list follows.
    """
    body = body.lstrip()
    end = body.find(b"\n")
    if body[:1] not in b"{[" or end < 0 or body[end:].lstrip()[:1] not in {b"{", b"["}:
        return False
    try:
        msgspec.json.decode(memoryview(body)[:end], type=msgspec.Raw)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return False
    return True


def _bad_line(body: bytes) -> int:
    """Return the number of the first invalid line of NDJSON, not counting empty lines.

    Uses bisection: in all, the decoder reads about as many bytes as the body has, and no Python
    code runs per line.
    """
    before = 0
    while True:
        last = len(body) - 1
        middle = body.find(b"\n", len(body) // 2, last) + 1 or body.rfind(b"\n", 0, last) + 1
        if not middle:
            return before
        try:
            before += len(_one.decode_lines(body[:middle]))
            body = body[middle:]
        except (msgspec.DecodeError, ValueError):
            body = body[:middle]
