from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import signal
import socket
from collections.abc import Iterator
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

import click
import pytest
from click.testing import CliRunner, Result

from pgbus import lightbus, migrate
from pgbus.cli import exits
from pgbus.cli.program import COMMANDS, load
from pgbus.cli.program import pgbus as command
from pgbus.config import Config
from tests.conftest import Connect
from tests.integration.conftest import Invoke
from tests.support.programs import PROGRAM, program, program_of, run_program
from tests.support.rows import Rows

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
NOWHERE = "postgresql://adam:s3cret@127.0.0.1:1/nothing"


def json_lines(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def words(text: str) -> str:
    return " ".join(text.split())


# ------------------------------------------------------------------------------------------------- the program as such


def test_the_program_shows_its_version(tmp_path: Path) -> None:
    done = run_program("--version", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"pgbus {version('pgbus')}\n", "")


def test_a_database_that_does_not_answer_is_one_line_and_exit_code_4(tmp_path: Path) -> None:
    done = run_program("status", cwd=tmp_path, environ={"PGBUS_DSN": NOWHERE})
    assert done.returncode == 4
    assert done.stdout == ""
    assert re.fullmatch(r"pgbus: cannot connect to postgresql://adam:\*\*\*@127\.0\.0\.1:1/nothing: .+\n", done.stderr)


@pytest.mark.parametrize(
    "arguments", [("status",), ("events",), ("dead", "list"), ("db", "check"), ("publish", "a", "1")]
)
def test_a_database_that_was_never_upgraded_is_one_line_and_exit_code_3(
    tmp_path: Path, empty_database: str, arguments: tuple[str, ...]
) -> None:
    done = run_program(*arguments, cwd=tmp_path, environ={"PGBUS_DSN": empty_database})
    assert done.returncode == 3
    assert re.fullmatch(r"pgbus: .*run `pgbus db upgrade`\n", done.stderr)


def test_a_wrong_setting_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "pgbus.toml").write_text("leese = 1")
    done = run_program("status", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (
        2,
        "pgbus: pgbus.toml: there is no setting 'leese'; did you mean 'lease'?\n",
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("nothing",),
        ("status", "--nothing"),
        ("events", "--since", "soon"),
        ("events", "--since", "in 2h"),
        ("events", "--until", "99999999w"),
        ("publish", "a.b", "{}", "--deliver-at", "2h ago"),
        ("publish", "a.b", "{}", "--deliver-at", "99999999w"),
        ("events", "--where", "x"),
        ("events", "a..b"),
    ],
)
def test_wrong_usage_is_exit_code_2(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    assert run_program(*arguments, cwd=tmp_path).returncode == 2


def test_a_pipe_gets_no_escape_codes(tmp_path: Path, database: str) -> None:
    for arguments in (("status",), ("config",), ("listeners", "list"), ("--help",), ("events", "--nothing")):
        done = run_program(*arguments, cwd=tmp_path, environ={"PGBUS_DSN": database})
        assert "\x1b" not in done.stdout + done.stderr


def every_command_of_the_program() -> list[tuple[str, click.Command]]:
    return [(name, load(name)) for name in COMMANDS]


def test_the_help_tells_of_each_command_what_it_tells_itself() -> None:
    for name, one in every_command_of_the_program():
        assert (one.help or "").split("\n\n")[0].replace("\n", " ") == COMMANDS[name]


def test_every_command_has_help() -> None:
    for name, one in every_command_of_the_program():
        for arguments in [[name], *([name, sub] for sub in getattr(one, "commands", {}))]:
            result = CliRunner().invoke(command, [*arguments, "--help"])
            assert result.exit_code == 0
            assert "Usage: " in result.output


def every_command(group: click.Group = command, path: str = "pgbus") -> Iterator[tuple[str, click.Command]]:
    for name, one in every_command_of_the_program() if group is command else group.commands.items():
        yield f"{path} {name}", one
        if isinstance(one, click.Group):
            yield from every_command(one, f"{path} {name}")


def test_the_reference_names_every_command_and_option() -> None:
    text = (REFERENCE / "cli.md").read_text()
    for path, one in every_command():
        assert f"`{path}" in text, path
        for parameter in one.params:
            if isinstance(parameter, click.Option) and parameter.name != "help":
                assert any(f"`{name}" in text for name in parameter.opts), f"{path} {parameter.opts}"


def test_the_reference_names_every_exit_code() -> None:
    text = (REFERENCE / "cli.md").read_text()
    shown = CliRunner().invoke(command, ["--help"]).stdout
    for code in (exits.FAILED, exits.USAGE, exits.SCHEMA, exits.UNREACHABLE, exits.BUG):
        assert f"\n| {code} | " in text
        assert re.search(rf"\b{code} \w", shown)


def test_the_reference_names_every_setting_and_its_default() -> None:
    text = (REFERENCE / "configuration.md").read_text()
    for setting in Config().describe():
        found = re.search(rf"^\| `{setting.name}` \| (.+?) \|", text, re.MULTILINE)
        assert found, setting.name
        if isinstance(setting.value, bool):
            assert found[1] == str(setting.value).lower(), setting.name
        elif isinstance(setting.value, int | float):
            assert found[1].split()[0] == f"{setting.value:.12g}", setting.name


# -------------------------------------------------------------------------------------------------------------- config


async def test_config_shows_each_value_and_its_source_without_passwords(
    invoke: Invoke, working_directory: Path
) -> None:
    (working_directory / "pgbus.toml").write_text("lease = 90\n")
    result = await invoke("--namespace", "shop", "config", dsn=NOWHERE)
    shown = {line.split()[0]: line.split()[1:] for line in result.stdout.splitlines()}
    assert shown["dsn"] == ["postgresql://adam:***@127.0.0.1:1/nothing", "PGBUS_DSN"]
    assert shown["lease"] == ["90", "pgbus.toml"]
    assert shown["namespace"] == ["shop", "argument"]
    assert shown["grace"] == ["30", "default"]


async def test_config_as_json_shows_what_came_from_variables(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGBUS_MODULE", "shop.events")
    [setting] = [one for one in json_lines(await invoke("config", "--json")) if one["name"] == "module"]
    assert (setting["value"], setting["source"]) == ("shop.events", "PGBUS_MODULE")


async def test_config_as_json_says_what_each_setting_means(invoke: Invoke) -> None:
    settings = {row["name"]: row for row in json_lines(await invoke("config", "--json", dsn=NOWHERE))}
    assert settings["grace"]["value"] == 30.0
    assert "SIGTERM" in str(settings["grace"]["meaning"])
    assert "s3cret" not in str(settings)


async def test_config_takes_a_named_file_and_shows_apis(invoke: Invoke, working_directory: Path) -> None:
    (working_directory / "pgbus.toml").write_text("lease = 90\n")
    (working_directory / "other.yaml").write_text("lease: 80\napis: {auth: {cast_values: false}}\n")
    result = await invoke("config", "--config", "other.yaml", dsn=NOWHERE)
    shown = {line.split()[0]: line.split()[1:] for line in result.stdout.splitlines()}
    assert shown["lease"] == ["80", "other.yaml"]
    assert shown["apis.auth.cast_values"] == ["false", "other.yaml"]
    assert shown["apis.default.cast_values"] == ["true", "default"]


async def test_config_schema_is_printed_or_written(invoke: Invoke, working_directory: Path) -> None:
    printed = (await invoke("config", "schema", dsn=NOWHERE)).stdout
    await invoke("config", "schema", "--out", "schema.json", dsn=NOWHERE)
    assert (working_directory / "schema.json").read_text() == printed
    assert json.loads(printed)["properties"]["lease"]["default"] == 60.0


async def test_the_dsn_may_stand_before_or_after_the_command(invoke: Invoke, database: str) -> None:
    assert (await invoke("status", "--dsn", database, dsn=NOWHERE)).exit_code == 0
    assert (await invoke("--dsn", database, "status", dsn=NOWHERE)).exit_code == 0


# ------------------------------------------------------------------------------------------------------------------ db


async def test_db_upgrades_checks_and_downgrades(invoke: Invoke, empty_database: str) -> None:
    head = migrate.head()
    steps = [
        (("db", "current"), 0, f"base (this code needs {head})"),
        (("db", "check"), 3, ""),
        (("db", "upgrade"), 0, f"pgbus is at {head}"),
        (("db", "current"), 0, head),
        (("db", "check"), 0, f"pgbus is at {head}, which this code needs"),
        (("db", "downgrade", "base"), 0, "pgbus is at base"),
        (("db", "check"), 3, ""),
    ]
    for arguments, code, said in steps:
        result = await invoke(*arguments, dsn=empty_database)
        assert (result.exit_code, result.stdout.strip()) == (code, said), arguments


async def test_db_current_as_json(invoke: Invoke) -> None:
    [found] = json_lines(await invoke("db", "current", "--json"))
    assert found == {"namespace": "pgbus", "current": migrate.head(), "head": migrate.head()}


async def test_db_sql_prints_a_script_without_a_database(invoke: Invoke) -> None:
    result = await invoke("db", "sql", "--namespace", "shop", dsn=NOWHERE)
    assert result.exit_code == 0
    assert re.search(r'CREATE TABLE "?shop"?\.outbox', result.stdout)


async def test_db_refuses_a_revision_that_there_is_not(invoke: Invoke) -> None:
    result = await invoke("db", "upgrade", "9999")
    assert result.exit_code == 2
    assert "there is no '9999'" in result.stderr


async def test_db_roles_grants_the_group_roles(invoke: Invoke, rows: Rows) -> None:
    result = await invoke("db", "roles")
    assert result.stdout == "granted: pgbus_publisher, pgbus_caller, pgbus_worker, pgbus_reader, pgbus_admin\n"
    may_publish = "SELECT has_column_privilege('pgbus_publisher', 'pgbus.outbox', 'topic', 'INSERT')"
    assert await rows.connection.fetchval(may_publish)


# -------------------------------------------------------------------------------------------------------------- status


async def test_status_shows_listeners_workers_and_the_leader(invoke: Invoke, rows: Rows) -> None:
    await rows.event(12_345)
    mailer = await rows.listener("mailer", "orders.*")
    await rows.delivery(mailer, 12_345)
    await rows.dead_letter(mailer, 12_345)
    await rows.worker("worker-1", "mailer", leads=True)
    result = await invoke("status")
    assert result.exit_code == 0
    text = words(result.stdout)
    assert "log head 12 345" in text
    assert "leader worker-1" in text
    assert re.search(r"mailer active 1 \d+ \w+ 0 0 0 1 1 WORKER", text)
    assert re.search(r"worker-1 shop host 17 0 leads \d+ m?s 1$", text)


async def test_status_of_an_empty_bus_says_that_nobody_leads(invoke: Invoke) -> None:
    text = words((await invoke("status")).stdout)
    assert "leader none: nothing enters the log until a worker runs" in text
    assert "no listeners are registered" in text


async def test_status_as_json(invoke: Invoke, rows: Rows) -> None:
    await rows.listener("mailer", "orders.*")
    await rows.worker("worker-1", leads=True)
    [found] = json_lines(await invoke("status", "--json"))
    assert found["leader"] == "worker-1"
    assert found["outbox_waiting"] == 0
    assert [(one["listener_name"], one["patterns"], one["lag_events"]) for one in found["listeners"]] == [
        ("mailer", ["orders.*"], 0)
    ]


async def test_status_watch_prints_again_and_again_until_ctrl_c(tmp_path: Path, database: str) -> None:
    async with program("status", "--watch", "0.1", "--json", cwd=tmp_path, environ={"PGBUS_DSN": database}) as child:
        assert child.stdout is not None
        for _ in range(3):
            assert json.loads(await child.stdout.readline())["log_head"] == 0
        child.send_signal(signal.SIGINT)
        assert await child.wait() == 0


# -------------------------------------------------------------------------------------------------------------- events


async def test_events_shows_what_each_listener_did(invoke: Invoke, rows: Rows) -> None:
    event_id = await rows.event(1, "orders.placed", {"price": 5}, key="adam")
    mailer, stock = await rows.listener("mailer"), await rows.listener("stock")
    await rows.attempt(mailer, 1, "retry", error="ValueError: no")
    await rows.attempt(mailer, 1, "done", attempt=2)
    await rows.delivery(stock, 1)
    lines = [words(line) for line in (await invoke("events")).stdout.splitlines()]
    assert lines[0].startswith("#1 ")
    assert lines[0].endswith(f"orders.placed {event_id} key adam")
    assert lines[1] == '{"price": 5}'
    assert re.fullmatch(r"mailer: retry, attempt 1, \S+ \S+, 250 ms, worker-1, ValueError: no", lines[2])
    assert re.fullmatch(r"mailer: done, attempt 2, \S+ \S+, 250 ms, worker-1", lines[3])
    assert lines[4] == "stock: waiting"


async def test_events_as_json_are_found_by_topic_key_id_time_and_payload(invoke: Invoke, rows: Rows) -> None:
    for position in range(1, 31):
        topic = "orders.placed" if position % 2 else "auth.user_created"
        event_id = await rows.event(position, topic, {"n": position, "tags": ["a", "b"]}, key=f"key-{position}")
    searches: list[tuple[tuple[str, ...], list[int]]] = [
        ((), list(range(30, 10, -1))),
        (("--limit", "2"), [30, 29]),
        (("--limit", "2", "--oldest-first"), [1, 2]),
        (("orders.*", "--after", "25"), [29, 27]),
        (("--key", "key-7"), [7]),
        (("--id", str(event_id)), [30]),
        (("--where", "n>=28", "--where", "tags[*]=b", "--where", "n!=29"), [30, 28]),
        (("--since", "1h", "--before", "3"), [2, 1]),
        (("--until", "2020-01-01"), []),
    ]
    for arguments, expected in searches:
        found = json_lines(await invoke("events", "--json", *arguments))
        assert [row["position"] for row in found] == expected, arguments


async def test_events_keep_a_payload_as_it_is_stored(invoke: Invoke, rows: Rows) -> None:
    await rows.connection.execute(
        """
        INSERT INTO pgbus.events (position, event_id, topic, payload, published_at, logged_at)
        VALUES (1, gen_random_uuid(), 'a', '{"price": 1.10, "big": 123456789012345678901234567890}', now(), now())
        """
    )
    assert (
        '"payload":{"big": 123456789012345678901234567890, "price": 1.10}' in (await invoke("events", "--json")).stdout
    )


async def test_events_owed_to_an_unknown_listener_fails_with_close_matches(invoke: Invoke, rows: Rows) -> None:
    await rows.listener("mailer")
    result = await invoke("events", "--owed-to", "mail")
    assert (result.exit_code, result.stderr) == (1, "pgbus: there is no listener 'mail'; did you mean 'mailer'?\n")


@pytest.mark.parametrize("options", [(), ("--json",), ("--key", "other")])
async def test_events_of_an_unknown_id_fail(invoke: Invoke, rows: Rows, options: tuple[str, ...]) -> None:
    known = await rows.event(1, "orders.placed", key="adam")
    assert (await invoke("events", "--id", str(known))).exit_code == 0
    asked = known if options == ("--key", "other") else uuid4()
    result = await invoke("events", "--id", str(asked), *options)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"pgbus: no event {asked} is in the log")


@pytest.mark.parametrize("text", ["2h", "in 2h", "in 120 m"])
async def test_a_relative_time_of_delivery_is_in_the_future(invoke: Invoke, rows: Rows, text: str) -> None:
    result = await invoke("publish", "orders.placed", "{}", "--deliver-at", text)
    assert result.exit_code == 0, result.output
    delay = await rows.connection.fetchval("SELECT deliver_at - now() FROM pgbus.outbox")
    assert timedelta(minutes=115) < delay <= timedelta(hours=2)


async def test_events_follow_prints_what_enters_the_log(tmp_path: Path, database: str, rows: Rows) -> None:
    await rows.event(1)
    arguments = ("events", "--follow", "--json", "--after", "0")
    async with program(*arguments, cwd=tmp_path, environ={"PGBUS_DSN": database}) as child:
        assert child.stdout is not None
        assert json.loads(await child.stdout.readline())["position"] == 1
        await rows.event(2)
        assert json.loads(await child.stdout.readline())["position"] == 2
        child.send_signal(signal.SIGINT)
        assert await child.wait() == 0


# ---------------------------------------------------------------------------------------------------------------- dead


@pytest.fixture
async def letters(rows: Rows) -> list[int]:
    """Dead letters 1 and 2 of `mailer`, 3 of `stock`."""
    mailer, stock = await rows.listener("mailer"), await rows.listener("stock")
    for position in (1, 2, 3):
        await rows.event(position, "orders.placed" if position < 3 else "orders.paid", key="adam")
    return [await rows.dead_letter(mailer, 1), await rows.dead_letter(mailer, 2), await rows.dead_letter(stock, 3)]


async def test_dead_list_shows_letters_newest_first(invoke: Invoke, letters: list[int]) -> None:
    lines = [words(line) for line in (await invoke("dead", "list")).stdout.splitlines()]
    assert re.fullmatch(r"3 stock orders\.paid adam 10 \S+ \S+ ValueError: no", lines[1])
    assert len(lines) == 4
    found = json_lines(await invoke("dead", "list", "--json", "--listener", "mailer", "--topic", "orders.*"))
    assert [row["id"] for row in found] == [2, 1]


async def test_dead_show_prints_the_event_and_the_traceback(invoke: Invoke, letters: list[int]) -> None:
    text = words((await invoke("dead", "show", "1")).stdout)
    assert "listener mailer" in text
    assert '{ "n": 1 }' in text
    assert "Traceback: no" in text
    [found] = json_lines(await invoke("dead", "show", "1", "--json"))
    assert found["error"] == "ValueError: no"


async def test_what_a_dead_letter_blocks_is_shown(invoke: Invoke, rows: Rows) -> None:
    ledger = await rows.listener("ledger", "orders.*", lanes=4)
    for position in (1, 2, 3):
        await rows.event(position, key="eve")
    letter_id = await rows.dead_letter(ledger, 1, lane=3, blocked_key="eve")
    for position in (2, 3):
        await rows.delivery(ledger, position, lane=3, blocked_key="eve")
    text = words((await invoke("dead", "show", str(letter_id))).stdout)
    assert "blocks key eve until it is retried or discarded; 2 events of it wait" in text
    [found] = json_lines(await invoke("dead", "list", "--json"))
    assert (found["blocked_key"], found["blocked"]) == ("eve", 2)
    assert re.search(r"ledger active 2 \d+ \w+ 0 0 2 1 0", words((await invoke("status")).stdout))
    assert "ledger: blocked" in words((await invoke("events", "--key", "eve", "--before", "3")).stdout)


async def test_dead_show_of_no_letter_is_exit_code_1(invoke: Invoke) -> None:
    result = await invoke("dead", "show", "7")
    assert (result.exit_code, result.stderr) == (
        1,
        "pgbus: there is no dead letter 7; `pgbus dead list` shows what there is\n",
    )


async def test_dead_retry_and_discard_by_id_name_what_they_did_not_find(
    invoke: Invoke, letters: list[int], rows: Rows
) -> None:
    result = await invoke("dead", "retry", "1", "9")
    assert (result.exit_code, result.stdout) == (1, "retried 1 dead letter\n")
    assert result.stderr == "pgbus: no such dead letter: 9\n"
    result = await invoke("dead", "discard", "2", "3")
    assert (result.exit_code, result.stdout) == (0, "discarded 2 dead letters\n")
    assert await rows.connection.fetchval("SELECT count(*) FROM pgbus.deliveries") == 1
    assert await rows.connection.fetchval("SELECT count(*) FROM pgbus.history WHERE outcome = 'discarded'") == 2


async def test_dead_retry_of_all_that_match(invoke: Invoke, letters: list[int]) -> None:
    [done] = json_lines(await invoke("dead", "retry", "--all", "--listener", "mailer", "--json"))
    assert done == {"retried": [1, 2]}
    assert (await invoke("dead", "discard", "--all")).stdout == "discarded 1 dead letter\n"
    assert (await invoke("dead", "list")).stdout == "no dead letters\n"


@pytest.mark.parametrize("arguments", [("retry",), ("discard", "--listener", "mailer"), ("retry", "1", "--all")])
async def test_dead_wants_ids_or_all(invoke: Invoke, arguments: tuple[str, ...]) -> None:
    result = await invoke("dead", *arguments)
    assert result.exit_code == 2
    assert "or say --all" in words(result.output.replace("│", ""))


# ----------------------------------------------------------------------------------------------------------- listeners


async def test_listeners_are_listed_paused_resumed_reset_and_removed(invoke: Invoke, rows: Rows) -> None:
    await rows.event(5)
    await rows.listener("mailer", "orders.*", lanes=16)
    await rows.listener("stock", "**")
    steps = [
        (("pause", "mailer", "stock"), "paused mailer\npaused stock\n"),
        (("resume", "stock"), "resumed stock\n"),
        (("reset", "mailer", "--to", "beginning"), "reset mailer: it hears the log from position 0 on\n"),
        (("remove", "stock"), "removed stock\n"),
    ]
    for arguments, said in steps:
        result = await invoke("listeners", *arguments)
        assert (result.exit_code, result.stdout) == (0, said), result.output
    [left] = json_lines(await invoke("listeners", "list", "--json"))
    assert (left["listener_name"], left["state"], left["cursor"], left["ordered"]) == ("mailer", "paused", 0, True)
    assert re.search(
        r"mailer paused shop by key 0 \S+ m?s ago orders\.\*", words((await invoke("listeners", "list")).stdout)
    )


@pytest.mark.parametrize(
    ("place", "position"), [("now", 6), ("2", 2), ("1d", 5), ("2020-01-01", 5), ("2999-01-01T00:00+02:00", 6)]
)
async def test_listeners_reset_takes_a_place(invoke: Invoke, rows: Rows, place: str, position: int) -> None:
    await rows.event(5)
    await rows.listener("mailer")
    result = await invoke("listeners", "reset", "mailer", "--to", place)
    assert result.stdout == f"reset mailer: it hears the log from position {position} on\n"


@pytest.mark.parametrize("place", ["99", "soon"])
async def test_listeners_reset_to_no_place_is_exit_code_2(invoke: Invoke, rows: Rows, place: str) -> None:
    await rows.listener("mailer")
    assert (await invoke("listeners", "reset", "mailer", "--to", place)).exit_code == 2


async def test_a_listener_that_runs_is_removed_by_force_only(invoke: Invoke, rows: Rows) -> None:
    await rows.listener("mailer")
    await rows.worker("worker-1", "mailer")
    result = await invoke("listeners", "remove", "mailer")
    assert result.exit_code == 1
    assert "'mailer' is run by worker-1" in result.stderr
    assert (await invoke("listeners", "remove", "mailer", "--force")).exit_code == 0


# ----------------------------------------------------------------------------------------------------------------- dev


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
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
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


async def test_a_command_of_lightbus_that_has_another_name_here_is_told_it(invoke: Invoke) -> None:
    for name, here in lightbus.COMMANDS.items():
        result = await invoke(name, "--out", "schema.json")
        assert (result.exit_code, result.stderr) == (exits.USAGE, f"pgbus: no such command {name!r}; write `{here}`\n")
