"""A TCP proxy in front of a server, for links that go silent, lose an answer or are reset."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, urlsplit, urlunsplit

from pgbus.testing.crashes.listening import Listening
from tests.support.ports import free_port

_CHUNK = 65_536
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER on, with 0 seconds


@dataclass(eq=False)
class _Link:
    """One proxied connection: the client's side and the server's."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    pumps: list[asyncio.Task[None]] = field(default_factory=list)

    def reset(self) -> None:
        for writer in (self.client, self.server):
            _abort(writer)
        for pump in self.pumps:
            pump.cancel()


class FaultProxy:
    """Forwards TCP connections to the server of `dsn`; a context manager on the running event loop.

    `dsn` names the same database through the proxy.
    """

    def __init__(self, dsn: str) -> None:
        self._target = dsn
        self._links: set[_Link] = set()
        self._requests_flow = asyncio.Event()
        self._answers_flow = asyncio.Event()
        self._last_answer: bytes | None = None
        self._tears = False
        self.delay = 0.0
        """Seconds by which every piece is late, in both directions."""
        self._listening: Listening | None = None
        self.dsn = ""
        self.restore()

    async def __aenter__(self) -> Self:
        self._listening = Listening(self._serve, port=free_port())
        parts = urlsplit(self._target)
        user = parts.netloc.rpartition("@")[0] if "@" in parts.netloc else "postgres"
        self.dsn = urlunsplit(parts._replace(netloc=f"{user}@127.0.0.1:{self._listening.port}", query=""))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._listening is not None
        pumps = [pump for link in self._links for pump in link.pumps]
        self.reset()
        await asyncio.gather(*pumps, return_exceptions=True)
        await self._listening.end()

    def silence(self) -> None:
        """Hold back every byte in both directions from now on; connections stay open, and new ones get no answer."""
        self._requests_flow.clear()
        self._answers_flow.clear()

    def hold_answers(self, *, after: bytes | None = None) -> None:
        """Hold back what the server sends from now on, or once it has sent something with `after` in it."""
        if after is None:
            self._answers_flow.clear()
        self._last_answer = after

    @property
    def holds_answers(self) -> bool:
        """Whether what the server sends is held back."""
        return not self._answers_flow.is_set()

    def tear(self) -> None:
        """Break the next connection that gets an answer, in the middle of that answer."""
        self._tears = True

    def move(self, dsn: str) -> None:
        """Lead new connections to the server of another DSN, as an address that moves; those that are open stay."""
        self._target = dsn

    def restore(self) -> None:
        """Forward everything again, first of all what was held back on connections that are still open."""
        self._last_answer = None
        self._tears = False
        self.delay = 0.0
        self._requests_flow.set()
        self._answers_flow.set()

    def refuse(self) -> None:
        """Break every connection, and refuse new ones, as a server that is down."""
        assert self._listening is not None
        self._listening.close()
        self.reset()

    async def accept(self) -> None:
        """Take connections again, at the same address."""
        self._listening = Listening(self._serve, port=urlsplit(self.dsn).port or 0)

    def reset(self) -> None:
        """Break every connection with a RST to both sides; what was held back on it is lost."""
        for link in tuple(self._links):
            link.reset()
            self._links.discard(link)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server_reader, server_writer = await self._connect()
        except OSError:
            _abort(writer)
            return
        link = _Link(writer, server_writer)
        if self._listening is None or not self._listening.is_open:  # refused while this one was being made
            link.reset()
            return
        link.pumps = [
            asyncio.create_task(self._pump(reader, server_writer, self._requests_flow)),
            asyncio.create_task(self._pump(server_reader, writer, self._answers_flow)),
        ]
        self._links.add(link)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait(link.pumps, return_when=asyncio.FIRST_COMPLETED)
        # One side has ended. A reset is what is left for the other, if it did not get one already.
        link.reset()
        self._links.discard(link)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        parts = urlsplit(self._target)
        options = parse_qs(parts.query)
        host = options.get("host", [parts.hostname or "127.0.0.1"])[0]
        port = int(options.get("port", [str(parts.port or 5432)])[0])
        if host.startswith("/"):
            return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        return await asyncio.open_connection(host, port)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flow: asyncio.Event) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK):
                if self.delay:
                    await asyncio.sleep(self.delay)
                await flow.wait()
                if self._tears and flow is self._answers_flow and len(data) > 1:
                    self._tears = False
                    writer.write(data[: len(data) // 2])
                    await writer.drain()
                    return
                writer.write(data)
                await writer.drain()
                if self._last_answer and flow is self._answers_flow and self._last_answer in data:
                    self.hold_answers()


def _abort(writer: asyncio.StreamWriter) -> None:
    link = writer.get_extra_info("socket")
    if link is not None and link.family != socket.AF_UNIX:
        with contextlib.suppress(OSError):
            link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    writer.transport.abort()
