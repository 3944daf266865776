"""The chunks of an import: rows that one request sends and one entry of the backlog holds."""

from collections import deque
from collections.abc import Iterator
from itertools import islice

from .import_row import ImportRow

CHUNK_READINGS = 5_000
CHUNK_BYTES = 2**20
"""Maximum number of readings in a chunk (`CHUNK_READINGS`), and of bytes of their `freeform`
(`CHUNK_BYTES`).

A chunk must become one entry, because a writer stores an entry completely or not at all. The API
divides readings into several entries if they are too many or too large, or were received on
different days. So a chunk has limits, and all its readings were received on one day."""
_DAY = len("2026-11-23")

Chunk = list[tuple[int, ImportRow]]
"""Rows, each with its position in the file, from 0."""


class Chunks:
    """Divides rows into chunks.

    A chunk depends only on its first row and on the rows after it. So after a killed run, the next
    run divides the remaining rows into the same chunks.
    """

    def __init__(self, rows: Iterator[tuple[int, ImportRow]]) -> None:
        self._rows = rows
        self._next: deque[tuple[int, ImportRow]] = deque()
        """Rows to take before further rows of the file: rows that were put back, and a row that
        `left` has read."""
        self.taken = 0
        """How many rows were taken and not put back."""

    def left(self) -> bool:
        """Return whether a row is left."""
        if not self._next:
            self._next.extend(islice(self._rows, 1))
        return bool(self._next)

    def take(self) -> Chunk:
        """Return the next chunk; an empty one if no row is left."""
        chunk: Chunk = []
        size = 0
        while self.left() and (not chunk or self._fits(chunk[0], size)):
            chunk.append(self._next.popleft())
            size += len(chunk[-1][1].freeform)
        self.taken += len(chunk)
        return chunk

    def put_back(self, rows: Chunk) -> None:
        """Put back the last rows that were taken. The next chunk begins with them."""
        self._next.extendleft(reversed(rows))
        self.taken -= len(rows)

    def _fits(self, first: tuple[int, ImportRow], size: int) -> bool:
        position, row = self._next[0]
        return (
            position // CHUNK_READINGS == first[0] // CHUNK_READINGS
            and size + len(row.freeform) <= CHUNK_BYTES
            and row.received[:_DAY] == first[1].received[:_DAY]
        )
