"""Dead letters: entries that can't be stored, set aside whole, with their reasons."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

from redis import Redis

from iot_models.names import KeyNames

from .backlog import Backlog
from .scripts import load_script
from .stream_entries import WaitingEntry

_PAGE = 100


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An entry that was set aside."""

    letter_id: str
    """Its id among the dead letters; begins with the Unix milliseconds of when that was."""
    shard: int
    entry_id: str
    """Its id in the shard's stream; begins with the Unix milliseconds of its receipt."""
    sealed: bytes
    reason: str


class DeadLetters:
    """The stream of dead letters."""

    def __init__(
        self,
        client: "Redis",
        names: KeyNames,
        *,
        confirm_ours: Callable[[], None] = lambda: None,
    ) -> None:
        """`confirm_ours` raises when Redis became another installation's, whose entries can't be
        opened here.
        """
        self._confirm_ours = confirm_ours
        self._client = client
        self._names = names
        self._add = load_script(client, "dead_letters_add.lua")

    def add(self, shard: int, waiting: WaitingEntry, reason: str) -> bool:
        """Copy an entry that can't be stored to the dead letters, once; False if it is there.

        It leaves the backlog with the entries around it, by `Backlog.remove`.

        Raises:
            UnfitRedisError: Redis is another installation's.
        """
        self._confirm_ours()
        keys = [self._names.dead_letters, self._names.dead_letter_ids]
        arguments = [shard, waiting.entry_id, waiting.sealed, reason]
        return bool(self._add(keys=keys, args=arguments))

    def all(self) -> Iterator[DeadLetter]:
        """Every dead letter, the oldest first."""
        after = "-"
        while page := self._client.xrange(self._names.dead_letters, after, "+", count=_PAGE):
            for letter_id, fields in cast("list[tuple[bytes, dict[bytes, bytes]]]", page):
                yield _letter(letter_id, fields)
                after = f"({letter_id.decode()}"

    def find(self, letter_id: str) -> DeadLetter | None:
        """The dead letter of that id; ValueError when the id is no such id."""
        if not all(part.isdecimal() for part in letter_id.split("-", 1)):
            raise ValueError(f"{letter_id!r} is not the id of a dead letter")
        found = self._client.xrange(self._names.dead_letters, letter_id, letter_id)
        letters = cast("list[tuple[bytes, dict[bytes, bytes]]]", found)
        return _letter(*letters[0]) if letters else None

    def replay(self, letter: DeadLetter, backlog: Backlog) -> None:
        """Put an entry back into the backlog, then drop the letter.

        Its readings are stored once: interrupted between the two it may be repeated, and what
        was stored before it was set aside is not stored again.
        """
        backlog.append([(letter.shard, letter.sealed)])
        self.drop(letter)

    def drop(self, letter: DeadLetter) -> None:
        """Delete a dead letter for good."""
        with self._client.pipeline(transaction=True) as pipeline:
            pipeline.xdel(self._names.dead_letters, letter.letter_id)
            pipeline.srem(self._names.dead_letter_ids, f"{letter.shard} {letter.entry_id}")
            pipeline.execute()


def _letter(letter_id: bytes, fields: dict[bytes, bytes]) -> DeadLetter:
    return DeadLetter(
        letter_id.decode(),
        int(fields[b"shard"]),
        fields[b"id"].decode(),
        fields[b"e"],
        fields[b"reason"].decode(),
    )
