"""The tap between a process and its server leaves nothing open, whenever a process comes to it."""

from __future__ import annotations

import asyncio
import gc
import socket
from urllib.parse import urlsplit

import pytest

from pgbus.testing.crashes.wire import Session, tapped


class Nothing:
    """Watches, and lets everything pass."""

    def before(self, session: Session, statement: str) -> None: ...

    def after(self, session: Session, statement: str) -> None: ...


@pytest.mark.parametrize("turns", range(8))
async def test_a_connection_that_is_being_made_when_the_tap_closes_is_closed(turns: int) -> None:
    # A warning of an unclosed socket or an exception in a callback is a failure of this test.
    broken: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: broken.append(context))
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with tapped(f"postgresql://someone@127.0.0.1:{port}/any", Nothing()) as dsn:
        clients = [socket.socket() for _ in range(5)]
        for client in clients:
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", urlsplit(dsn).port or 0))
        for _ in range(turns):
            await asyncio.sleep(0)
    for client in clients:
        client.close()
    server.close()
    await server.wait_closed()
    gc.collect()
    assert broken == []
