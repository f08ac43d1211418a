from __future__ import annotations

import json
import os
import re
import signal
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol, get_args

import pytest

from pgbus import migrate
from pgbus.cli.banner import announce
from pgbus.config import Config, LogFormat
from tests.conftest import Connect
from tests.integration.conftest import Invoke
from tests.support import eventually
from tests.support.programs import Talking, at_work, run_program, talking
from tests.support.rows import Rows

NOWHERE = "postgresql://adam:s3cret@127.0.0.1:1/nothing"

SHOP = """
import asyncio, os, pathlib, sys, time
import pgbus

bus = pgbus.create(service_name="shop")
go = pathlib.Path("go")

def say(line):
    sys.stdout.write(line + "\\n")  # one write: those of two threads would interleave otherwise
    sys.stdout.flush()

@bus.listener("orders.*", name="mailer")
async def mailer(event: dict) -> None:
    say(f"mailer {event['n']} in {os.getpid()}")

@bus.listener("orders.placed", name="stock", concurrency=1)
def stock(event: dict) -> None:
    say(f"stock {event['n']}")

@bus.listener("slow.async", name="slow")
async def slow(event: dict) -> None:
    say(f"slow begins in {os.getpid()}")
    while not go.exists():
        await asyncio.sleep(0.01)
    say("slow ends")

@bus.listener("slow.thread", name="stuck")
def stuck(event: dict) -> None:
    say("stuck begins")
    while not go.exists():
        time.sleep(0.01)

@bus.listener("fragile.*", name="fragile", retry=1)
async def fragile(event: dict) -> None:
    if not go.exists():
        raise ValueError("not yet")
    say("fragile done")
"""
EMPTY = "import pgbus\nbus = pgbus.create()\n"


class Run(Protocol):
    """`pgbus run` with these arguments in a directory that holds `bus.py`, on a fresh database."""

    def __call__(self, *arguments: str, source: str = SHOP) -> AbstractAsyncContextManager[Talking]: ...


@pytest.fixture
def run(tmp_path: Path, database: str) -> Run:
    def start(*arguments: str, source: str = SHOP) -> AbstractAsyncContextManager[Talking]:
        (tmp_path / "bus.py").write_text(source)
        return talking("run", *arguments, cwd=tmp_path, environ={"PGBUS_DSN": database})

    return start


async def publish(rows: Rows, topic: str, n: int = 1) -> None:
    await rows.connection.execute(
        "INSERT INTO pgbus.outbox (topic, payload) VALUES ($1, $2)", topic, json.dumps({"n": n})
    )


async def outcomes(rows: Rows) -> list[tuple[str, str]]:
    found = await rows.connection.fetch(
        "SELECT listener_name, outcome FROM pgbus.event_history WHERE outcome IS NOT NULL ORDER BY 1, 2"
    )
    return [tuple(row) for row in found]


# -------------------------------------------------------------------------------------------------------------- working


async def test_run_handles_what_is_published_and_ends_with_sigterm(
    run: Run, rows: Rows, tmp_path: Path, database: str
) -> None:
    async with run() as worker:
        await worker.says("leading")
        await at_work(rows.connection)
        done = run_program("publish", "orders.placed", '{"n": 7}', cwd=tmp_path, environ={"PGBUS_DSN": database})
        assert done.returncode == 0
        await worker.says("mailer 7")
        await worker.says("stock 7")
        worker.child.terminate()
        assert await worker.ends() == 0
    assert await outcomes(rows) == [("mailer", "done"), ("stock", "done")]
    assert await rows.connection.fetchval("SELECT count(*) FROM pgbus.workers") == 0


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_run_works_and_ends_in_the_loop_that_is_asked_for(run: Run, rows: Rows, loop: str) -> None:
    source = SHOP.replace('say(f"mailer', 'say(f"{type(asyncio.get_running_loop()).__module__} mailer')
    async with run("--loop", loop, source=source) as worker:
        await worker.says("leading")
        await at_work(rows.connection)
        await publish(rows, "orders.placed")
        await worker.says(rf"^{loop}\S* mailer 1")
        await worker.says("stock 1")
        worker.child.terminate()
        assert await worker.ends() == 0


async def test_run_says_what_it_runs(run: Run) -> None:
    async with run("-k", "slow") as worker:
        await worker.says("leading")
        process = worker.child.pid
        shown = "\n".join(worker.err)
    assert re.search(rf"^pgbus      \d\S+, runs bus\nworker     \S+, process {process}\n", shown)
    assert re.search(r"^namespace  pgbus\nservice    shop\nlisteners  mailer +orders\.\*\n", shown, re.MULTILINE)
    assert re.search(r"^           stuck +slow\.thread$", shown, re.MULTILINE)
    assert "slow.async" not in shown
    assert "\x1b" not in shown


