"""A user's Alembic environment: pgbus's tables in its migrations, and out of what `autogenerate` compares."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path

import psycopg
import pytest
from alembic import command
from alembic.config import Config

from pgbus import migrate
from tests.contracts.faces import sqlalchemy_url
from tests.migrations.conftest import Dump
from tests.support import DatabaseServer

ENV = """
import asyncio
from alembic import context
from sqlalchemy import MetaData, Column, Integer, Table, engine_from_config, pool
from sqlalchemy.ext.asyncio import async_engine_from_config
from pgbus.contrib.alembic import include_name, include_object
from pgbus.contrib.sqlalchemy import OutboxEvent
from sqlalchemy import inspect

metadata = MetaData()
Table("orders", metadata, Column("id", Integer, primary_key=True))
Table("invoices", metadata, Column("id", Integer, primary_key=True), schema="billing")
url = context.config.get_main_option("sqlalchemy.url")


def migrate(connection):
    context.configure(
        connection=connection, include_schemas=True,
        target_metadata=[metadata, inspect(OutboxEvent).local_table.metadata],
        include_name=include_name, include_object=include_object,
    )
    with context.begin_transaction():
        context.run_migrations()


async def migrate_async(engine):
    async with engine.connect() as connection:
        await connection.run_sync(migrate)
    await engine.dispose()


if context.is_offline_mode():
    context.configure(url=url, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
elif "asyncpg" in url:
    engine = async_engine_from_config(context.config.get_section("alembic"), poolclass=pool.NullPool)
    asyncio.run(migrate_async(engine))
else:
    with engine_from_config(context.config.get_section("alembic"), poolclass=pool.NullPool).connect() as connection:
        migrate(connection)
"""

TEMPLATE = """
from alembic import op
import sqlalchemy as sa
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
def upgrade():
    ${upgrades if upgrades else "pass"}
def downgrade():
    ${downgrades if downgrades else "pass"}
"""

FIRST = """
from alembic import op
from pgbus.contrib.alembic import downgrade_pgbus, upgrade_pgbus
revision, down_revision = "a1", None
def upgrade():
    op.execute("CREATE TABLE orders (id integer PRIMARY KEY)")
    op.execute("CREATE SCHEMA billing")
    upgrade_pgbus(op, "0002")
def downgrade():
    downgrade_pgbus(op, "base", start="0002")
    op.execute("DROP SCHEMA billing")
    op.execute("DROP TABLE orders")
"""

SECOND = """
from alembic import op
from pgbus.contrib.alembic import downgrade_pgbus, upgrade_pgbus
revision, down_revision = "a2", "a1"
def upgrade():
    upgrade_pgbus(op, "head", start="0002")
    if FAILS:
        op.execute("SELECT 1 / 0")
def downgrade():
    downgrade_pgbus(op, "0002")
"""


class Project:
    """A directory with an Alembic environment of its own."""

    def __init__(self, directory: Path, dsn: str, driver: str) -> None:
        self.dsn = dsn
        (directory / "versions").mkdir()
        (directory / "env.py").write_text(ENV)
        (directory / "script.py.mako").write_text(TEMPLATE)
        self.versions = directory / "versions"
        self.output = io.StringIO()
        self.config = Config(output_buffer=self.output, stdout=io.StringIO())
        self.config.set_main_option("script_location", str(directory))
        self.config.set_main_option("path_separator", "os")
        self.config.set_main_option("sqlalchemy.url", sqlalchemy_url(dsn, driver).replace("%", "%%"))
        self.write("a1", FIRST)
        self.write("a2", SECOND.replace("FAILS", "False"))

    def write(self, name: str, source: str) -> None:
        (self.versions / f"{name}.py").write_text(source)


@pytest.fixture(params=["psycopg", "asyncpg"])
def project(request: pytest.FixtureRequest, tmp_path: Path, empty_database: str) -> Project:
    return Project(tmp_path, empty_database, request.param)


def test_a_users_migrations_upgrade_and_downgrade_pgbus(project: Project, server: DatabaseServer, dump: Dump) -> None:
    command.upgrade(project.config, "a1")
    assert migrate.current(project.dsn) == "0002"
    command.upgrade(project.config, "head")
    migrate.check(project.dsn)
    command.downgrade(project.config, "a1")
    assert migrate.current(project.dsn) == "0002"
    command.upgrade(project.config, "head")
    with server.temporary_database() as upgraded, psycopg.connect(project.dsn) as connection:
        migrate.upgrade(upgraded)
        connection.execute("DROP TABLE public.orders, public.alembic_version; DROP SCHEMA billing")
        connection.commit()
        assert dump(project.dsn) == dump(upgraded)


def test_a_downgrade_to_base_leaves_nothing_in_the_namespace(project: Project) -> None:
    command.upgrade(project.config, "head")
    command.downgrade(project.config, "base")
    with psycopg.connect(project.dsn) as connection:
        left = connection.execute("SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace('pgbus')")
        assert left.fetchall() == []


def test_what_pgbus_did_is_rolled_back_with_the_users_migration(project: Project) -> None:
    command.upgrade(project.config, "a1")
    project.write("a2", SECOND.replace("FAILS", "True"))
    with pytest.raises(Exception, match="division by zero"):
        command.upgrade(project.config, "head")
    assert migrate.current(project.dsn) == "0002"


def test_a_database_that_is_further_already_stays_as_it_is(project: Project) -> None:
    migrate.upgrade(project.dsn)
    command.upgrade(project.config, "head")
    migrate.check(project.dsn)


def test_the_offline_script_gives_alembics_schema(project: Project, programs: Path) -> None:
    command.upgrade(project.config, "head", sql=True)
    psql = [str(programs / "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", project.dsn, "-f", "-"]
    answer = subprocess.run(psql, input=project.output.getvalue(), capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stderr) == (0, "")
    migrate.check(project.dsn)


def test_autogenerate_leaves_pgbus_alone(project: Project) -> None:
    command.upgrade(project.config, "head")
    made = command.revision(project.config, autogenerate=True, rev_id="a3")
    assert made is not None
    assert not isinstance(made, list)
    source = Path(made.path).read_text()
    assert "'invoices'" in source
    assert "pgbus" not in source
    assert "drop" not in source.split("def downgrade")[0]
