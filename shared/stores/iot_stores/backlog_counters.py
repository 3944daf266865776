"""The counters of the backlog (`KeyNames.backlog_counters`): parsing and repair.

A counter that is not a number was written by another program. The API refuses PUTs until a
writer's sweep has recounted the counters from the streams.
"""

import re
from typing import cast

from redis import Redis

from iot_models.names import MAX_SHARDS, KeyNames

from .scripts import load_script

_POSITION = re.compile(rb"[0-9]{1,20}-[0-9]{1,20}")
_MAX_NEXT_ID = 2**52
"""A counter of the next id with this value or more is damaged: no shard has used half of all ids
(`reading.IDS`)."""


class BacklogCounters:
    """The counters of the backlog, in one Redis hash."""

    def __init__(self, client: "Redis", names: KeyNames) -> None:
        self._names = names
        self._recount = load_script(client, "backlog_recount.lua")

    def recount(self) -> list[str]:
        """Recount all counters if one is damaged, or if their hash is missing, overwritten, or was
        never recounted.

        Return the names of the damaged counters. If Redis has no valid hash of counters, these are
        all counters that are not 0 after the recount, and the hash itself if it was overwritten.

        Raises:
            RedisError: Redis can't serve; the recount happened completely or not at all.
        """
        prefixes = [
            self._names.stream(0).removesuffix("0"),
            self._names.held_entries(b""),
        ]
        keys = [self._names.backlog_counters, self._names.held_vaults]
        damaged = cast("list[bytes]", self._recount(keys=keys, args=prefixes))
        return [name.decode(errors="replace") for name in damaged]


def parse_digits(text: bytes) -> int | None:
    """Return the number in a value of Redis; None if the value is not 1 to 19 decimal digits.

    Another program may have written a longer value. `int` raises `ValueError` for thousands of
    digits.
    """
    return int(text) if text.isdigit() and len(text) < 20 else None


def parse_number(counter: bytes | None) -> int:
    """Return the value of a counter; 0 if the counter is missing or damaged."""
    return parse_digits(counter or b"") or 0


def parse_next_id(counter: bytes | None) -> int:
    """Return the id of the next reading of a shard, from the shard's counter `next:<shard>`.

    Return 0 if the counter is missing or damaged.
    """
    next_id = parse_number(counter)
    return next_id if next_id < _MAX_NEXT_ID else 0


def parse_position(counter: bytes | None) -> str | None:
    """Return the position up to which a shard is drained, from the shard's counter `at:<shard>`.

    Return None if the counter is missing or damaged.
    """
    return counter.decode() if counter is not None and _POSITION.fullmatch(counter) else None


def parse_shard(field: bytes) -> int | None:
    """Return the shard of a counter `in:<shard>`; None for other counters."""
    shard = field.removeprefix(b"in:")
    return None if shard == field else as_shard(shard)


def as_shard(text: bytes) -> int | None:
    """Return the number of a shard as an integer; None if `text` is not the number of a shard."""
    number = parse_digits(text)
    return number if number is not None and number < MAX_SHARDS else None
