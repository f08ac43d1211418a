from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support import eventually

SUPERVISE = """
import json, sys
from pgbus.cli.supervisor import supervise
sys.exit(supervise(json.loads(sys.argv[1]), processes=int(sys.argv[2])))
"""

# A copy leaves a file named for its pid, then does what `DUTY` says; it counts the SIGTERMs that it gets.
COPY = """
import os, pathlib, signal, sys, time
place = pathlib.Path(sys.argv[1])
signals = []
def heard(*_):
    signals.append(1)
    (place / f"{os.getpid()}.signals").write_text(str(len(signals)))
signal.signal(signal.SIGTERM, heard)
(place / f"{os.getpid()}.started").write_text(os.environ["PGBUS_SUPERVISED"])
DUTY
"""
# No `signal.pause`: a signal that comes right before it is waited for in vain.
WAIT_FOR_ONE_SIGTERM = "while not signals: time.sleep(0.01)"
WAIT_FOR_TWO_SIGTERMS = "while len(signals) < 2: time.sleep(0.01)"
FAIL_ONCE = "sys.exit(0 if len(list(place.glob('*.started'))) > 1 else 70)"
FAIL_THEN_UNREACHABLE = "sys.exit([70, 4, 0][len(list(place.glob('*.started'))) - 1])"
END_WITH_STDIN = "sys.stdin.read(); (place / 'ended').touch()"


@asynccontextmanager
async def supervised(duty: str, *, place: Path, processes: int) -> AsyncIterator[asyncio.subprocess.Process]:
    command = json.dumps([sys.executable, "-c", COPY.replace("DUTY", duty), str(place)])
    supervisor = await asyncio.create_subprocess_exec(sys.executable, "-c", SUPERVISE, command, str(processes))
    try:
        yield supervisor
    finally:
        if supervisor.returncode is None:
            supervisor.kill()
        await supervisor.wait()


def count(place: Path, pattern: str, *, at_least: int) -> Callable[[], bool]:
    return lambda: len([path for path in place.glob(pattern) if path.read_text()]) >= at_least


async def test_each_copy_gets_the_signal_once_and_all_ends_well(tmp_path: Path) -> None:
    async with supervised(WAIT_FOR_ONE_SIGTERM, place=tmp_path, processes=3) as supervisor:
        await eventually(count(tmp_path, "*.started", at_least=3))
        supervisor.terminate()
        assert await supervisor.wait() == 0
    assert [path.read_text() for path in tmp_path.glob("*.signals")] == ["1", "1", "1"]


async def test_a_second_signal_is_passed_on_as_well(tmp_path: Path) -> None:
    async with supervised(WAIT_FOR_TWO_SIGTERMS, place=tmp_path, processes=2) as supervisor:
        await eventually(count(tmp_path, "*.started", at_least=2))
        supervisor.send_signal(signal.SIGINT)
        await eventually(count(tmp_path, "*.signals", at_least=2))
        supervisor.send_signal(signal.SIGINT)
        assert await supervisor.wait() == 0


async def test_a_copy_that_died_is_started_again(tmp_path: Path) -> None:
    async with supervised(FAIL_ONCE, place=tmp_path, processes=1) as supervisor:
        assert await supervisor.wait() == 0
    assert len(list(tmp_path.glob("*.started"))) == 2


async def test_a_copy_that_once_worked_is_started_again_until_the_database_is_back(tmp_path: Path) -> None:
    async with supervised(FAIL_THEN_UNREACHABLE, place=tmp_path, processes=1) as supervisor:
        assert await supervisor.wait() == 0
    assert len(list(tmp_path.glob("*.started"))) == 3


@pytest.mark.parametrize("code", [1, 2, 3, 4])
async def test_a_copy_that_only_a_person_can_help_stops_all(tmp_path: Path, code: int) -> None:
    first_fails = f"(place / 'first').exists() or ((place / 'first').touch(), sys.exit({code}))\n{WAIT_FOR_ONE_SIGTERM}"
    async with supervised(first_fails, place=tmp_path, processes=2) as supervisor:
        assert await supervisor.wait() == code


async def test_a_copy_does_not_outlive_its_supervisor(tmp_path: Path) -> None:
    async with supervised(END_WITH_STDIN, place=tmp_path, processes=1) as supervisor:
        await eventually(count(tmp_path, "*.started", at_least=1))
        supervisor.kill()
        await eventually((tmp_path / "ended").exists)
