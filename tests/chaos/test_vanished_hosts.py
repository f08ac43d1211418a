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
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from pgbus.embedded import EmbeddedPostgres

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
SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'vanishing'"
_SUBNET = f"10.213.{random.randrange(256)}"  # two runs on one machine must not share it
OURS, THEIRS = f"{_SUBNET}.1", f"{_SUBNET}.2"


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
        ip("addr", "add", f"{OURS}/24", "dev", f"{name[:12]}a")
        ip("link", "set", f"{name[:12]}a", "up")
        ip("-n", name, "addr", "add", f"{THEIRS}/24", "dev", "far")
        ip("-n", name, "link", "set", "far", "up")
        yield name
    finally:
        subprocess.run(
            ["ip", "link", "del", f"{name[:12]}a"], check=False, capture_output=True
        )  # at once, unlike the next
        ip("netns", "del", name)


@pytest.mark.parametrize("is_busy", [False, True], ids=["idle", "with something under way to it"])
async def test_the_server_ends_the_session_of_a_host_that_disappeared_within_half_a_minute(
    network: str, tmp_path: Path, is_busy: bool
) -> None:
    with EmbeddedPostgres(tmp_path / "data", listen=True, settings={"listen_addresses": f"127.0.0.1,{OURS}"}) as server:
        rules = server.datadir / "pg_hba.conf"
        rules.write_text(f"{rules.read_text()}\nhost all all {OURS}/24 trust\n")
        assert server.pid is not None
        os.kill(server.pid, signal.SIGHUP)
        there = ("ip", "netns", "exec", network, sys.executable, "-c", CLIENT, server.dsn().replace("127.0.0.1", OURS))
        client = await asyncio.create_subprocess_exec(*there, stdout=subprocess.PIPE)
        assert client.stdout is not None
        assert await client.stdout.readline() == b"connected\n"
        watcher = await asyncpg.connect(server.dsn())
        ip("-n", network, "link", "set", "far", "down")
        started = time.monotonic()
        if is_busy:  # keepalives are not sent while an answer to something else is awaited
            await watcher.execute("NOTIFY something")
        while await watcher.fetchval(SESSIONS):
            assert time.monotonic() - started < 40
            await asyncio.sleep(0.5)  # nothing tells of the end of a session
        await watcher.close()
        client.kill()
        await client.communicate()
