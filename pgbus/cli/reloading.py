"""`pgbus run --reload`: restart a command when a source file below the working directory changes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

from pgbus.cli.group import fail
from pgbus.cli.signals import heed_signals
from pgbus.cli.supervisor import ask_to_end, start_copy

_log = logging.getLogger("pgbus.reload")


def run_reloading(command: Sequence[str]) -> None:
    """Run `command` until Ctrl-C, SIGTERM or SIGHUP, and restart it after each change to a source or configuration
    file.

    If the command ended by itself, for example with a syntax error, the next change restarts it.
    """
    try:
        import watchfiles  # noqa: F401 - only to say early that it is missing
    except ModuleNotFoundError:
        fail("--reload needs watchfiles: pip install 'pgbus[reload]'")
    asyncio.run(_reload(command, directory=_working_directory()))


def _working_directory() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError:
        fail("--reload cannot watch the working directory: it was removed")


async def _reload(command: Sequence[str], *, directory: Path) -> None:
    import watchfiles

    stopping = asyncio.Event()
    child = await start_copy(command)

    def stop() -> None:
        stopping.set()
        ask_to_end(child)

    heed_signals(stop)
    sources = watchfiles.PythonFilter(extra_extensions=(".toml", ".yaml", ".yml"))
    async for changes in watchfiles.awatch(directory, watch_filter=sources, stop_event=stopping):
        _log.info("restarting for %s", ", ".join(sorted({Path(path).name for _, path in changes})))
        ask_to_end(child)
        await child.wait()
        if stopping.is_set():
            break
        child = await start_copy(command)
    await child.wait()
