"""A host that disappears without closing its connections: a network of its own whose link is cut."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Network
from pathlib import Path

import asyncpg
import pytest

import pgbus.migrate
from pgbus.embedded import EmbeddedPostgres
from tests.support.programs import at_work
from tests.support.waiting import PATIENCE, eventually

ROOT = Path(__file__).parents[2]

CLIENT = """
import asyncio, sys
from pgbus.config import Config
from pgbus.database.connections import connect

async def main():
    connection = await connect(Config(dsn=sys.argv[1]))
    await connection.execute("SET application_name = 'vanishing'; LISTEN something")
    print("connected", flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""
SERVICE = """
import asyncio, os
import asyncpg
import pgbus

bus = pgbus.create(service_name="vanishing")


@bus.listener("orders.placed", name="take", transactional=True)
async def take(order: dict, connection: asyncpg.Connection) -> None:
    await connection.execute("INSERT INTO taken VALUES ($1, $2)", order["id"], os.environ["HOST"])
    print("took", order["id"], flush=True)
    if os.environ["HOST"] == "there":
        await asyncio.sleep(600)
"""
SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'vanishing'"
# Two runs on one machine must not share it: one of 32,768 in what is set aside for tests of networks (RFC 2544).
_SUBNET = random.choice(list(IPv4Network("198.18.0.0/15").subnets(new_prefix=30)))
OURS, THEIRS = map(str, _SUBNET.hosts())
# Seconds. Measured: 16 to 20; the rest is for a busy machine. By itself, a server notices after minutes or hours, and
# a lease is over after 60 seconds.
SOON = 45.0


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def network() -> Iterator[str]:
    """The name of a network namespace with one link to ours."""
    name = f"pgbus{uuid.uuid4().hex[:8]}"
    if (
        not shutil.which("ip")
        or subprocess.run(["ip", "netns", "add", name], check=False, capture_output=True).returncode
    ):
        pytest.skip("needs the right to make network namespaces")
    try:
        ip("link", "add", f"{name[:12]}a", "type", "veth", "peer", "name", "far", "netns", name)
        ip("addr", "add", f"{OURS}/30", "dev", f"{name[:12]}a")
        ip("link", "set", f"{name[:12]}a", "up")
        ip("-n", name, "addr", "add", f"{THEIRS}/30", "dev", "far")
        ip("-n", name, "link", "set", "far", "up")
        yield name
    finally:
        subprocess.run(
            ["ip", "link", "del", f"{name[:12]}a"], check=False, capture_output=True
        )  # at once, unlike the next
        ip("netns", "del", name)


@contextmanager
def reachable_server(directory: Path) -> Iterator[EmbeddedPostgres]:
    """A server that the network's other end reaches, too."""
    with EmbeddedPostgres(directory, listen=True, settings={"listen_addresses": f"127.0.0.1,{OURS}"}) as server:
        rules = server.datadir / "pg_hba.conf"
        rules.write_text(f"{rules.read_text()}\nhost all all {_SUBNET} trust\n")
        assert server.pid is not None
        os.kill(server.pid, signal.SIGHUP)
        yield server


def over_there(network: str, *command: str, **environ: str) -> Awaitable[asyncio.subprocess.Process]:
    """Run Python in the network."""
    return asyncio.create_subprocess_exec(
        "ip", "netns", "exec", network, sys.executable, *command,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, **environ},
    )  # fmt: skip


@pytest.mark.parametrize("is_busy", [False, True], ids=["idle", "with something under way to it"])
async def test_the_session_of_a_vanished_host_ends_within_20_seconds(
    network: str, tmp_path: Path, is_busy: bool
) -> None:
    with reachable_server(tmp_path / "data") as server:
        client = await over_there(network, "-c", CLIENT, server.dsn().replace("127.0.0.1", OURS))
        assert client.stdout is not None
        assert await client.stdout.readline() == b"connected\n"
        watcher = await asyncpg.connect(server.dsn())
        ip("-n", network, "link", "set", "far", "down")
        started = time.monotonic()
        if is_busy:  # keepalives are not sent while an answer to something else is awaited
            await watcher.execute("NOTIFY something")
        while await watcher.fetchval(SESSIONS):
            assert time.monotonic() - started < SOON
            await asyncio.sleep(0.5)  # nothing tells of the end of a session
        await watcher.close()
        client.kill()
        await client.communicate()


async def test_another_worker_leads_and_has_the_events_of_one_whose_host_disappeared(
    network: str, tmp_path: Path
) -> None:
    (tmp_path / "service.py").write_text(SERVICE)
    with reachable_server(tmp_path / "data") as server:
        pgbus.migrate.upgrade(server.dsn())
        watcher = await asyncpg.connect(server.dsn())
        await watcher.execute("CREATE TABLE taken (id int, host text)")
        command = ("-m", "pgbus.cli", "run", "service")
        environ = {"PYTHONPATH": f"{ROOT}:{tmp_path}", "PGBUS_GRACE": "1"}
        theirs = await over_there(
            network, *command, **environ, HOST="there", PGBUS_DSN=server.dsn().replace("127.0.0.1", OURS)
        )
        await read_until(theirs, "leading")
        await at_work(watcher)
        await watcher.execute("INSERT INTO pgbus.outbox (topic, payload) VALUES ('orders.placed', '{\"id\": 1}')")
        await read_until(theirs, "took 1")
        ours = await asyncio.create_subprocess_exec(
            sys.executable, *command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={**os.environ, **environ, "HOST": "here", "PGBUS_DSN": server.dsn()},
        )  # fmt: skip
        await read_until(ours, "take")
        ip("-n", network, "link", "set", "far", "down")
        started = time.monotonic()
        await watcher.execute("INSERT INTO pgbus.outbox (topic, payload) VALUES ('orders.placed', '{\"id\": 2}')")
        said = await read_until(ours, "took 1", "took 2", "leading", timeout=PATIENCE)
        assert time.monotonic() - started < SOON, said
        taken = "SELECT id, host FROM taken"
        await eventually(lambda: _has_rows(watcher, taken, 2))  # committed after they are said
        theirs.kill()
        ours.terminate()
        await asyncio.gather(theirs.communicate(), ours.communicate())
        assert sorted(map(tuple, await watcher.fetch(taken))) == [(1, "here"), (2, "here")]
        await watcher.close()


async def _has_rows(connection: asyncpg.Connection, query: str, count: int) -> bool:
    return len(await connection.fetch(query)) >= count


async def read_until(process: asyncio.subprocess.Process, *texts: str, timeout: float = PATIENCE) -> str:
    """What it prints, up to the line by which all these texts were there."""
    assert process.stdout is not None
    said = ""
    async with asyncio.timeout(timeout):
        while not all(text in said for text in texts):
            line = await process.stdout.readline()
            assert line, said
            said += line.decode()
    return said
