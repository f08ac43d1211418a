"""Measures the costs of a fleet by real statements: CPU of their sessions, by /proc (so on Linux only).

Each cost is that of the fastest tenth of its rounds; one per event, delivery or session is the slope between two sizes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import uuid4

import asyncpg

import pgbus
from benchmarks.cpu import cpu_of
from benchmarks.fleet.costs import Costs
from benchmarks.looks import Nobody
from benchmarks.paced import worker_process
from benchmarks.support import OrderPlaced, fresh_bus, machine, quantile
from pgbus.database.connections import set_up
from pgbus.database.session import Session
from pgbus.database.statements import deliveries, sequencer
from pgbus.database.statements.deliveries import Claim, ClaimTerms
from pgbus.database.store import Store
from pgbus.handlers.outcomes import DONE
from pgbus.leader.mover import Mover
from pgbus.listeners.settlement import HeldClaim, settlement

ROUNDS = 200
MANY = 200
HEARD_BY = 50
HEARERS = 24
PATIENCE = 60.0
BURSTS, BURST = 60, 0.05

Work = Callable[[], Awaitable[object]]


async def calibrate(dsn: str, rounds: int = ROUNDS) -> Costs:
    """Measure all costs on this server; takes about half a minute."""
    async with fresh_bus(dsn) as bus:
        bench = await _Bench.open(dsn, bus.config.namespace, rounds)
        looks = await bench.measure_looks()
        claims = await bench.measure_claims()
        others = await bench.measure_sessions()
        await bench.close()
    async with fresh_bus(dsn) as bus:
        sessions = await _count_sessions(dsn, bus)
    return Costs(
        measured=await asyncio.to_thread(machine, f"the fastest tenth of {rounds} rounds", dsn),
        worker_sessions=sessions,
        **{name: round(max(value, 0.0), 2) for name, value in (looks | claims | others).items()},
    )


class _Bench:
    def __init__(self, dsn: str, namespace: str, rounds: int, sessions: list[asyncpg.Connection]) -> None:
        self._dsn, self._namespace, self._rounds = dsn, namespace, rounds
        self._publisher, self._leading, self._working = sessions
        self._store = Store(self._working, namespace=namespace)

    @classmethod
    async def open(cls, dsn: str, namespace: str, rounds: int) -> _Bench:
        sessions = [await asyncpg.connect(dsn) for _ in range(3)]
        for session in sessions[1:]:
            await set_up(session)
            await session.execute("SET synchronous_commit = off")
        return cls(dsn, namespace, rounds, sessions)

    async def close(self) -> None:
        for session in (self._publisher, self._leading, self._working):
            await session.close()

    async def _cpu(self, session: asyncpg.Connection, work: Work, before: Work | None = None) -> tuple[float, float]:
        """Microseconds of CPU of the session, and of this process, each of the fastest tenth of the rounds."""
        backend = [session.get_server_pid()]
        server, client = [], []
        for number in range(self._rounds + self._rounds // 10 + 1):
            if before:
                await before()
            earlier, began = cpu_of(backend), time.process_time()
            await work()
            if number > self._rounds // 10:
                client.append(1e6 * (time.process_time() - began))
                server.append(1e6 * (cpu_of(backend) - earlier))
        return quantile(server, 0.1), quantile(client, 0.1)

    async def _listen(self, topic: str, count: int) -> list[int]:
        insert = (
            f'WITH one AS (INSERT INTO "{self._namespace}".listeners (listener_name) VALUES ($2) RETURNING id) '
            f'INSERT INTO "{self._namespace}".subscriptions (listener_id, pattern) SELECT id, $1 FROM one '
            "RETURNING listener_id"
        )
        return [await self._publisher.fetchval(insert, topic, f"{topic}_{number}") for number in range(count)]

    async def _publish(self, topic: str, count: int) -> None:
        await self._publisher.execute(
            f'INSERT INTO "{self._namespace}".outbox (topic, payload) '
            "SELECT $1, jsonb_build_object('pad', repeat('x', 170)) FROM generate_series(1, $2::integer)",
            topic, count,
        )  # fmt: skip

    async def measure_looks(self) -> dict[str, float]:
        self._listener_id = (await self._listen("fleet.one", 1))[0]
        await self._listen("fleet.many", HEARD_BY)
        mover = Mover(Session(self._leading, namespace=self._namespace), neighbours=Nobody(), lease=60.0)
        await mover.start()
        self._mover = mover

        async def look(topic: str, count: int) -> tuple[float, float]:
            return await self._cpu(self._leading, mover.look, lambda: self._publish(topic, count))

        publish, _ = await self._cpu(self._publisher, lambda: self._publish("fleet.unheard", 1))
        await mover.look()
        nothing, _ = await self._cpu(self._leading, mover.look)
        two, client_two = await look("fleet.one", 2)
        many, client_many = await look("fleet.one", MANY)
        fanned, _ = await look("fleet.many", 2)
        per_event = (many - two) / (MANY - 2)
        per_delivery = (fanned - two) / (HEARD_BY - 1)
        client_event = (client_many - client_two) / (MANY - 2)
        return {
            "publish": publish,
            "look": nothing,
            "look_writes": two - nothing - 2 * per_event - per_delivery,
            "look_event": per_event,
            "look_delivery": per_delivery,
            "leader_client": client_two - 2 * client_event,
            "leader_client_event": client_event,
        }

    async def measure_claims(self) -> dict[str, float]:
        held: list[list[Claim]] = []

        async def offer(count: int) -> None:
            await self._publish("fleet.one", count)
            await self._mover.look()

        async def claim() -> None:
            terms = ClaimTerms(
                token=uuid4(), listener_id=self._listener_id, worker_id=1, limit=2 * MANY, rows=2 * MANY, piece=MANY,
                lease=60.0,
            )  # fmt: skip
            held.append((await deliveries.claim(self._store, terms, expects_cuts=False)).claims)

        async def settle() -> None:
            values, _, _ = settlement(
                [_handled(one) for one in held.pop()], listener_id=self._listener_id, worker="fleet-1", blocking=False
            )
            await deliveries.settle_deliveries(self._store, values)

        async def prepare(count: int) -> None:
            await offer(count)
            await claim()

        while True:  # what the looks have left
            await claim()
            if not held[-1]:
                break
            await settle()
        held.clear()
        nothing, _ = await self._cpu(self._working, claim)
        held.clear()
        figures: dict[int, tuple[float, float]] = {}
        for count in (1, MANY):

            async def settled(count: int = count) -> None:
                await offer(count)
                while held:
                    await settle()

            claimed, _ = await self._cpu(self._working, claim, settled)
            while held:
                await settle()
            ended, _ = await self._cpu(self._working, settle, lambda count=count: prepare(count))  # type: ignore[misc]
            figures[count] = claimed, ended
        claim_event, settle_event = (
            (many - one) / (MANY - 1) for one, many in zip(figures[1], figures[MANY], strict=True)
        )
        return {
            "claim_nothing": nothing,
            "claim": figures[1][0] - claim_event,
            "claim_event": claim_event,
            "settle": figures[1][1] - settle_event,
            "settle_event": settle_event,
        }

    async def measure_sessions(self) -> dict[str, float]:
        idle_look, _ = await self._cpu(self._working, lambda: sequencer.find_leader(self._store))
        alone, _ = await self._cpu(self._publisher, self._notify)
        hearers, connects = [], []
        heard = _Heard()
        for _ in range(HEARERS):
            session = await asyncpg.connect(self._dsn)
            connects.append(1e6 * cpu_of([session.get_server_pid()]))
            await session.add_listener("fleet", heard.note)
            hearers.append(session)
        pids = [session.get_server_pid() for session in hearers]
        earlier = cpu_of(pids)
        told, _ = await self._cpu(self._publisher, self._notify, heard.all_of(HEARERS))
        await heard.all_of(HEARERS)()
        hear = 1e6 * (cpu_of(pids) - earlier) / heard.count
        for session in hearers:
            await session.close()
        return {
            "idle_look": idle_look,
            "notify": alone,
            "notify_session": (told - alone) / HEARERS,
            "hear": hear,
            "connect": quantile(connects, 0.1),
            "session_kb": _private_kb(self._working.get_server_pid()),
        }

    async def _notify(self) -> None:
        await self._publisher.execute("SELECT pg_notify('fleet', '1,2,3')")


class _Heard:
    """Counts notifications, so that the next one is sent when all sessions have heard the last."""

    def __init__(self) -> None:
        self.count = 0
        self._sent = 0
        self._changed = asyncio.Event()

    def note(self, *_: object) -> None:
        self.count += 1
        self._changed.set()

    def all_of(self, sessions: int) -> Work:
        async def wait() -> None:
            while self.count < self._sent * sessions:
                self._changed.clear()
                await asyncio.wait_for(self._changed.wait(), PATIENCE)
            self._sent += 1

        return wait


def _handled(claim: Claim) -> HeldClaim:
    held = HeldClaim(claim, now=0.0)
    for index in range(claim.size):
        held.end(index, DONE, started=1_700_000_000.0 + index * 0.00002, duration=0.00001)
    return held


def _private_kb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return float(sum(int(line.split()[1]) for line in lines if line.startswith("Private_")))


async def _count_sessions(dsn: str, bus: pgbus.Bus) -> float:
    """Most sessions of a worker while events come, of two that share a listener; without the one of the leader."""
    connection = await asyncpg.connect(dsn)
    question = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'pgbus%'"
    async with AsyncExitStack() as stack:
        stack.push_async_callback(connection.close)
        await bus.publish(OrderPlaced(0))  # opens a session of our own
        own = int(await connection.fetchval(question))
        for _ in range(2):
            await stack.enter_async_context(worker_process(dsn, bus.config.namespace))
        most = 0
        for number in range(BURSTS):
            await bus.publish_many([OrderPlaced(number)] * 20)
            await asyncio.sleep(BURST)
            most = max(most, int(await connection.fetchval(question)))
    return (most - own - 1) / 2
