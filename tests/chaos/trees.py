"""Chaos for causes: five services, a request after another, and `kill -9` of random workers all the while.

    python -m tests.chaos.trees --kills 1000 --seed 7

Then each request must have exactly one tree, with all that is expected in it, and nothing may be outside of the trees.
Doubles are counted: a handler that is killed before it is done publishes again, unless it is transactional.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import UUID

import asyncpg

from pgbus import migrate
from pgbus.embedded import EmbeddedPostgres
from tests.chaos.stage import Stage, WorkerProcess, until_terminated
from tests.support.waiting import eventually

ROOT_TOPIC = "tree.ordered"
CHILDREN: dict[str, tuple[str, ...]] = {
    ROOT_TOPIC: ("tree.reserved", "tree.bank", "tree.charged"),
    "tree.charged": ("tree.mailed",),
    "tree.mailed": ("tree.reported",),
}
"""What each event causes; a call may end without having published, but not all calls of one event."""
EXACT = {"tree.mailed", "tree.reported"}
"""What transactional handlers publish."""
SERVICES = ("stock", "payments", "bank", "mail", "reports")  # of tree_service, which creates a bus when imported
PATIENCE = 300.0
UNFINISHED = 100
"""How many requests may be on their way, so that a busy machine is not buried under them."""

# All events and calls, by what they say themselves.
NODES = """
SELECT event_id AS id, topic AS name, CAST(headers ->> 'causation_id' AS uuid) AS causation_id,
       COALESCE(headers ->> 'correlation_id', CAST(event_id AS text)) AS correlation_id
FROM pgbus.events
UNION
SELECT call_id, procedure, CAST(headers ->> 'causation_id' AS uuid),
       COALESCE(headers ->> 'correlation_id', CAST(call_id AS text))
