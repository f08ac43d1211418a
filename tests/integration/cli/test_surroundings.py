"""The command line where its surroundings are not as usual: streams, working directory, terminal, server."""

from __future__ import annotations

import asyncio
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import Invoke
from tests.support.programs import PROGRAM, at_work, program, program_environ, run_program, talking
from tests.support.rows import Rows
from tests.support.terminal import terminal
from tests.support.waiting import eventually

BUS = "import pgbus\nbus = pgbus.create()\n"
SLOW = """
import asyncio, pathlib
import pgbus

bus = pgbus.create()

@bus.listener("slow", name="slow")
async def slow(event: dict) -> None:
    pathlib.Path("begun").touch()
    while not pathlib.Path("go").exists():
        await asyncio.sleep(0.01)
    pathlib.Path("ended").touch()
"""


@pytest.fixture(autouse=True)
def heeded_hangups() -> Iterator[None]:
    """Programs heed SIGHUP as in a terminal, also where the tests run under nohup, which has it ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def run_shell(script: str, *, cwd: Path, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a line of sh in which $PGBUS is the program."""
    given = program_environ({"PGBUS": PROGRAM, "PYTHONUNBUFFERED": "", **environ})
    return subprocess.run(
        ["bash", "-c", script], cwd=cwd, env=given, capture_output=True, text=True, timeout=180, check=False
    )


# ------------------------------------------------------------------------------------------------------------- streams


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(("command", "unbuffered"), [("--help", ""), ("config", "1"), ("status", ""), ("status", "1")])
def test_a_full_stdout_is_one_line_and_exit_code_1(
    tmp_path: Path, database: str, command: str, unbuffered: str
) -> None:
    environ = {"PGBUS_DSN": database, "PYTHONUNBUFFERED": unbuffered}
    done = run_shell(f'"$PGBUS" {command} > /dev/full', cwd=tmp_path, environ=environ)
    assert re.fullmatch(r"pgbus: (cannot write to stdout: )?No space left on device\n", done.stderr)
    assert done.returncode == 1


@pytest.mark.parametrize(("command", "unbuffered"), [("--help", ""), ("config", "1"), ("db sql", ""), ("status", "")])
def test_a_reader_that_has_seen_enough_is_told_nothing(
    tmp_path: Path, database: str, command: str, unbuffered: str
) -> None:
    environ = {"PGBUS_DSN": database, "PYTHONUNBUFFERED": unbuffered}
    done = run_shell(f'"$PGBUS" {command} | true', cwd=tmp_path, environ=environ)
    assert done.stderr == ""


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_do_no_harm(tmp_path: Path, database: str, closed: str) -> None:
    environ = {"PGBUS_DSN": database}
    assert run_shell(f'"$PGBUS" publish a.b {{}} {closed}', cwd=tmp_path, environ=environ).returncode == 0


@pytest.mark.parametrize("lost", [">&- 2>&-", "2>&1 | head -1", "> /dev/full 2> /dev/full"])
async def test_a_worker_whose_output_is_lost_works_and_stops_as_told(
    tmp_path: Path, database: str, rows: Rows, lost: str
) -> None:
    (tmp_path / "bus.py").write_text(SLOW)
    (tmp_path / "go").touch()
    await rows.listener("slow", "slow")  # so that it is owed what was published before the worker came
    await rows.connection.execute("INSERT INTO pgbus.outbox (topic, payload) VALUES ('slow', '{}')")
    done = run_shell(
        f"""
        set -o pipefail
        ("$PGBUS" run & echo $! > pid; wait $!) {lost} &
        for wait in $(seq 1000); do test -e ended && break; sleep 0.05; done
        kill $(cat pid); wait $!
        """,
        cwd=tmp_path,
        environ={"PGBUS_DSN": database},
    )
    assert (done.returncode, (tmp_path / "ended").exists()) == (0, True), done.stderr


