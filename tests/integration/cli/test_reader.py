"""A member of `pgbus_reader` can run every command that only reads."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from pgbus import migrate
from tests.integration.conftest import Invoke
from tests.migrations.conftest import PASSWORD, dsn_of_user
from tests.support.command_line import leaf_commands
from tests.support.rows import Rows

READING = {
    "config": (),
    "config schema": (),
    "db check": (),
    "db current": (),
    "db inbox": (),
    "db sql": (),
    "dead list": ("--topic", "orders.*", "--key", "adam", "--error", "value", "--since", "2h", "--until", "0s"),
    "dead show": ("1",),
    "dead summary": (),
    "doctor": (),
    "events": ("orders.*", "--where", "n=1", "--error", "no", "--owed-to", "mailer"),
    "dashboard": None,  # tests/integration/contrib/test_dashboard.py reads its pages as a reader
    "grafana": None,
    "inspect": ("--dead", "--key", "adam", "--error", "no"),
    "listeners list": (),
    "operations list": (),
    "operations show": None,  # which there is when somebody has changed something
    "schedules history": ("nightly",),
    "schedules list": (),
    "schema asyncapi": (),
    "schema check": None,
    "schema diff": None,
    "schema dump": (),
    "schema eventcatalog": None,
    "schema stubs": None,
    "status": (),
    "top": (),
}
CHANGING = {
    "call", "db adopt", "db downgrade", "db roles", "db upgrade", "dead discard", "dead give-up", "dead retry",
    "dead retry-now", "demo", "dev", "listeners pause",
    "listeners remove", "listeners replay", "listeners reset", "listeners resume", "operations cancel",
    "operations continue", "publish", "relay", "republish", "run", "schedules pause", "schedules remove",
    "schedules resume", "schedules run", "shell",
}  # fmt: skip
# They need no database, or read the bus of a module, and the schemas as `schema dump` does.
OTHERS = {
    "dashboard",
    "grafana",
    "operations show",
    "schema check",
    "schema diff",
    "schema eventcatalog",
    "schema stubs",
}


@pytest.fixture
async def reader(database: str, rows: Rows) -> AsyncIterator[str]:
    """DSN of a user who is a member of `pgbus_reader`, of a database with a row of each kind."""
    await rows.event(1, key="adam", payload={"n": 1})
    mailer = await rows.listener("mailer", "orders.*")
    await rows.attempt(mailer, 1, "dead", error="ValueError: no")
    await rows.dead_letter(mailer, 1, error="ValueError: no")
    await rows.delivery(mailer, 1)
    await rows.connection.execute(
        "INSERT INTO pgbus.schedules (schedule_name, rule) VALUES ('nightly', 'every 60 s');"
        f"CREATE ROLE cli_auditor LOGIN PASSWORD '{PASSWORD}'"
    )
    migrate.grant_roles(database)
    await rows.connection.execute("GRANT pgbus_reader TO cli_auditor")
    yield dsn_of_user(database, "cli_auditor")
    await rows.connection.execute("DROP ROLE cli_auditor")


def test_every_command_either_reads_or_changes_something() -> None:
    assert {name for name, _ in leaf_commands()} == READING.keys() | CHANGING
    assert not READING.keys() & CHANGING


async def test_a_reader_runs_every_command_that_only_reads(invoke: Invoke, reader: str) -> None:
    for name, arguments in READING.items():
        if arguments is None:
            continue
        result = await invoke(*name.split(), *arguments, dsn=reader)
        # The doctor skips the plans of workers' statements, and says whose right it would need.
        refused = "pgbus_reader has the right" if name == "doctor" else "permission denied"
        assert refused not in result.output, name
        assert result.exit_code == 0 or name == "doctor", f"{name}: {result.output}"
    assert {name for name, arguments in READING.items() if arguments is None} == OTHERS
    result = await invoke("inspect", "--calls", "--error", "no", dsn=reader)
    assert "permission denied" not in result.output


@pytest.mark.parametrize(
    "command",
    [
        "dead retry --all", "dead discard 1", "dead give-up --listener mailer", "listeners pause mailer",
        "listeners replay mailer --from 0", "listeners remove mailer", "schedules run nightly",
    ],
)  # fmt: skip
async def test_a_reader_previews_what_an_operator_may_change(invoke: Invoke, reader: str, command: str) -> None:
    result = await invoke(*command.split(), "--dry-run", dsn=reader)
    assert result.exit_code == 0, result.output
    assert result.output.startswith("matches ")


@pytest.mark.parametrize(
    ("arguments", "role"),
    [
        (("dead", "retry", "1"), "pgbus_operator"),
        (("publish", "a.b", "{}"), "pgbus_publisher"),
        (("call", "a.b"), "pgbus_caller"),
        (("schedules", "run", "nightly"), "pgbus_operator"),
    ],
)
async def test_a_command_that_a_reader_may_not_run_names_the_role_that_may(
    invoke: Invoke, reader: str, arguments: tuple[str, ...], role: str
) -> None:
    result = await invoke(*arguments, dsn=reader)
    assert result.exit_code == 1, result.output
    assert f"the role {role} has the right to it" in result.output
