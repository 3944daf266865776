"""How an API process receives heads and bodies: in turns, and within the memory budget."""

import io
import time
from typing import Any

import gevent
from gunicorn.http.errors import LimitRequestHeaders
from gunicorn.http.unreader import SocketUnreader

from iot_api.limits.memory_budget import BODY_FACTOR, EXEMPT_BYTES, MemoryBudget

from .connections import Connection, Phase

MOST_HEAD_BYTES = 32 * 1024
"""The most that is received of a head, and of the trailers of a chunked body. gunicorn would take
800 KiB of each, which are not charged, and copies or searches all of them for every byte more.
"""
_TURN_SECONDS = 0.01
"""Longest time for which a client that sends fast keeps the other greenlets waiting."""


class ConnectionReader(SocketUnreader):  # type: ignore[misc] # gunicorn has no types
    """Receives for gunicorn's parser, and notes on the connection what it waits for."""

    # Of a body that nobody reads, gunicorn drops 1 KiB at a time, and copies what it received each
    # time: with its own 1 MiB that takes half a second.
    max_body_chunk = 2**17

    def __init__(self, connection: Connection, memory: MemoryBudget) -> None:
        super().__init__(connection.client)
        self._connection = connection
        self._memory = memory
        self._turn_began = 0.0

    @property
    def has_buffered(self) -> bool:
        """Whether bytes have arrived that no request has taken."""
        return bool(self.buf.tell())

    def take_turns(self, now: float) -> None:
        """Let other greenlets run, if this one has run for long.

        gevent returns what has arrived without switching. Without this, not even a timeout reaches
        a greenlet whose client sends fast enough; and 8 KiB hold two hundred small requests.
        """
        if now - self._turn_began >= _TURN_SECONDS:
            gevent.sleep(0)
            self._turn_began = time.monotonic()

    def chunk(self, size_hint: int | None = None) -> Any:
        """Receive bytes of a head or a body; none at the end.

        Raises:
            LimitRequestHeaders: the head is too long.
            Exception: the connection's `failure`, when it was closed while a body arrived.
        """
        self.take_turns(time.monotonic())
        if self._connection.request is not None:
            return self._body_chunk(size_hint)
        data = super().chunk(size_hint)
        self._connection.head_bytes += len(data)
        if self._connection.head_bytes > MOST_HEAD_BYTES:
            raise LimitRequestHeaders("")
        if self._connection.phase is not Phase.HEAD:
            self._connection.phase = Phase.HEAD
            self._connection.since = time.monotonic()
        return data

    def _body_chunk(self, size_hint: int | None) -> Any:
        connection = self._connection
        connection.start_receive()
        try:
            data = b"" if connection.failure else super().chunk(size_hint)
        finally:
            connection.phase = Phase.ANSWERING
        if connection.failure is not None:
            self._drop_body()
            raise connection.failure
        connection.body_bytes += len(data)
        if connection.body_bytes > EXEMPT_BYTES and not connection.discards_body:
            self._charge(len(data) * BODY_FACTOR)
        return data

    def _charge(self, count: int) -> None:
        try:
            self._memory.charge(self._connection, count)
        except Exception:
            self._drop_body()
            raise

    def _drop_body(self) -> None:
        """Free what has arrived of a body that fails: its answer, and what the client still sends,
        may take seconds.
        """
        request = self._connection.request
        request.force_close()
        for each in (self, request.body, request.body.reader):
            each.buf = io.BytesIO()
