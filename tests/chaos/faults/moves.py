"""The bus moves to another server or database: failover to a standby, dump and restore."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg

from pgbus.embedded import EmbeddedPostgres, find_binaries
from tests.chaos.faults import DOWN, fault
from tests.chaos.world import DATABASE, SETTINGS, World
from tests.support import eventually


def lacks_tools() -> str | None:
    """Why no server can be copied here, or None."""
    missing = [
        one for one in ("pg_basebackup", "pg_dump", "pg_restore") if not Path(find_binaries().program(one)).exists()
    ]
    return f"needs {', '.join(missing)}" if missing else None


@fault("a synchronous standby is promoted", goal=DOWN, since="healed", lacks=lacks_tools)
async def promote(world: World) -> AsyncIterator[None]:
    async with standby(world) as successor:
        await asyncio.to_thread(world.server.kill)
        yield
        await take_over(world, successor)
        world.address.move(successor.dsn(DATABASE))
        world.address.reset()


@fault("the address moves, then the standby is promoted", goal=DOWN, since="healed", lacks=lacks_tools)
async def move_first(world: World) -> AsyncIterator[None]:
    async with standby(world) as successor:
        await asyncio.to_thread(world.server.kill)
        world.address.move(successor.dsn(DATABASE))
        world.address.reset()
        await asyncio.sleep(4)
        yield
        await take_over(world, successor)


@fault("the database is dumped and restored", goal=DOWN, since="healed", lacks=lacks_tools)
async def dump_and_restore(world: World) -> AsyncIterator[None]:
    """Under the name of the old one, with a backlog: workers that come back find a copy."""
    for worker in world.team:
        worker.signal(signal.SIGSTOP)
    await asyncio.sleep(1)
    world.address.refuse()
    for worker in world.team:
        worker.signal(signal.SIGCONT)
    yield
    await _alone(world)
    dump = str(world.server.datadir.parent / "dump")
    await _run("pg_dump", "--format=custom", "--compress=0", f"--file={dump}", world.server.dsn(DATABASE))
    await world.forget_sessions()
    world.server.create_database("restored")
    await _run("pg_restore", f"--dbname={world.server.dsn('restored')}", dump)
    Path(dump).unlink()
    keeper = await asyncpg.connect(world.server.dsn("postgres"))
    await keeper.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)")
    await keeper.execute(f"ALTER DATABASE restored RENAME TO {DATABASE}")
    await keeper.close()
    # As the operator who moves it does, before the workers find a copy, and pause.
    operator = await asyncpg.connect(world.server.dsn(DATABASE))
    await operator.execute("CALL pgbus.operate('adopt', reason => 'moved')")
    await operator.close()
    await world.address.accept()


async def _alone(world: World) -> None:
    """Wait until no session of an application is left: whatever is dumped is then final."""

    async def nobody() -> bool:
        rows = await world.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'chaos_app'")
        return not rows

    await eventually(nobody, 30, message="sessions did not end")


@asynccontextmanager
async def standby(world: World) -> AsyncIterator[EmbeddedPostgres]:
    """A synchronous standby of the server; closed again unless it has taken over."""
    place = world.server.datadir.with_name(f"standby-{world.random.randrange(1_000_000)}")
    await _run(
        "pg_basebackup", "--wal-method=stream", "--write-recovery-conf", "--checkpoint=fast",
        f"--pgdata={place}", f"--dbname={world.server.dsn('postgres')}",
    )  # fmt: skip
    owner = world.server.datadir.stat()
    for one in (place, *place.rglob("*")):
        os.chown(one, owner.st_uid, owner.st_gid)
    successor = EmbeddedPostgres(place, listen=True, settings=SETTINGS)
    await asyncio.to_thread(successor.start)
    await world.sql("ALTER SYSTEM SET synchronous_standby_names = '*'")
    await world.sql("SELECT pg_reload_conf()")
    synchronous = "SELECT EXISTS (SELECT FROM pg_stat_replication WHERE sync_state = 'sync')"
    await eventually(lambda: world.value(synchronous))
    await asyncio.sleep(0.5)  # for commits that had begun, and do not wait for the standby
    try:
        yield successor
    finally:
        if world.server is not successor:
            await asyncio.to_thread(successor.close)


async def take_over(world: World, successor: EmbeddedPostgres) -> None:
    """Promote the standby, and make it the world's server."""
    former, world.server = world.server, successor
    connection = await asyncpg.connect(successor.dsn("postgres"))
    await connection.execute("ALTER SYSTEM RESET synchronous_standby_names")
    await connection.fetchval("SELECT pg_promote(true, 60)")
    await connection.execute("SELECT pg_reload_conf()")
    await connection.close()
    await world.forget_sessions()
    await asyncio.to_thread(former.close)
    await asyncio.to_thread(subprocess.run, ["rm", "-rf", str(former.datadir)], check=True)


async def _run(program: str, *arguments: str) -> None:
    """Run one of PostgreSQL's programs to its end."""
    binaries = find_binaries()
    process = await asyncio.create_subprocess_exec(
        binaries.program(program),
        *arguments,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **binaries.environment()},
    )
    _, said = await process.communicate()
    assert process.returncode == 0, said.decode()