FROM pgbus.rpc_calls
UNION
SELECT id, name, causation_id, correlation_id FROM pgbus.causes WHERE kind = 'call'
"""
TREES = f"""
SELECT r.event_id AS root, t.depth, t.id, t.causation_id
FROM pgbus.events AS r
CROSS JOIN LATERAL pgbus.event_tree(r.event_id) AS t
WHERE r.topic = '{ROOT_TOPIC}'
"""
ENDED = """
SELECT count(DISTINCT headers ->> 'correlation_id') FROM pgbus.events WHERE topic = 'tree.reported'
"""
WORKING = "SELECT pid FROM pgbus.live_workers WHERE last_seen_at > started_at"


@dataclass
class Verdict:
    """The outcome. All from `orphans` on must be 0; the numbers before them say how much was tried."""

    trees: int
    events: int
    calls: int
    doubles: int
    """Events that one cause has caused more than once, as at least once allows."""
    orphans: int
    """Their `causation_id` names no event or call, or they have none although they are not requests."""
    strangers: int
    """Their `correlation_id` is another one than that of their request."""
    outside: int
    """They are in no tree, or in several, or not below their cause."""
    missing: int
    """What an event should have caused and has not."""
    twice: int
    """What a transactional handler has published more than once for an event."""
    dead: int
    """Dead letters."""

    @property
    def broken(self) -> dict[str, int]:
        names = ("orphans", "strangers", "outside", "missing", "twice", "dead")
        return {name: found for name in names if (found := getattr(self, name))}


async def judge(connection: asyncpg.Connection) -> Verdict:
    """Compare what events and calls say themselves, and what should be there, with the trees."""
    nodes = {row["id"]: row for row in await connection.fetch(NODES)}
    roots = {id_ for id_, node in nodes.items() if node["name"] == ROOT_TOPIC}

    def request(id_: UUID) -> UUID:
        """The first cause, as far as causes are there."""
        seen: set[UUID] = set()
        while (cause := nodes[id_]["causation_id"]) in nodes and id_ not in seen:
            seen.add(id_)
            id_ = cause
        return id_

    rows = await connection.fetch(TREES)
    places = Counter(row["id"] for row in rows)
    placed = {
        row["id"]
        for row in rows
        if row["id"] in nodes
        and row["root"] == request(row["id"])
        and row["causation_id"] == nodes[row["id"]]["causation_id"]
        and (row["depth"] == 0) == (row["id"] == row["root"])
    }
    children: dict[UUID, Counter[str]] = {id_: Counter() for id_ in nodes}
    booked = set()
    for node in nodes.values():
        if (cause := node["causation_id"]) in nodes:
            children[cause][node["name"]] += 1
            if node["name"] == "tree.booked":
                booked.add(nodes[cause]["causation_id"])
    expected = [(id_, child) for id_, node in nodes.items() for child in CHILDREN.get(node["name"], ())]
    again = Counter[str]()
    for of_cause in children.values():
        again.update({name: count - 1 for name, count in of_cause.items()})
    calls = sum(node["name"] == "tree.bank" for node in nodes.values())
    return Verdict(
        trees=len(roots),
        events=len(nodes) - calls,
        calls=calls,
        doubles=sum(again.values()) - again["tree.bank"],
        orphans=sum(node["causation_id"] not in nodes and id_ not in roots for id_, node in nodes.items()),
        strangers=sum(node["correlation_id"] != str(request(id_)) for id_, node in nodes.items()),
        outside=sum(id_ not in placed or places[id_] != 1 for id_ in nodes) + len(places.keys() - nodes.keys()),
        missing=sum(not children[id_][child] for id_, child in expected) + len(roots - booked),
        twice=sum(again[name] for name in EXACT),
        dead=await connection.fetchval("SELECT count(*) FROM pgbus.dead_letters"),
    )


async def run(stage: Stage, *, kills: int, seed: int, workers: int = 5, rate: float = 10.0) -> Verdict:
    """Publish, kill and start again; then wait until all is done, and judge."""
    enough = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        publishing = tasks.create_task(_publish(stage, rate, enough))
        await _kill(stage, kills, random.Random(seed), workers)
        enough.set()
    requests = publishing.result()
    own = stage.connection
    await eventually(lambda: _ended(own, requests), PATIENCE, message=f"{requests} requests did not come to an end")
    await stage.settled(PATIENCE)
    verdict = await judge(stage.connection)
    assert verdict.trees == requests
    for row in await stage.connection.fetch("SELECT * FROM pgbus.dead"):
        print(dict(row), file=sys.stderr)  # noqa: T201 - what a dead letter died of
    return verdict


async def _kill(stage: Stage, kills: int, chance: random.Random, workers: int) -> None:
    team = [(name, await _start(stage, name)) for _ in range(workers // len(SERVICES)) for name in SERVICES]
    for kill in range(1, kills + 1):
        # While each service has one that works: else requests would only wait, and kills meet none of their work.
        working = await eventually(lambda: _working(stage, team), PATIENCE, message="a service does not work")
        service, victim = chance.choice(working)
        await asyncio.sleep(chance.random() * 0.2)  # anywhere in its work
        await victim.kill()
        stage.workers.remove(victim)
        team[team.index((service, victim))] = (service, await _start(stage, service))
        if kill % 50 == 0:
            print(f"{kill} kills", file=sys.stderr, flush=True)  # noqa: T201 - its progress


async def _start(stage: Stage, service: str) -> WorkerProcess:
    return await stage.start(module="tests.chaos.tree_service", CHAOS_SERVICE=service)


async def _working(stage: Stage, team: list[tuple[str, WorkerProcess]]) -> list[tuple[str, WorkerProcess]]:
    """The workers that work, if each service has one."""
    pids = {row["pid"] for row in await stage.connection.fetch(WORKING)}
    for _, worker in team:
        assert worker.lives, f"a worker ended by itself: {worker.log[-3000:]}"
    working = [one for one in team if one[1].pid in pids]
    return working if len({service for service, _ in working}) == len(SERVICES) else []


async def _ended(connection: asyncpg.Connection, count: int) -> bool:
    return int(await connection.fetchval(ENDED)) >= count


async def _publish(stage: Stage, rate: float, enough: asyncio.Event) -> int:
    """A steady stream of requests; returns their number."""
    connection = await asyncpg.connect(stage.dsn)
    try:
        number = 0
        while not enough.is_set():
            number += 1
            await stage.bus.publish({"n": number}, topic=ROOT_TOPIC)
            await eventually(functools.partial(_ended, connection, number - UNFINISHED), PATIENCE)
            await asyncio.sleep(1 / rate)
        return number
    finally:
        connection.terminate()


def as_markdown(verdict: Verdict, *, kills: int, seed: int, seconds: float) -> str:
    told = {"kills": kills, **asdict(verdict), "seed": seed, "minutes": round(seconds / 60, 1)}
    lines = (" | ".join(one) for one in (told, ["---"] * len(told), [f"{value:,}" for value in told.values()]))
    return "\n".join(f"| {line} |" for line in lines)


async def _run_alone(kills: int, seed: int, workers: int, rate: float) -> Verdict:
    with tempfile.TemporaryDirectory(prefix="pgbus-trees-") as directory, EmbeddedPostgres() as server:
        server.create_database("trees")
        dsn = server.dsn("trees")
        await asyncio.to_thread(migrate.upgrade, dsn)
        with contextlib.redirect_stdout(sys.stderr):
            async with Stage(dsn, logs=Path(directory)) as stage:
                return await run(stage, kills=kills, seed=seed, workers=workers, rate=rate)


def main() -> int:
    """Exit code 1 where something must be 0 and is not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=None, help="What decides which worker is killed, and when")
    parser.add_argument("--workers", type=int, default=10, help="A multiple of five, the number of services")
    parser.add_argument("--rate", type=float, default=10.0, help="Requests per second, at most")
    given = parser.parse_args()
    seed = random.randrange(1_000_000) if given.seed is None else given.seed
    began = time.monotonic()
    verdict = asyncio.run(until_terminated(_run_alone(given.kills, seed, given.workers, given.rate)))
    print(as_markdown(verdict, kills=given.kills, seed=seed, seconds=time.monotonic() - began))  # noqa: T201
    return 1 if verdict.broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
