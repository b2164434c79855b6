"""A relay between a client and a server, to cut connections and to refuse them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Coroutine
from typing import Any

from support.ports import HOST, free_port

CHUNK_BYTES = 1 << 16
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with no time: closing sends RST (socket(7))."""

Place = str | int
"""A Unix socket's path, or a TCP port on loopback."""


class Relays:
    """All relays of a run, on a thread and an event loop of their own; a context manager."""

    def __enter__(self) -> Relays:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="relays", daemon=True)
        self._thread.start()
        self._relays: list[Relay] = []
        return self

    def __exit__(self, *_: Any) -> None:
        for relay in self._relays:
            relay.refuse()
        self._call(_cancel_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def to(self, server: Place, at: Place | None = None) -> Relay:
        """Start a relay.

        Args:
            server: where it leads.
            at: where it listens; None: a free port.
        """
        relay = Relay(self, server, free_port() if at is None else at)
        self._relays.append(relay)
        relay.accept()
        return relay

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(5)


class Relay:
    """One listening place; made by :meth:`Relays.to`. Methods may be called from any thread.

    Attributes:
        place: where it listens.
    """

    def __init__(self, relays: Relays, server: Place, place: Place) -> None:
        self.place = place
        self._call = relays._call
        self._server = server
        self._listener: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    def accept(self) -> None:
        """Take connections (again)."""
        self._call(self._listen())

    def cut(self) -> None:
        """Reset every connection; new ones are taken as before."""
        self._call(self._reset())

    def refuse(self) -> None:
        """Reset every connection, and refuse new ones until :meth:`accept`."""
        self._call(self._close())

    async def _listen(self) -> None:
        if self._listener is None:
            if isinstance(self.place, str):
                self._listener = await asyncio.start_unix_server(self._join, self.place)
            else:
                self._listener = await asyncio.start_server(self._join, HOST, self.place, backlog=512)

    async def _close(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        await self._reset()

    async def _reset(self) -> None:
        for writer in self._writers:
            sock = writer.get_extra_info("socket")
            with contextlib.suppress(OSError):  # it is closed already
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            writer.transport.abort()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            if isinstance(self._server, str):
                far_reader, far_writer = await asyncio.open_unix_connection(self._server)
            else:
                far_reader, far_writer = await asyncio.open_connection(HOST, self._server)
        except OSError:  # the server is down: so is the relay for whoever asks
            self._writers.discard(writer)
            writer.transport.abort()
            return
        self._writers.add(far_writer)
        try:
            await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))
        finally:
            self._writers -= {writer, far_writer}


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):  # one side is gone; closing the other is what follows
        while data := await reader.read(CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
    writer.close()


async def _cancel_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