async def test_run_says_it_in_one_json_line_where_logs_are_json(run: Run) -> None:
    async with run("--log-format", "json") as worker:
        await worker.says('"leading"')
        records = [json.loads(line) for line in worker.err]
    [started] = [record for record in records if record["message"] == "started"]
    assert (started["bus"], started["pid"], started["service"]) == ("bus", worker.child.pid, "shop")
    assert started["listeners"]["mailer"] == ["orders.*"]


@pytest.mark.parametrize("log_format", get_args(LogFormat))
def test_the_password_is_not_told(
    log_format: LogFormat, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    announce(Config(dsn=NOWHERE), [], module="bus", format=log_format)
    told = capsys.readouterr().err + str([vars(record) for record in caplog.records])
    assert "adam:***@127.0.0.1:1/nothing" in told
    assert "s3cret" not in told


async def test_run_without_listeners_says_so(run: Run) -> None:
    async with run(source=EMPTY) as worker:
        await worker.says("^listeners  none$")
        await worker.says("no listeners to run")
        await worker.says("leading")
        worker.child.terminate()
        assert await worker.ends() == 0


async def test_run_of_chosen_listeners_leaves_the_others_their_events(run: Run, rows: Rows) -> None:
    for name in ("mailer", "stock"):
        await rows.listener(name, "orders.placed")
    async with run("--listener", "stock", "--listener", "mailer", "--skip", "mailer") as worker:
        await worker.says("leading")
        await publish(rows, "orders.placed")
        await worker.says("stock 1")
        worker.child.terminate()
        assert await worker.ends() == 0
    assert await outcomes(rows) == [("stock", "done")]
    assert await rows.connection.fetchval("SELECT listener_name FROM pgbus.pending") == "mailer"


@pytest.mark.parametrize(("target", "variable"), [("shop.app:events", None), (None, "shop.app:events")])
async def test_run_imports_a_module_of_a_package_and_a_bus_of_another_name(
    tmp_path: Path, database: str, target: str | None, variable: str | None
) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").touch()
    (tmp_path / "shop" / "app.py").write_text(EMPTY.replace("bus = ", "events = "))
    environ = {"PGBUS_DSN": database, **({"PGBUS_MODULE": variable} if variable else {})}
    async with talking("run", *([target] if target else []), cwd=tmp_path, environ=environ) as worker:
        await worker.says(r"runs shop\.app:events")
        await worker.says("leading")


async def test_options_reach_the_bus_that_the_module_makes(tmp_path: Path, database: str) -> None:
    migrate.upgrade(database, namespace="other")
    (tmp_path / "bus.py").write_text(EMPTY)
    async with talking(
        "run", "--dsn", database, "--namespace", "other", cwd=tmp_path, environ={"PGBUS_DSN": NOWHERE}
    ) as worker:
        await worker.says("^namespace  other")
        await worker.says("leading")


async def test_run_upgrades_first_if_told_and_says_nothing_of_it(
    tmp_path: Path, empty_database: str, connect: Connect
) -> None:
    (tmp_path / "bus.py").write_text(EMPTY)
    async with talking("run", "--migrate", cwd=tmp_path, environ={"PGBUS_DSN": empty_database}) as worker:
        await worker.says("leading")
        assert worker.err[0].startswith("pgbus ")
        assert "alembic" not in str(worker)
    connection = await connect(empty_database)
    assert await connection.fetchval("SELECT count(*) FROM pgbus.outbox") == 0


# ------------------------------------------------------------------------------------------------------------ operating


async def test_operators_pause_and_resume_a_running_listener(run: Run, rows: Rows, invoke: Invoke) -> None:
    async def pgbus(*arguments: str) -> str:
        result = await invoke(*arguments)
        assert result.exit_code == 0, result.stderr
        return result.stdout

    async with run() as worker:
        await worker.says("leading")
        await at_work(rows.connection)
        await pgbus("listeners", "pause", "stock")
        await publish(rows, "orders.placed")
        await worker.says("mailer 1")
        status = json.loads(await pgbus("status", "--json"))
        shown = {one["listener_name"]: (one["state"], one["lag_events"]) for one in status["listeners"]}
        assert (shown["stock"], shown["mailer"][0]) == (("paused", 1), "active")
        assert status["workers"][0]["pid"] == worker.child.pid
        assert status["leader"] == status["workers"][0]["name"]
        assert not [line for line in worker.out if line.startswith("stock")]
        await pgbus("listeners", "resume", "stock")
        await worker.says("stock 1")


async def test_operators_retry_a_dead_letter_of_a_running_listener(
    run: Run, rows: Rows, tmp_path: Path, invoke: Invoke
) -> None:
    async with run() as worker:
        await worker.says("leading")
        await at_work(rows.connection)
        await publish(rows, "fragile.thing")
        await worker.says("fragile gave up on event")
        await eventually(lambda: rows.connection.fetchval("SELECT count(*) FROM pgbus.dead"), 60)
        assert "ValueError: not yet" in (await invoke("dead", "show", "1")).stdout
        (tmp_path / "go").touch()
        assert (await invoke("dead", "retry", "1")).stdout == "retried 1 dead letter (operation 1)\n"
        await worker.says("fragile done")


async def test_a_listener_that_was_reset_to_now_on_an_empty_log_hears_the_first_event(
    run: Run, rows: Rows, invoke: Invoke
) -> None:
    await rows.listener("stock", "orders.placed")
    assert (await invoke("listeners", "reset", "stock", "--to", "now", "--yes")).exit_code == 0
    async with run() as worker:
        await worker.says("leading")
        await publish(rows, "orders.placed")
        await worker.says("stock 1")
    assert await rows.connection.fetchval("SELECT min(position) FROM pgbus.events") == 1


# ------------------------------------------------------------------------------------------------------------- stopping


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_lets_running_handlers_finish(
    run: Run, rows: Rows, tmp_path: Path, number: signal.Signals
) -> None:
    async with run() as worker:
        await worker.says("leading")
        await at_work(rows.connection)
        await publish(rows, "slow.async")
        await worker.says("slow begins")
        worker.child.send_signal(number)
        await worker.says(r"stopping; waiting up to \d+ s for listener slow \([\d.]+ [mµ]?s\); a second")
        await publish(rows, "orders.placed")
        (tmp_path / "go").touch()
        assert await worker.ends() == 0
        assert "slow ends" in worker.out
    assert ("slow", "done") in await outcomes(rows)


@pytest.mark.parametrize("handler", ["slow.async", "slow.thread"])
async def test_a_second_signal_ends_at_once_and_the_event_is_still_owed(run: Run, rows: Rows, handler: str) -> None:
    async with run() as worker:
        await worker.says("leading")
        await at_work(rows.connection)
        await publish(rows, handler)
        await worker.says("begins")
        worker.child.terminate()
        worker.child.send_signal(signal.SIGINT)
        assert await worker.ends() == 0
    assert await outcomes(rows) == []
    [owed] = await rows.connection.fetch("SELECT state, attempt FROM pgbus.pending")
    assert tuple(owed) == ("waiting", 1)


# --------------------------------------------------------------------------------------------------------------- copies


async def test_processes_share_the_work_and_one_that_was_killed_is_replaced(
    run: Run, rows: Rows, tmp_path: Path
) -> None:
    async with run("--processes", "2") as workers:
        await workers.says("^worker ")
        [other] = await workers.says(r"worker 2 is \S+, process \d+")
        first = int((await workers.says(r"^worker .*, process"))[0].split()[-1])
        second = int(re.findall(r"process (\d+)", other)[0])

        async def both_work() -> bool:
            # Each is held by whoever has it, until that process has no slot left and the other must take one.
            await publish(rows, "slow.async")
            seen = {int(line.split()[-1]) for line in workers.out if line.startswith("slow begins")}
            return seen >= {first, second}

        await eventually(both_work, 60)
        (tmp_path / "go").touch()
        os.kill(second, signal.SIGKILL)
        await workers.says("a worker was ended by SIGKILL; starting another")
        await workers.says("runs the same as the first", times=2)
        workers.child.terminate()
        assert await workers.ends() == 0
    await eventually(lambda: not _lives(first), 60)


async def test_reload_starts_the_worker_again_with_the_new_code(run: Run, rows: Rows, tmp_path: Path) -> None:
    async with run("--reload") as worker:
        await worker.says("leading")
        (tmp_path / "bus.py").write_text(SHOP.replace('f"mailer', 'f"new mailer'))
        await worker.says(r"restarting for bus\.py")
        await worker.says("leading", times=2)
        await at_work(rows.connection)
        await publish(rows, "orders.paid", 5)
        await worker.says("new mailer 5")
        (tmp_path / "bus.py").write_text("def broken(:")
        await worker.says("SyntaxError")
        (tmp_path / "bus.py").write_text(SHOP)
        await worker.says("leading", times=3)
        worker.child.send_signal(signal.SIGINT)
        assert await worker.ends() == 0


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


# ------------------------------------------------------------------------------------------------------------- refusing


@pytest.mark.parametrize("arguments", [(), ("--processes", "2")])
def test_run_on_a_database_that_does_not_answer_is_exit_code_4(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    (tmp_path / "bus.py").write_text(EMPTY)
    done = run_program("run", *arguments, cwd=tmp_path, environ={"PGBUS_DSN": NOWHERE})
    assert done.returncode == 4
    assert set(done.stderr.splitlines()) == {done.stderr.splitlines()[0]}
    assert done.stderr.startswith("pgbus: cannot connect to postgresql://adam:***@127.0.0.1:1/nothing: ")


def test_run_on_a_database_that_was_never_upgraded_is_exit_code_3(tmp_path: Path, empty_database: str) -> None:
    (tmp_path / "bus.py").write_text(EMPTY)
    done = run_program("run", cwd=tmp_path, environ={"PGBUS_DSN": empty_database})
    assert done.returncode == 3
    assert re.fullmatch(r"pgbus: .*run `pgbus db upgrade`\n", done.stderr)


@pytest.mark.parametrize("revision", ["0000_before", "9999_after"])
async def test_run_on_a_database_of_another_version_is_exit_code_3(
    tmp_path: Path, database: str, rows: Rows, revision: str
) -> None:
    await rows.connection.execute("UPDATE pgbus.alembic_version SET version_num = $1", revision)
    await rows.connection.execute("DROP FUNCTION pgbus.oldest_code()")
    (tmp_path / "bus.py").write_text(EMPTY)
    done = run_program("run", cwd=tmp_path, environ={"PGBUS_DSN": database})
    assert done.returncode == 3
    assert re.fullmatch(rf"pgbus: .*{revision}.*\n", done.stderr)


@pytest.mark.parametrize(
    ("source", "arguments", "message"),
    [
        (None, (), r"there is no module 'bus' in .*; name another one: MODULE:BUS, or PGBUS_MODULE"),
        (EMPTY, ("bus.other",), r"there is no module 'bus\.other' in .*"),
        (EMPTY, ("./bus",), r"'\./bus' is not the name of a module, such as `bus` or `shop\.bus`"),
        (
            "",
            (),
            r"module 'bus' has no 'bus'; name the bus, as in `bus:BUS`, or assign `bus = pgbus\.create\(\)` in it",
        ),
    ],
)
def test_run_without_a_bus_is_one_line_and_exit_code_1(
    tmp_path: Path, source: str | None, arguments: tuple[str, ...], message: str
) -> None:
    if source is not None:
        (tmp_path / "bus.py").write_text(source)
    done = run_program("run", *arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert re.fullmatch(rf"pgbus: {message}\n", done.stderr)


@pytest.mark.parametrize(
    ("source", "arguments", "message"),
    [
        (
            SHOP,
            ("--listener", "maler"),
            "there is no listener, procedure or task named 'maler' here; declared are: mailer, stock, ",
        ),
        (
            SHOP,
            ("--skip", "maler"),
            "there is no listener, procedure or task named 'maler' here; declared are: mailer, stock, ",
        ),
        (SHOP + SHOP[SHOP.index("@") :], (), "two listeners are named 'mailer'; "),
        (EMPTY + "bus.listener('a b')(print)", (), "listener 'builtins.print': "),
        ("import pgbus\nbus = pgbus.create(leese=1)", (), "arguments: there is no setting 'leese'; did you mean "),
    ],
)
def test_a_wrong_declaration_or_choice_is_one_line_and_exit_code_2(
    tmp_path: Path, source: str, arguments: tuple[str, ...], message: str
) -> None:
    (tmp_path / "bus.py").write_text(source)
    done = run_program("run", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"pgbus: {message}")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("source", "last_line"),
    [
        ("import nothing_of_that_name", "ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        ("def f():\n    return 1 / 0\nf()", "ZeroDivisionError: division by zero"),
    ],
)
def test_run_of_a_module_that_fails_shows_its_own_traceback_and_is_exit_code_1(
    tmp_path: Path, source: str, last_line: str
) -> None:
    (tmp_path / "bus.py").write_text(source)
    done = run_program("run", cwd=tmp_path)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert lines[0].startswith("Traceback")
    assert lines[1].startswith(f'  File "{tmp_path / "bus.py"}", line ')
    assert lines[-1] == last_line
