"""The `freeform` texts of a segment, decoded in runs."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import overload

from .reading import SEPARATOR

RUN_CHARACTERS = 2**17
"""Approximate number of characters of texts decoded at a time."""


class Texts(Sequence[str]):
    """The `freeform` texts of a segment, decoded on access.

    Until then they are a part of the segment's content: a copy as `str` would double the memory of
    a large segment. Slices must have a step of 1.
    """

    def __init__(self, content: bytes, start: int = 0) -> None:
        """The texts begin at offset `start` of `content`, in ASCII, separated by `SEPARATOR`."""
        self._content = content
        self._offsets = [start]
        """Where each run begins. At the end, where the next one would begin."""
        self._firsts = [0]
        """The first text of each run. At the end, the number of all texts."""
        while start <= len(content):
            end = content.find(SEPARATOR, start + RUN_CHARACTERS)
            end = len(content) if end < 0 else end
            self._firsts.append(self._firsts[-1] + content.count(SEPARATOR, start, end) + 1)
            start = end + 1
            self._offsets.append(start)
        self._all: list[str] | None = None

    def __len__(self) -> int:
        return self._firsts[-1]

    @overload
    def __getitem__(self, place: int) -> str: ...

    @overload
    def __getitem__(self, place: slice) -> list[str]: ...

    def __getitem__(self, place: int | slice) -> str | list[str]:
        if self._all is not None or not isinstance(place, slice):
            return self._decoded()[place]
        begin, end, _ = place.indices(len(self))
        return [text for _, run in self.runs(begin, end) for text in split_texts(run)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._decoded())

    @property
    def size(self) -> int:
        """Approximate number of characters of all texts."""
        return len(self._content) - self._offsets[0]

    def runs(
        self, begin: int, end: int, *, descending: bool = False
    ) -> Iterator[tuple[slice, memoryview]]:
        """Yield the texts from index `begin` up to `end`, in runs of about `RUN_CHARACTERS`.

        A run is the places of its texts, and the texts with `SEPARATOR` between them. Decoding
        pieces that fit the CPU's cache takes less than half of the time. `descending`: the last
        run first; within a run, the texts are in order.
        """
        if begin >= end:
            return
        numbers = range(bisect_right(self._firsts, begin) - 1, bisect_left(self._firsts, end))
        for number in reversed(numbers) if descending else numbers:
            first, last = self._firsts[number], self._firsts[number + 1]
            run = memoryview(self._content)[self._offsets[number] : self._offsets[number + 1] - 1]
            places = slice(max(begin, first), min(end, last))
            if places != slice(first, last):
                texts = bytes(run).split(SEPARATOR)[places.start - first : places.stop - first]
                run = memoryview(SEPARATOR.join(texts))
            yield places, run

    def _decoded(self) -> list[str]:
        if self._all is None:
            self._all = self[:]
        return self._all


def split_texts(run: memoryview | bytes) -> list[str]:
    """Return the texts of a run."""
    return str(run, "ascii").split("\0")
