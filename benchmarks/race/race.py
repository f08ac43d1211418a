"""Runs peers in turn: pass by pass, workload by workload, each peer on a database of its own on the same server."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from benchmarks.race.environments import DIRECTORY, ROOT, Environment, NotInstalledError, prepare
from benchmarks.race.meter import Meter
from benchmarks.race.peers_table import PEERS, Entry
from benchmarks.race.process import PeerError, started
from benchmarks.race.redis import running_redis
from benchmarks.race.results import Results
from benchmarks.race.workloads import RUNS, Track

# Below this, what a process does once is a large part of the figures.
ENOUGH = 10_000
ENVIRONMENTS = (
    "Each peer has an environment of its own under `.race/`, made on first use, with the versions above. Its settings "
    "are the constants at the top of its program in `benchmarks/race/peers/`, with their reasons."
)
READING = (
    "Every figure is the median of the passes, with the smallest and the largest. After each run the number of handled "
    "events must equal that of the published ones, with nothing left in the database; a run that fails this, or takes "
    "too long, is listed. Client, worker and server share the machine's cores: compare the ratios and the CPU within "
    "one table."
)


@dataclass(frozen=True)
class Plan:
    """The runs of a race. `minutes` bounds the whole, without installations: no pass begins that would end later."""

    peers: Sequence[str]
    workloads: Sequence[str]
    events: int
    passes: int
    minutes: float

    def told(self) -> str:
        return f"{self.events:,} events per run, {self.passes} passes at most, in turn"

    def warning(self) -> str:
        """A paragraph for the page of a run that is too small for conclusions, or nothing."""
        if self.events >= ENOUGH and self.passes > 1:
            return ""
        return (
            "\n\n**A small run: it shows that everything works. Do not draw conclusions from its figures**, as what a "
            "process does once is a large part of them."
        )

    def how(self) -> list[str]:
        command = f"make race PEERS={','.join(self.peers)} WORKLOADS={','.join(self.workloads)} "
        return [
            f"    {command}N={self.events} PASSES={self.passes} MINUTES={self.minutes:g}",
            ENVIRONMENTS,
            READING,
        ]


async def race(dsn: str, plan: Plan) -> Results:
    """Run the plan on this server, and print each figure as it comes."""
    results = Results()
    environments = await _environments(plan, results)
    began = time.monotonic()
    for number in range(plan.passes):
        if number and (time.monotonic() - began) * (number + 1) / number > 60 * plan.minutes:
            print(f"pass {number + 1} would take too long: {number} passes", flush=True)
            break
        for workloads, run in RUNS.items():
            if not set(workloads) & set(plan.workloads):
                continue
            for name, environment in environments.items():
                entry = PEERS[name]
                if not set(workloads) & set(entry.workloads):
                    continue
                if time.monotonic() - began > 60 * plan.minutes:
                    results.failures.append(f"the time was over: nothing ran from {entry.title}, {workloads[0]} on")
                    return results
                label = f"pass {number + 1}, {entry.title}, {', '.join(workloads)}"
                try:
                    async with open_track(dsn, entry, environment, plan) as track:
                        found = await run(track)
                except (PeerError, TimeoutError) as error:
                    print(f"{label}: {error}", flush=True)
                    results.failures.append(f"{label}: {error}")
                    continue
                chosen = {one: figures for one, figures in found.items() if one in plan.workloads}
                results.add(name, chosen)
                for one, figures in chosen.items():
                    told = ", ".join(f"{key} {value:,.2f}" for key, value in figures.items())
                    print(f"pass {number + 1}, {one}, {entry.title}: {told}", flush=True)
    return results


async def _environments(plan: Plan, results: Results) -> dict[str, Environment]:
    """Those of the peers that can be installed, in the plan's order; the others are skipped with their reason."""
    ready = {}
    for name in plan.peers:
        entry = PEERS[name]
        try:
            if entry.missing:
                raise NotInstalledError(entry.missing)
            environment = await prepare(entry)
            async with started(
                environment.command,
                ["postgresql:///none", ""],
                environ=environment.environ,
                directory=ROOT,
                log=_log(entry),
            ) as program:
                results.versions[name] = (await program.ask("versions"))["versions"]
        except (NotInstalledError, PeerError) as error:
            print(f"skipped {entry.title}: {error}", flush=True)
            results.skipped[name] = str(error)
            continue
        ready[name] = environment
    return ready


@asynccontextmanager
async def open_track(dsn: str, entry: Entry, environment: Environment, plan: Plan) -> AsyncIterator[Track]:
    """A new database, and a new Redis where the peer needs one."""
    async with AsyncExitStack() as stack:
        control = await asyncpg.connect(dsn)
        stack.push_async_callback(control.close)
        name = f"race_{entry.name}"
        await control.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        await control.execute(f'CREATE DATABASE "{name}"')
        stack.push_async_callback(control.execute, "CHECKPOINT")
        stack.push_async_callback(control.execute, f'DROP DATABASE "{name}" WITH (FORCE)')
        own = urlunsplit(urlsplit(dsn)._replace(path=f"/{name}"))
        metering = await asyncpg.connect(own)
        stack.push_async_callback(metering.close)
        url, others = "", []
        if environment.redis_server:
            url, pid = await stack.enter_async_context(running_redis(environment.redis_server))
            others = [pid]
        yield Track(
            start=lambda: started(
                environment.command, [own, url], environ=environment.environ, directory=ROOT, log=_log(entry)
            ),
            meter=Meter(metering, others),
            events=max(100, int(plan.events * entry.part)),
            stretch=min(1.0, max(0.1, plan.events / 50_000)),
            latencies=min(200, max(20, plan.events // 50)),
        )


def _log(entry: Entry) -> str:
    DIRECTORY.mkdir(exist_ok=True)
    return str(DIRECTORY / f"{entry.name}.log")
