"""A session whose server has vanished: its own end notices, and says so."""

from __future__ import annotations

import asyncio
import socket
import sys

import asyncpg
import pytest

from pgbus.config import Config
from pgbus.database.faults import is_link_error
from pgbus.database.session import Session
from pgbus.testing.crashes import wire
from tests.conftest import Connect
from tests.support.waiting import eventually


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


@pytest.mark.parametrize("is_prepared", [True, False])
async def test_a_statement_under_way_fails_when_its_session_is_closed_and_the_server_goes_at_once(
    database: str, connect: Connect, is_prepared: bool
) -> None:
    session = await Session.open(Config(dsn=database), channels={})
    if is_prepared:
        await session._statements.prepare(["SELECT pg_sleep(600)"])
    other = await connect(database)
    statement = asyncio.create_task(session.fetch("SELECT pg_sleep(600)"))
    await eventually(
        lambda: other.fetchval(
            "SELECT state = 'active' AND wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = $1",
            session.backend_pid,
        )
    )
    closing = asyncio.create_task(session.close())
    await asyncio.sleep(0)  # it has asked for the cancellation
    session.connection._transport.abort()  # type: ignore[attr-defined]  # as the end of the stream does
    with pytest.raises(asyncpg.ConnectionDoesNotExistError, match="closed in the middle") as caught:
        await statement
    assert is_link_error(caught.value)
    await closing
