"""A bus, and the command line, in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import pgbus
from pgbus.cli.program import pgbus as command
from pgbus.leader import leader
from tests.support.workers import open_bus

Invoke = Callable[..., Coroutine[Any, Any, Result]]


@pytest.fixture(autouse=True)
def leaders_may_be_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep leading those who lead: on a busy machine, this process may be silent for longer than a second.

    What follows from silence is shown with processes, in `tests/chaos/test_frozen_leaders.py`.
    """
    silence = dict.fromkeys(("idle_session_timeout", "idle_in_transaction_session_timeout", "tcp_user_timeout"), "1min")
    monkeypatch.setattr(leader, "LEADER_SETTINGS", leader.LEADER_SETTINGS | silence)


@pytest.fixture
async def bus(database: str) -> AsyncIterator[pgbus.Bus]:
    async with open_bus(database) as opened:
        yield opened


@pytest.fixture
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def invoke(database: str, working_directory: Path) -> Invoke:
    """Run a command in a thread of this process, against a fresh database unless it says otherwise."""

    async def run(*arguments: str, dsn: str | None = database, text: str | None = None, columns: int = 160) -> Result:
        environ = {"PGBUS_DSN": dsn, "COLUMNS": str(columns)}
        return await asyncio.to_thread(CliRunner().invoke, command, arguments, input=text, env=environ)

    return run
