"""Find how many of the oldest entries of a shard have a given number of bytes.

The mean size of the entries is no help: large entries may wait before many small ones. But each
entry has its position, the number of sealed bytes ever added to the shard. So a search for the last
entry to read fetches only a few entries.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from .backlog_counters import parse_digits
from .scripts import run_commands

if TYPE_CHECKING:
    from redis import Redis

_SEQUENCES = 2**64
"""Number of ids that one millisecond has."""


class _Place(NamedTuple):
    """An entry in a stream."""

    number: int
    """The id of the entry, as one number."""
    begin: int
    """Number of sealed bytes that were added to the shard before this entry."""
    end: int


def end_of_read(client: "Redis", stream: str, max_bytes: int) -> str:
    """Return the end of a range (XRANGE) with the oldest entries of a stream.

    The range has every entry that begins before `max_bytes` are reached, and none that begins after
    9/8 of `max_bytes`. Return "+", the end of the stream, if the stream has fewer bytes, or if the
    positions of its entries do not rise: another program has added entries or changed the counters.

    Raises:
        RedisError: Redis can't serve.
    """
    first, last = _ask(client, ("XRANGE", stream, "-", "+"), ("XREVRANGE", stream, "+", "-"))
    if first is None or last is None or last.end < first.begin + max_bytes:
        return "+"
    low, high, limit = first, last, first.begin + max_bytes
    if last.begin < limit:
        return _id(last.number)
    halve = False
    while high.begin - limit > max_bytes // 8:
        # Interpolation finds the place in a few steps if readings came at a constant rate. Halving
        # every second time bounds the steps otherwise.
        share = (1, 2) if halve else (limit - low.begin, high.begin - low.begin)
        middle = low.number + (high.number - 1 - low.number) * share[0] // share[1]
        halve = not halve
        before, after = _ask(
            client,
            ("XREVRANGE", stream, _id(middle), "-"),
            ("XRANGE", stream, f"({_id(middle)}", "+"),
        )
        if before is None or after is None:  # another writer has removed entries
            break
        if before.begin < limit <= after.begin:
            high = after
            break
        low, high = (after, high) if after.begin < limit else (low, before)
    return f"({_id(high.number)}"


def _ask(client: "Redis", *commands: Sequence[str]) -> list[_Place | None]:
    """Return the first entry that each command finds."""
    answers = run_commands(client, [(*command, "COUNT", 1) for command in commands])
    return [_place(*found[0]) if found else None for found in answers]


def _place(entry_id: bytes, fields: Sequence[Any]) -> _Place:
    known = dict(zip(fields[::2], fields[1::2], strict=True))
    ms, sequence = map(int, entry_id.split(b"-"))
    end = parse_digits(known.get(b"t", b"")) or 0
    return _Place(ms * _SEQUENCES + sequence, end - len(known.get(b"e", b"")), end)


def _id(number: int) -> str:
    return "-".join(map(str, divmod(number, _SEQUENCES)))
