"""`pgbus config` and `pgbus db`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pgbus import migrate
from tests.integration.conftest import Invoke
from tests.support.command_line import NOWHERE, json_lines
from tests.support.rows import Rows

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
        (("db", "current"), 0, f"base (this code was made for {head})"),
        (("db", "check"), 3, ""),
        (("db", "upgrade"), 0, f"pgbus is at {head}"),
        (("db", "current"), 0, head),
        (("db", "check"), 0, f"pgbus is at {head}, which this code was made for"),
        (("db", "downgrade", "base"), 2, ""),
        (("db", "downgrade", "base", "--yes"), 0, "pgbus is at base"),
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
    names = ("publisher", "caller", "worker", "reader", "operator", "admin")
    assert result.stdout == f"granted: {', '.join(f'pgbus_{name}' for name in names)}\n"
    may_publish = "SELECT has_column_privilege('pgbus_publisher', 'pgbus.outbox', 'topic', 'INSERT')"
    assert await rows.connection.fetchval(may_publish)
