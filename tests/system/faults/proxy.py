"""A TCP proxy between the services and a store, which can disturb the connections."""

import asyncio
import contextlib
import socket
import threading
from types import TracebackType
from typing import Self

_PIECE = 65_536
_END_SECONDS = 0.1


class Proxy:
    """A proxy that forwards connections to a port on loopback, in its own thread.

    The proxy acts as the name of a store: clients connect to it, and it leads to one of the
    servers.
    """

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="proxy", daemon=True)
        self._open: set[asyncio.StreamWriter] = set()
        self._flows = asyncio.Event()
        self._delay = 0.0
        self._cutting = False

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def lead_to(self, target_port: int) -> None:
        """Forward new connections to another port. Open connections stay with their server."""
        self._target_port = target_port

    def slow(self, seconds: float) -> None:
        """Delay all data by `seconds`. 0 ends the delay."""
        self._delay = seconds

    def hold(self, *, holding: bool) -> None:
        """Hold all data, as an unplugged cable does. Held data is forwarded later."""
        change = self._flows.clear if holding else self._flows.set
        self._loop.call_soon_threadsafe(change)

    def cut(self, *, cutting: bool) -> None:
        """Break every connection in the middle of its next data, and refuse new connections. At the
        end, break idle connections, too.
        """
        self._cutting = cutting
        if not cutting:
            self._loop.call_soon_threadsafe(self._abort_all)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._flows.set()
        server = self._loop.run_until_complete(
            asyncio.start_server(self._connected, sock=self._listener)
        )
        self._loop.run_forever()
        server.close()
        self._loop.run_until_complete(self._end_connections())
        self._loop.close()

    async def _end_connections(self) -> None:
        # The tasks of connections end by themselves when both sides are closed. asyncio.streams
        # would print a traceback for each that is cancelled (until Python 3.12).
        self._cutting = True
        self._delay = 0.0
        self._flows.set()
        while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            self._abort_all()
            await asyncio.wait(tasks, timeout=_END_SECONDS)

    def _abort_all(self) -> None:
        for writer in list(self._open):
            writer.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._cutting:
            writer.transport.abort()
            return
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            writer.transport.abort()
            return
        both = {writer, far_writer}
        self._open |= both
        pumps = [self._pump(reader, far_writer), self._pump(far_reader, writer)]
        tasks = [asyncio.ensure_future(pump) for pump in pumps]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            for each in both:
                each.transport.abort() if self._cutting else each.close()
            self._open -= both

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(_PIECE):
                await self._flows.wait()
                if self._delay:
                    await asyncio.sleep(self._delay)
                if self._cutting:
                    writer.write(piece[: len(piece) // 2])
                    await asyncio.sleep(0)
                    return
                writer.write(piece)
                await writer.drain()
