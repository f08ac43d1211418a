"""A proxy between a process and its PostgreSQL that reports each statement before and after its execution.

It reads PostgreSQL's protocol (https://www.postgresql.org/docs/current/protocol.html, version 3), so it does not matter
which driver the process uses. Encryption is refused, which drivers accept by default.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Protocol
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

from pgbus.testing.crashes.listening import Listening

_SSL_REQUEST, _GSS_REQUEST = 80877103, 80877104
_OF_THE_TARGET = frozenset(
    {"host", "port", "channel_binding", "gssencmode", "sslcert", "sslkey", "sslmode", "sslrootcert"}
)
_COPY_BEGINS = b"GHW"


class ProcessKilled(Exception):
    """The process at the other end has just been killed: nothing of what it sent may reach the server any more."""


class Session:
    """The state of one proxied connection; the watch keeps its own data in `notes`."""

    def __init__(self) -> None:
        self.notes: set[str] = set()


class Watch(Protocol):
    """Gets each statement; raises ProcessKilled when it has killed the process."""

    def before(self, session: Session, statement: str) -> None:
        """The server is about to get a statement."""
        ...

    def after(self, session: Session, statement: str) -> None:
        """The server has carried it out, and the process does not know yet."""
        ...


@asynccontextmanager
async def tapped(dsn: str, watch: Watch) -> AsyncIterator[str]:
    """The DSN of the same database through a proxy of its own."""
    listening = Listening(lambda reader, writer: _Link(reader, writer, watch).run(dsn))
    try:
        yield _through("127.0.0.1", listening.port, dsn)
    finally:
        await listening.end()


def _through(host: str, port: int, dsn: str) -> str:
    parts = urlsplit(dsn)
    login = parts.netloc.rpartition("@")[0]
    query = [(name, value) for name, value in parse_qsl(parts.query) if name not in _OF_THE_TARGET]
    return urlunsplit(
        parts._replace(netloc=f"{login}{'@' if login else ''}{host}:{port}", query=urlencode(query, quote_via=quote))
    )


async def _open(dsn: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    parts = urlsplit(dsn)
    given = dict(parse_qsl(parts.query))
    host = given.get("host") or unquote(parts.hostname or "127.0.0.1")
    port = int(given.get("port") or parts.port or 5432)
    if host.startswith("/"):
        return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
    return await asyncio.open_connection(host, port)


class _Link:
    """One connection: requests go to the server and answers to the process, and statements to the watch."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, watch: Watch) -> None:
        self._reader = reader
        self._writer = writer
        self._watch = watch
        self._session = Session()
        self._prepared: dict[bytes, str] = {}
        self._portals: dict[bytes, str] = {}
        self._pending: list[str] = []
        """Statements that the server has, and has not ended yet."""
        self._held: list[bytes] = []
        """Answers that wait until the watch has been told: the process must not go on before."""
        self._is_flushed = False
        """Whether the process has asked for answers before the end of its statements: holding them would block it."""

    async def run(self, dsn: str) -> None:
        """Connect to the server, and forward until either end has closed."""
        try:
            with contextlib.suppress(ConnectionError):
                server_reader, server_writer = await _open(dsn)
                try:
                    async with asyncio.TaskGroup() as pumps:
                        pumps.create_task(self._pump(self._requests(server_writer)))
                        pumps.create_task(self._pump(self._answers(server_reader)))
                except* _LinkEnded:
                    pass
                finally:
                    await _end(server_writer)
        finally:
            await _end(self._writer)

    async def _pump(self, flow: Awaitable[None]) -> None:
        """Run one direction; when that ends, so does the other."""
        with contextlib.suppress(ProcessKilled, ConnectionError, asyncio.IncompleteReadError):
            await flow
        raise _LinkEnded

    # --------------------------------------------------------------------------------------------------- requests

    async def _requests(self, server: asyncio.StreamWriter) -> None:
        server.write(await self._start())
        while True:
            kind, body = await _message(self._reader)
            if statement := self._statement(kind, body):
                self._watch.before(self._session, statement)
                self._pending.append(statement)
            self._is_flushed |= kind == b"H"
            server.write(kind + struct.pack("!i", len(body) + 4) + body)
            await server.drain()

    async def _start(self) -> bytes:
        """The first packet of the session, without the requests for encryption that come before it."""
        while True:
            length = await self._reader.readexactly(4)
            rest = await self._reader.readexactly(struct.unpack("!i", length)[0] - 4)
            if struct.unpack("!i", rest[:4])[0] not in (_SSL_REQUEST, _GSS_REQUEST):
                return length + rest
            self._writer.write(b"N")

    def _statement(self, kind: bytes, body: bytes) -> str | None:
        """The text of the statement that this message has the server carry out."""
        match kind:
            case b"Q":
                return body.rstrip(b"\0").decode(errors="replace")
            case b"P":
                name, text, _ = body.split(b"\0", 2)
                self._prepared[name] = text.decode(errors="replace")
            case b"B":
                portal, name, _ = body.split(b"\0", 2)
                self._portals[portal] = self._prepared.get(name, "")
            case b"E":
                return self._portals.get(body.split(b"\0", 1)[0])
        return None

    # ---------------------------------------------------------------------------------------------------- answers

    async def _answers(self, server: asyncio.StreamReader) -> None:
        while True:
            kind, body = await _message(server)
            self._held.append(kind + struct.pack("!i", len(body) + 4) + body)
            if kind == b"Z":
                self._end_statements()
            if kind == b"Z" or kind in _COPY_BEGINS or not self._pending or self._is_flushed:
                self._writer.write(b"".join(self._held))
                self._held.clear()
                await self._writer.drain()

    def _end_statements(self) -> None:
        ended, self._pending, self._is_flushed = self._pending, [], False
        for statement in ended:
            self._watch.after(self._session, statement)


async def _end(writer: asyncio.StreamWriter) -> None:
    """Close the connection, also for the processes that were forked meanwhile and have a copy of its descriptor."""
    with contextlib.suppress(OSError):
        writer.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


class _LinkEnded(Exception):
    """One of the two ends has closed the connection."""


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    kind = await reader.readexactly(1)
    length = struct.unpack("!i", await reader.readexactly(4))[0]
    return kind, await reader.readexactly(length - 4)
