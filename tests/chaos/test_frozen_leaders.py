"""A leader that is frozen, alone or with its virtual machine: the server ends its session, and another one leads."""

from __future__ import annotations

import asyncio
import signal
import time

import asyncpg
import pytest

from pgbus.config import Config
from pgbus.database.connections import settings_sql
from pgbus.database.faults import is_link_error
from pgbus.database.session import Session
from pgbus.leader.leader import LEADER_SETTINGS, SILENCE
from tests.chaos.stage import Stage
from tests.support import eventually

# Seconds. Measured: 1.1 to 1.8; the rest is for a busy machine. Without the silence, all would wait for a frozen leader
# for as long as it is frozen.
SOON = 20.0


@pytest.mark.parametrize("is_busy", [False, True], ids=["idle", "busy"])
async def test_another_process_leads_when_the_leader_is_frozen_and_the_thawed_one_follows(
    stage: Stage, is_busy: bool
) -> None:
    frozen = await stage.start_idle(silence=SILENCE)
    other = await stage.start_follower(frozen, "record")
    load = Load(stage)
    if is_busy:
        load.start()
        await stage.wait_for("handled", 500)

    frozen.signal(signal.SIGSTOP)
    began = time.monotonic()
    await stage.until_leads(other, SOON)
    await load.stop()
    await load.publish()
    await stage.wait_for("handled", load.published)
    print(f"{time.monotonic() - began:.2f} s without a leader")  # noqa: T201 - the measured figure

    frozen.signal(signal.SIGCONT)
    await eventually(lambda: "no longer leading" in frozen.log)
    await load.publish()
    await stage.settled()
    assert await stage.numbers("handled") == list(range(load.published))
    assert await stage.leader_pid() == other.pid
    assert frozen.lives


class Load:
    """Publishes a hundred events at a time, and no more than the listener keeps up with."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.published = 0

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        self._stopping.set()
        if self._task:
            await self._task

    async def publish(self) -> None:
        await self._stage.publish("chaos.recorded", range(self.published, self.published + 100))
        self.published += 100

    async def _run(self) -> None:
        connection = await asyncpg.connect(self._stage.dsn)
        try:
            while not self._stopping.is_set():
                if await connection.fetchval("SELECT count(*) FROM handled") > self.published - 300:
                    await self.publish()
        finally:
            connection.terminate()


async def test_a_leader_that_waits_for_a_long_statement_is_not_silent(database: str) -> None:
    for _ in range(10):
        session = await Session.open(Config(dsn=database), channels={})
        try:
            await session.connection.execute(settings_sql(LEADER_SETTINGS))
            assert await session.fetch("SELECT pg_sleep(1.5)")
            assert await session.fetch("SELECT 1")
        except Exception as error:
            if not is_link_error(error):
                raise  # else it was this process that was silent, on a busy machine
        else:
            break
        finally:
            await session.close()
    else:
        raise AssertionError("the server ends the session after each long statement")


@pytest.mark.parametrize("in_transaction", [False, True], ids=["idle", "in a transaction"])
async def test_the_server_ends_the_session_of_a_silent_leader(database: str, in_transaction: bool) -> None:
    session = await Session.open(Config(dsn=database), channels={})
    await session.connection.execute(settings_sql(LEADER_SETTINGS))
    if in_transaction:
        await session.connection.execute("BEGIN")
    async with asyncio.timeout(SOON):
        await session.lost.wait()
    with pytest.raises(Exception, match="closed") as caught:
        await session.fetch("SELECT 1")
    assert is_link_error(caught.value)
