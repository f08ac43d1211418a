"""A listening socket of which no connection is left over."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Listening:
    """Calls `serve` with each connection, in a task of its own, from its making until `close`.

    asyncio's server is not used: it makes a connection in several turns of the loop, and one that is being made when
    the server closes is known to nobody and stays open.
    """

    def __init__(self, serve: Serve, *, port: int = 0) -> None:
        self._serve = serve
        self._served: dict[asyncio.Task[None], socket.socket] = {}
        self._loop = asyncio.get_running_loop()
        self._socket = socket.create_server(("127.0.0.1", port), backlog=128)
        self._socket.setblocking(False)
        self._loop.add_reader(self._socket, self._accept)
        self.port: int = self._socket.getsockname()[1]

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionError):  # who came has gone again
            connection, _ = self._socket.accept()
            connection.setblocking(False)
            # asyncio sets it only for sockets that name their protocol. Each answer waits 40 ms without it.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            task = self._loop.create_task(self._run(connection))
            self._served[task] = connection
            task.add_done_callback(self._served.pop)

    async def _run(self, connection: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=connection)
        try:
            await self._serve(reader, writer)
        finally:
            writer.close()

    @property
    def is_open(self) -> bool:
        """Whether new connections are taken."""
        return self._socket.fileno() >= 0

    def close(self) -> None:
        """Refuse new connections; those that are open stay."""
        if self.is_open:
            self._loop.remove_reader(self._socket)
            self._socket.close()

    async def end(self) -> None:
        """Close, cancel what serves the connections, and wait until it has ended."""
        self.close()
        served = dict(self._served)
        for task in served:
            task.cancel()
        await asyncio.gather(*served, return_exceptions=True)
        for connection in served.values():
            connection.close()  # of a task that was cancelled before its first step
