"""A crash test: undisturbed runs say what is right, then a run for each point is killed there and tried again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

from pgbus.aio.returned import finish, is_awaitable
from pgbus.bus import Bus
from pgbus.database.migrate.sessions import run_blocking, session
from pgbus.errors import ConfigurationError
from pgbus.testing.crashes.killer import Killer
from pgbus.testing.crashes.process import Effect, Subject, run_in_fork
from pgbus.testing.crashes.report import CrashReport, Finding, Point
from pgbus.testing.crashes.state import Reference, State, advance_sequences, read_state
from pgbus.testing.crashes.wire import tapped
from pgbus.testing.databases import DatabaseServer

Prepare: TypeAlias = Callable[[str], Awaitable[object] | object]

PATIENCE = 30.0
# Runs at once: most of a run is waiting.
_AT_ONCE = 4


class CrashPoints:
    """Crash tests of the listeners of `buses`, each on copies of the database `template`."""

    def __init__(self, buses: Sequence[Bus], *, server: DatabaseServer, template: str) -> None:
        self._buses = buses
        self._server = server
        self._template = template

    def effect(self, name: str) -> Effect:
        """A stand-in for something that a handler does outside of the database; put it in the place of the real one.

        Each call of it is noted, and is a point to be killed at.
        """
        return Effect(name)

    def run(
        self,
        listener_name: str,
        event: object,
        *,
        topic: str | None = None,
        key: str | None = None,
        prepare: Prepare | None = None,
        configure: Prepare | None = None,
        may_double: Sequence[str] = (),
        timeout: float = PATIENCE,
    ) -> CrashReport:
        """Publish an event, and kill the handler before and after each of its statements; report what went wrong.

        Each run is a process of its own, a fork of the test's, on a database of its own, and is killed by SIGKILL. Then
        another process delivers the event again, and what the application's tables hold, what was published and which
        effects there were is compared with what two undisturbed runs have left. Columns in which these two differ,
        such as ids and instants, are not compared.

        - `event`, `topic`, `key`: as for `publish`.
        - `prepare`: makes the rows that the handler needs; it is given a DSN, and may be async.
        - `configure`: is called in each process with the DSN of its database, before the worker starts: have the
          application's own engine or pool use that. The bus uses it already, and PGBUS_DSN is set to it.
        - `may_double`: names of effects that may happen twice, as their receivers recognise the second one.
        - `timeout`: seconds that one process gets.

        Raises ConfigurationError for an unknown listener, and AssertionError where an undisturbed run fails.
        """
        bus = self._bus_of(listener_name)
        subject = Subject(buses=self._buses, bus=bus, listener_name=listener_name, configure=configure, timeout=timeout)
        trial = _Trial(subject, server=self._server, may_double=may_double)

        async def publish(dsn: str) -> str:
            if prepare and is_awaitable(result := prepare(dsn)):
                await finish(result, "prepare")
            async with session(dsn) as connection, connection.transaction():
                message = await bus.publish(event, topic=topic, key=key, using=connection)
            return str(message.event_id)

        with _database(self._server, self._template) as name:
            published = run_blocking(publish(self._server.dsn_of(name)))
            self._server.seal_database(name)
            return run_blocking(trial.run(name, published))

    def _bus_of(self, listener_name: str) -> Bus:
        names = [name for bus in self._buses for name in bus.registry.listeners.names]
        for bus in self._buses:
            if listener_name in bus.registry.listeners.names:
                return bus
        raise ConfigurationError(f"there is no listener {listener_name!r}; there are {', '.join(names) or 'none'}")


class _Trial:
    """All the runs of one crash test."""

    def __init__(self, subject: Subject, *, server: DatabaseServer, may_double: Sequence[str]) -> None:
        self._subject = subject
        self._listener_name = subject.listener_name
        self._own = subject.bus.config.namespace
        self._namespaces = list({one.config.namespace for one in subject.buses})
        self._server = server
        self._may_double = may_double
        self._free = asyncio.Semaphore(_AT_ONCE)

    async def run(self, template: str, published: str) -> CrashReport:
        """Run the crash test, and return its report."""
        began = time.monotonic()
        points, one = await self._undisturbed(template, published)
        _, other = await self._undisturbed(template, published, advanced=True)
        reference = Reference(one, other)
        async with asyncio.TaskGroup() as tasks:
            runs = [tasks.create_task(self._killed(template, published, point, reference)) for point in points]
        ends = [run.result() for run in runs]
        return CrashReport(
            self._listener_name,
            points,
            [finding for findings in ends if findings is not None for finding in findings],
            [point for point, findings in zip(points, ends, strict=True) if findings is None],
            time.monotonic() - began,
        )

    async def _undisturbed(
        self, template: str, published: str, *, advanced: bool = False
    ) -> tuple[Sequence[Point], State]:
        with _database(self._server, template) as name:
            if advanced:
                await self._advance(name)
            killer = await self._deliver(name, kill_at=None)
            state = await self._read(name, published, killer.effects)
        if state.dead:
            raise AssertionError(f"{self._listener_name} fails without any crash: {state.dead[0]}")
        if not killer.points:
            raise AssertionError(f"{self._listener_name} did not get the event: does it listen to its topic?")
        return killer.points, state

    async def _killed(
        self, template: str, published: str, point: Point, reference: Reference
    ) -> Sequence[Finding] | None:
        """Return the differences after a crash at `point`; None if it was not reached."""
        async with self._free:
            with _database(self._server, template) as name:
                killer = await self._deliver(name, kill_at=point.number)
                if not killer.killed_at:
                    return None
                effects = list(killer.effects)
                try:
                    effects += (await self._deliver(name, kill_at=None)).effects
                except TimeoutError:
                    return [
                        Finding(killer.killed_at, "stuck", "events", f"not settled after {self._subject.timeout:g} s")
                    ]
                state = await self._read(name, published, effects)
        return list(reference.differences(state, point=killer.killed_at, may_double=self._may_double))

    async def _deliver(self, name: str, *, kill_at: int | None) -> Killer:
        killer = Killer(namespace=self._own, kill_at=kill_at)
        async with tapped(self._server.dsn_of(name), killer) as dsn:
            await run_in_fork(self._subject, dsn=dsn, killer=killer)
        return killer

    async def _read(self, name: str, published: str, effects: Sequence[str]) -> State:
        async with session(self._server.dsn_of(name)) as connection:
            state = await read_state(
                connection,
                namespaces=self._namespaces,
                own=self._own,
                published=published,
                listener_name=self._listener_name,
            )
        return State(state.tables, state.keys, effects, state.dead)

    async def _advance(self, name: str) -> None:
        async with session(self._server.dsn_of(name)) as connection:
            await advance_sequences(connection, namespaces=self._namespaces)


@contextmanager
def _database(server: DatabaseServer, template: str) -> Iterator[str]:
    name = server.create_database(template=template)
    try:
        yield name
    finally:
        server.drop_database(name)