async def test_what_an_ascii_stream_cannot_show_is_escaped(tmp_path: Path, database: str, rows: Rows) -> None:
    await rows.event(1, topic="a.b", payload={"n": "é…"}, key="☃")
    ascii_only = {"PGBUS_DSN": database, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    done = run_program("events", cwd=tmp_path, environ=ascii_only)
    assert (done.returncode, done.stderr) == (0, "")
    assert r"key \u2603" in done.stdout
    assert r'{"n": "\xe9\u2026"}' in done.stdout


# --------------------------------------------------------------------------------------------------- working directory


def test_in_a_directory_that_was_removed_commands_work(tmp_path: Path, database: str) -> None:
    def there(command: str) -> subprocess.CompletedProcess[str]:
        return run_shell(
            f'mkdir d; cd d; rmdir ../d; "$PGBUS" {command}', cwd=tmp_path, environ={"PGBUS_DSN": database}
        )

    for command in ("config", "status", "publish a.b {}"):
        assert there(command).returncode == 0
    told = there("run")
    assert told.returncode == 1
    assert "there is no module 'bus' in the working directory, which was removed" in told.stderr
    told = there("run --reload")
    assert told.stderr == "pgbus: --reload cannot watch the working directory: it was removed\n"


# ------------------------------------------------------------------------------------------------------------ terminal


@pytest.mark.parametrize("arguments", [(), ("--processes", "2"), ("--reload",)])
async def test_a_worker_whose_terminal_is_gone_lets_its_handlers_finish(
    tmp_path: Path, database: str, rows: Rows, arguments: tuple[str, ...]
) -> None:
    (tmp_path / "bus.py").write_text(SLOW)
    async with terminal(PROGRAM, "run", *arguments, cwd=tmp_path, environ={"PGBUS_DSN": database}) as worker:
        await worker.shows("leading")
        await at_work(rows.connection)
        await rows.connection.execute("INSERT INTO pgbus.outbox (topic, payload) VALUES ('slow', '{}')")
        await eventually((tmp_path / "begun").exists, 60)
        worker.hang_up()
        worker.child.send_signal(signal.SIGHUP)  # as a shell does, too
        (tmp_path / "go").touch()
        assert await worker.ends() == 0, worker
    await eventually((tmp_path / "ended").exists, 60)
    assert await rows.connection.fetchval("SELECT outcome FROM pgbus.event_history") == "done"


async def test_a_hangup_does_not_hurry_a_stop_that_has_begun(tmp_path: Path, database: str, rows: Rows) -> None:
    (tmp_path / "bus.py").write_text(SLOW)
    async with talking("run", cwd=tmp_path, environ={"PGBUS_DSN": database}) as worker:
        await worker.says("leading")
        await at_work(rows.connection)
        await rows.connection.execute("INSERT INTO pgbus.outbox (topic, payload) VALUES ('slow', '{}')")
        await eventually((tmp_path / "begun").exists, 60)
        worker.child.terminate()
        worker.child.send_signal(signal.SIGHUP)
        (tmp_path / "go").touch()
        assert await worker.ends() == 0, worker
    assert (tmp_path / "ended").exists()


async def test_a_worker_under_nohup_outlives_its_terminal(tmp_path: Path, database: str, rows: Rows) -> None:
    (tmp_path / "bus.py").write_text(SLOW)
    (tmp_path / "go").touch()
    script = f"trap '' HUP; exec '{PROGRAM}' run"
    child = await asyncio.create_subprocess_exec(
        "sh", "-c", script, cwd=tmp_path, env=program_environ({"PGBUS_DSN": database}), stderr=subprocess.PIPE
    )
    assert child.stderr is not None
    while b"leading" not in await child.stderr.readline():
        pass
    child.send_signal(signal.SIGHUP)
    await at_work(rows.connection)
    await rows.connection.execute("INSERT INTO pgbus.outbox (topic, payload) VALUES ('slow', '{}')")
    await eventually((tmp_path / "ended").exists, 60)
    child.terminate()
    await child.communicate()
    assert child.returncode == 0


async def test_a_worker_ends_whose_database_is_stopped_at_the_same_moment(tmp_path: Path) -> None:
    (tmp_path / "bus.py").write_text(BUS)
    async with program("dev", cwd=tmp_path) as server:
        assert server.stdout is not None
        [dsn] = shlex.split((await server.stdout.readline()).decode().removeprefix("export PGBUS_DSN="))
        async with talking("run", cwd=tmp_path, environ={"PGBUS_DSN": dsn}) as worker:
            await worker.says("leading")
            worker.child.terminate()
            server.terminate()
            assert await worker.ends() == 0, worker


async def test_dev_stops_its_server_when_the_terminal_is_gone(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with program("dev", "--no-migrate", "--datadir", str(data), cwd=tmp_path) as child:
        assert child.stdout is not None
        await child.stdout.readline()
        assert (data / "postmaster.pid").exists()
        child.send_signal(signal.SIGHUP)
        assert await asyncio.wait_for(child.wait(), 60) == 0
    assert not (data / "postmaster.pid").exists()


# ---------------------------------------------------------------------------------------------------------- the server


EVERYTHING = [
    "status", "inspect", "inspect --calls", "events", "dead list", "dead show 1", "dead retry --all",
    "dead discard --all", "listeners list", "listeners pause mailer", "listeners resume mailer",
    "listeners reset mailer --to now", "listeners remove mailer", "schedules list", "schedules history tidy",
    "schedules pause tidy", "schedules run tidy", "schedules remove tidy", "schema dump", "db current", "db check",
    "db roles", "publish a.b {}", "call a.b --timeout 1",
]  # fmt: skip


@pytest.mark.parametrize("setting", ["default_transaction_read_only = on", "statement_timeout = '1ms'"])
async def test_what_the_server_refuses_is_one_line_and_never_a_bug(
    invoke: Invoke, working_directory: Path, database: str, rows: Rows, setting: str
) -> None:
    """A standby, or a role whose statements may not take long: nothing that could be mended in pgbus."""
    await rows.listener("mailer")
    name = database.rpartition("/")[2].partition("?")[0]
    await rows.connection.execute(f'ALTER DATABASE "{name}" SET {setting}')
    for command in EVERYTHING:
        result = await invoke(*command.split())
        assert result.exit_code in range(9), (command, result.stderr)
        assert result.stderr.count("\n") <= 1, (command, result.stderr)


def test_schemas_on_stdin_that_are_not_utf_8_are_one_line(tmp_path: Path, database: str) -> None:
    (tmp_path / "bus.py").write_text(BUS)
    for locale in ("C", "C.UTF-8"):
        environ = {"PGBUS_DSN": database, "LC_ALL": locale}
        done = run_shell(r"""printf '\377\376' | "$PGBUS" run --schema -""", cwd=tmp_path, environ=environ)
        assert done.returncode == 1
        assert re.fullmatch(r"pgbus: <stdin> is not JSON: .*\n", done.stderr)
