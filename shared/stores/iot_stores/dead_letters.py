"""Dead letters: entries that can't be opened or stored, kept sealed, with their reasons."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

from redis import Redis

from iot_models.names import KeyNames

from .backlog_counters import as_shard, parse_digits
from .scripts import load_script, run_commands
from .stream_entries import MAX_ID_PART, StreamItem, WaitingEntry, read_stream

_ID = re.compile(r"[0-9]{1,20}(-[0-9]{1,20})?")
_OLDEST_BYTES = 4 * 2**20
"""Approximate limit of the sealed bytes that `DeadLetters.oldest` fetches."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A sealed entry, and the reason why it was set aside."""

    letter_id: str
    """Id in the stream of dead letters. Starts with the time when the letter was added there, in
    Unix milliseconds."""
    shard: int
    entry_id: str
    """Id in the shard's stream. Starts with the time when the entry was added there, in Unix
    milliseconds."""
    received: int
    """Time of receipt of the entry, in Unix milliseconds of Redis's clock; 0 if it is unknown."""
    sealed: bytes
    reason: str

    def received_for_replay(self, now: int) -> int | None:
        """Return the time of receipt that the entry keeps in a replay; None for a new time.

        The entry gets a new time if its own is unknown or after `now`: another program wrote it.
        """
        return self.received if 0 < self.received <= now else None


class DeadLetters:
    """The stream of dead letters."""

    def __init__(
        self,
        client: "Redis",
        names: KeyNames,
        *,
        confirm_ownership: Callable[[], None] = lambda: None,
    ) -> None:
        """`confirm_ownership` raises if Redis now belongs to another installation.

        The entries of another installation can't be opened here, and must not become dead letters.
        """
        self._confirm_ours = confirm_ownership
        self._client = client
        self._names = names
        self._add = load_script(client, "dead_letters_add.lua")

    def lacks(self, shard: int, waiting: WaitingEntry) -> bool:
        """Return whether an entry is not a dead letter yet, so that `add` would add it.

        Raises:
            UnfitRedisError: Redis belongs to another installation.
        """
        return self._run(shard, waiting)

    def add(self, shard: int, waiting: WaitingEntry, reason: str) -> bool:
        """Copy an entry to the dead letters. Return False if the entry is a dead letter already.

        The entry stays in its stream until `Backlog.remove`. If the process is killed before, the
        next drain calls `add` for this entry again, which changes nothing.

        Raises:
            UnfitRedisError: Redis belongs to another installation.
        """
        return self._run(shard, waiting, waiting.sealed, reason, waiting.received)

    def _run(self, shard: int, waiting: WaitingEntry, *content: bytes | str | int) -> bool:
        self._confirm_ours()
        keys = [self._names.dead_letters, self._names.dead_letter_ids]
        return bool(self._add(keys=keys, args=[shard, waiting.entry_id, *content]))

    def all(self) -> Iterator[DeadLetter]:
        """Yield all dead letters, the oldest first."""
        for letter_id, fields in read_stream(self._client, self._names.dead_letters):
            yield _dead_letter(letter_id, fields)

    def count(self) -> int:
        """Return the number of dead letters."""
        return self._client.xlen(self._names.dead_letters)

    def oldest(self, count: int) -> list[DeadLetter]:
        """Return the oldest dead letters: `count`, or fewer if they are large."""
        letters: list[DeadLetter] = []
        after, size = "-", 0
        while len(letters) < count and size < _OLDEST_BYTES:
            # One at a time: each holds a sealed entry, which may be large.
            page = self._client.xrange(self._names.dead_letters, after, "+", count=1)
            if not page:
                break
            letters.append(_dead_letter(*cast("list[StreamItem]", page)[0]))
            after, size = f"({letters[-1].letter_id}", size + len(letters[-1].sealed)
        return letters

    def find(self, letter_id: str) -> DeadLetter | None:
        """Return the dead letter with this id, or None if no dead letter has the id.

        Raises `ValueError` if `letter_id` does not have the form of an id (`is_letter_id`).
        """
        if not is_letter_id(letter_id):
            raise ValueError(f"{letter_id!r} is not a dead letter's id, such as 1795414643286-0")
        found = self._client.xrange(self._names.dead_letters, letter_id, letter_id)
        letters = cast("list[StreamItem]", found)
        return _dead_letter(*letters[0]) if letters else None

    def drop(self, letter: DeadLetter) -> None:
        """Delete a dead letter for good."""
        # Not in a transaction: with maxmemory reached, Redis 6.2 and 7.0 refuse all its commands.
        # If the process is killed in between, the letter is still there.
        name = f"{letter.shard} {letter.entry_id}"
        commands = [
            ("SREM", self._names.dead_letter_ids, name),
            ("XDEL", self._names.dead_letters, letter.letter_id),
        ]
        run_commands(self._client, commands)


def is_letter_id(text: str) -> bool:
    """Return whether `text` has the form of a dead letter's id, such as `1795414643286-0`.

    The milliseconds alone are accepted, too: they name the first dead letter of that millisecond.
    """
    return bool(_ID.fullmatch(text)) and all(int(each) <= MAX_ID_PART for each in text.split("-"))


def _dead_letter(letter_id: bytes, fields: dict[bytes, bytes]) -> DeadLetter:
    """Return the dead letter in a stream item. Missing or invalid fields get default values.

    Letters of earlier versions lack `r`. Items with other missing or invalid fields come from
    another program, and can be dropped like dead letters.
    """
    entry_id = fields.get(b"id", b"").decode(errors="replace")
    entry_id = entry_id if is_letter_id(entry_id) else "0-0"
    received = parse_digits(fields.get(b"r", b""))
    return DeadLetter(
        letter_id.decode(),
        as_shard(fields.get(b"shard", b"")) or 0,
        entry_id,
        int(entry_id.partition("-")[0]) if received is None else received,
        fields.get(b"e", b""),
        fields.get(b"reason", b"written by another program, without a reason").decode(
            errors="replace"
        ),
    )
