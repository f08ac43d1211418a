"""A session's own end notices that its server has vanished, without a statement."""

from __future__ import annotations

import socket
import sys

import pytest

from pgbus.config import Config
from pgbus.database.session import Session
from pgbus.testing.crashes import wire


class Deaf:
    """A tap that does nothing."""

    def before(self, session: wire.Session, statement: str) -> None: ...

    def after(self, session: wire.Session, statement: str) -> None: ...


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's options")
async def test_a_session_notices_within_20_seconds_that_its_server_has_vanished(database: str) -> None:
    async with wire.tapped(database, Deaf()) as by_tcp:
        session = await Session.open(Config(dsn=by_tcp), channels={})
        link = session.connection._transport.get_extra_info("socket")  # type: ignore[attr-defined]
        idle, interval, count, unacknowledged = (
            link.getsockopt(socket.IPPROTO_TCP, getattr(socket, name))
            for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")
        )
        assert link.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert idle + interval * count <= 20
        assert unacknowledged <= 20_000
        await session.close()
