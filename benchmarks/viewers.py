"""Measures what people who look cost: a worker's rate with five open pages of the dashboard, and without.

One worker drains stored events, in turn with and without the viewers. The dashboard is a process of its own on the same
cores; each viewer opens another page that is live, as a browser does, and reads its stream.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urljoin

import httpx

import pgbus
from benchmarks.figures import Figure, at_least
from benchmarks.support import Handled, OrderPlaced, fresh_bus, running

EVENTS = int(os.environ.get("PGBUS_BENCH_VIEWERS_EVENTS", "400000"))
PASSES = 3
CHUNK = 10_000
PAGES = ("", "listeners", "listeners/bench", "events", "workers")
_STREAM = re.compile(r'hx-sse:connect="([^"]+)"')


async def main(dsn: str) -> list[Figure]:
    """Return the rate with viewers as a part of that without."""
    ratios, rates, seen = [], [], []
    for number in range(PASSES):
        found = {}
        for watched in (False, True) if number % 2 else (True, False):  # neither is always first
            found[watched], messages = await _drain(dsn, watched=watched)
            seen.append(messages)
        ratios.append(found[True] / found[False])
        rates.append(found[False])
    note = f"{max(seen)} messages to them in a run; {min(rates):,.0f} to {max(rates):,.0f} events/s without"
    what = f"draining {EVENTS:,} events with {len(PAGES)} viewers of the dashboard: rate"
    return [Figure("", what, ratios, digits=3, baseline="no viewers", goal=at_least(0.97), note=note)]


async def _drain(dsn: str, *, watched: bool) -> tuple[float, int]:
    """Events per second, and messages that viewers got meanwhile."""
    async with fresh_bus(dsn) as bus:
        handled = Handled(bus)

        @bus.listener(OrderPlaced, name="bench")
        async def handle(event: OrderPlaced) -> None: ...

        await _register(bus)
        for start in range(0, EVENTS, CHUNK):
            await bus.publish_many([OrderPlaced(start + number) for number in range(CHUNK)])
        async with _viewers(dsn, bus.config.namespace, watched=watched) as messages:
            before = len(messages)
            started = time.perf_counter()
            async with running(bus):
                await handled.until(EVENTS)
                rate = EVENTS / (time.perf_counter() - started)
            return rate, len(messages) - before


async def _register(bus: pgbus.Bus) -> None:
    """Have the listener in the database, so that its page is there before it drains."""
    async with running(bus) as worker:
        await worker.ready.wait()


@asynccontextmanager
async def _viewers(dsn: str, namespace: str, *, watched: bool) -> AsyncIterator[list[str]]:
    """One viewer of each page, each of whom has got it; the list grows with each message of a stream."""
    messages: list[str] = []
    if not watched:
        yield messages
        return
    command = [sys.executable, "-m", "pgbus.cli", "dashboard", "--port", "0", "--dsn", dsn, "--namespace", namespace]
    server = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert server.stdout is not None
    address = ""
    while "http://" not in address:
        address = (await server.stdout.readline()).decode()
    [url] = re.findall(r"http://\S+", address)
    async with httpx.AsyncClient(timeout=None, follow_redirects=True) as client, asyncio.TaskGroup() as viewing:
        home = (await client.get(url)).raise_for_status().url
        first = [asyncio.Event() for _ in PAGES]
        tasks = [
            viewing.create_task(_watch(client, urljoin(str(home), page), messages, there))
            for page, there in zip(PAGES, first, strict=True)
        ]
        for there in first:
            await there.wait()
        try:
            yield messages
        finally:
            for task in tasks:
                task.cancel()
            server.terminate()
            await server.wait()


async def _watch(client: httpx.AsyncClient, url: str, messages: list[str], there: asyncio.Event) -> None:
    page = (await client.get(url)).raise_for_status()
    found = _STREAM.search(page.text)
    assert found, f"no stream in {url}"
    async with client.stream("GET", urljoin(str(page.url), found[1])) as stream:
        async for line in stream.aiter_lines():
            if not line:  # the end of a message
                messages.append(url)
                there.set()
