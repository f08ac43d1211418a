"""`pgbus dev`."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
from pathlib import Path

import pytest

from tests.conftest import Connect
from tests.support.ports import free_port
from tests.support.programs import PROGRAM, program, program_of


async def test_dev_prints_the_dsn_of_an_upgraded_server_and_ends_with_sigterm(tmp_path: Path, connect: Connect) -> None:
    async with program("dev", "--datadir", str(tmp_path / "data"), cwd=tmp_path) as child:
        assert child.stdout is not None
        [dsn] = shlex.split((await child.stdout.readline()).decode().removeprefix("export PGBUS_DSN="))
        connection = await connect(dsn)
        assert await connection.fetchval("SELECT count(*) FROM pgbus.outbox") == 0
        await connection.close()
        child.terminate()
        assert await child.wait() == 0
    assert (tmp_path / "data" / "PG_VERSION").exists()


async def test_dev_listens_on_a_port_and_leaves_nothing_behind_after_ctrl_c(tmp_path: Path, connect: Connect) -> None:
    port = free_port()
    async with program("dev", "--port", str(port), "--no-migrate", cwd=tmp_path) as child:
        assert child.stdout is not None
        [dsn] = shlex.split((await child.stdout.readline()).decode().removeprefix("export PGBUS_DSN="))
        assert f"@127.0.0.1:{port}/" in dsn
        connection = await connect(dsn)
        assert await connection.fetchval("SELECT to_regclass('pgbus.outbox')") is None
        data = Path(await connection.fetchval("SELECT current_setting('data_directory')"))
        server = int((data / "postmaster.pid").read_text().splitlines()[0])
        await connection.close()
        child.send_signal(signal.SIGINT)
        assert await child.wait() == 0
        assert child.stderr is not None
        assert dsn not in (await child.stderr.read()).decode()
    assert not data.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(server, 0)


async def test_dev_in_the_background_of_a_script_ends_with_sigterm(tmp_path: Path) -> None:
    # Without job control a shell has what it starts with `&` ignore SIGINT.
    script = f"'{PROGRAM}' dev --no-migrate & echo $!; wait"
    async with program_of("sh", "-c", script, cwd=tmp_path) as shell:
        assert shell.stdout is not None
        process = int(await shell.stdout.readline())
        assert (await shell.stdout.readline()).startswith(b"export PGBUS_DSN=")
        os.kill(process, signal.SIGTERM)
        assert await asyncio.wait_for(shell.wait(), 30) == 0
