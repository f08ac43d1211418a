import asyncio
import logging
import multiprocessing
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import asyncpg
import psycopg
import pytest

from pgbus import migrate
from pgbus.database.migrate.versions import migration_lock
from pgbus.errors import ConfigurationError, DatabaseUnreachableError, PrivilegeError, SchemaVersionError
from tests.conftest import Connect
from tests.contracts.faces import sqlalchemy_url
from tests.migrations.conftest import PASSWORD, dsn_of_user
from tests.support import ROOT, eventually

# Legal names, but words of SQL: they work only where every statement quotes them.
RESERVED = ("user", "select", "_")


PROCESSES = 8


async def count_lock_waiters(connection: asyncpg.Connection) -> int:
    # Those of this database: `pg_locks` has the whole server's.
    count: int = await connection.fetchval(
        """
        SELECT count(*) FROM pg_locks JOIN pg_database AS d ON d.oid = database
        WHERE d.datname = current_database() AND locktype = 'advisory' AND NOT granted
        """
    )
    return count


async def test_processes_may_upgrade_at_once(empty_database: str, connect: Connect) -> None:
    # Processes start apart. A lock of ours gathers all of them, so that then they set off together.
    starter = await connect(empty_database)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pgbus.database.migrate.scripts"])
    processes = [context.Process(target=migrate.upgrade, args=(empty_database,)) for _ in range(PROCESSES)]
    async with starter.transaction():
        await starter.execute(migration_lock("pgbus"))
        for process in processes:
            process.start()
        try:
            await eventually(lambda: _all_wait(starter, processes), timeout=60)
        except BaseException:
            for process in processes:
                process.kill()
            raise
    for process in processes:
        await asyncio.to_thread(process.join, 60)
    assert [process.exitcode for process in processes] == [0] * PROCESSES
    assert await starter.fetchval("SELECT array_agg(version_num) FROM pgbus.alembic_version") == [migrate.head()]


async def _all_wait(connection: asyncpg.Connection, processes: list[multiprocessing.context.ForkServerProcess]) -> bool:
    assert all(process.exitcode is None for process in processes)
    return await count_lock_waiters(connection) == len(processes)


def test_upgrade_of_an_upgraded_database_changes_nothing(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("INSERT INTO pgbus.outbox (topic) VALUES ('orders.placed')")
        migrate.upgrade(database)
        assert connection.execute("SELECT topic FROM pgbus.outbox").fetchall() == [("orders.placed",)]


def test_upgrade_leaves_nothing_behind_when_it_fails(empty_database: str) -> None:
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA pgbus; CREATE TABLE pgbus.scheduled ()")
        with pytest.raises(asyncpg.DuplicateTableError, match=r"scheduled"):
            migrate.upgrade(empty_database)
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'pgbus'").fetchall()
    assert tables == [("scheduled",)]
    assert migrate.current(empty_database) is None


async def test_upgrade_works_on_the_thread_of_a_running_loop(empty_database: str) -> None:
    migrate.upgrade(empty_database)
    assert migrate.current(empty_database) == migrate.head()


async def test_upgrade_works_in_threads_for_two_namespaces_at_once(empty_database: str) -> None:
    await asyncio.gather(
        asyncio.to_thread(migrate.upgrade, empty_database, namespace="left"),
        asyncio.to_thread(migrate.upgrade, empty_database, namespace="right"),
    )
    assert migrate.current(empty_database, namespace="left") == migrate.head()
    assert migrate.current(empty_database, namespace="right") == migrate.head()


@pytest.mark.parametrize("namespace", RESERVED)
async def test_a_namespace_may_be_a_word_of_sql(empty_database: str, connect: Connect, namespace: str) -> None:
    migrate.upgrade(empty_database, namespace=namespace)
    migrate.check(empty_database, namespace=namespace)
    connection = await connect(empty_database)
    await connection.execute(f"INSERT INTO \"{namespace}\".outbox (topic) VALUES ('orders.placed')")
    assert await connection.fetchval(f'SELECT "{namespace}".open_partition(1)')
    migrate.downgrade(empty_database, namespace=namespace, revision="base")
    assert migrate.current(empty_database, namespace=namespace) is None


async def test_two_namespaces_in_one_database_know_nothing_of_each_other(empty_database: str, connect: Connect) -> None:
    migrate.upgrade(empty_database, namespace="red")
    migrate.upgrade(empty_database, namespace="blue")
    connection = await connect(empty_database)
    await connection.execute("INSERT INTO red.outbox (topic) VALUES ('orders.placed')")
    assert await connection.fetchval("SELECT count(*) FROM blue.outbox") == 0
    assert await connection.fetchval("SELECT red.open_partition(1)")
    assert await connection.fetchval("SELECT array_agg(number) FROM blue.partitions") == [0]

    migrate.downgrade(empty_database, namespace="blue", revision="base")
    assert await connection.fetchval("SELECT topic FROM red.outbox") == "orders.placed"
    migrate.check(empty_database, namespace="red")


@pytest.mark.parametrize("verb", [migrate.upgrade, migrate.downgrade])
def test_a_database_newer_than_the_code_is_left_alone(database: str, verb: Callable[..., None]) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("UPDATE pgbus.alembic_version SET version_num = '9999'")
        connection.execute("DROP FUNCTION pgbus.oldest_code()")
        with pytest.raises(SchemaVersionError, match="at revision 9999, newer than this code"):
            verb(database, revision=migrate.head())
        assert connection.execute("SELECT count(*) FROM pgbus.outbox").fetchone() == (0,)
    assert migrate.current(database) == "9999"


@pytest.mark.parametrize("namespace", ["No Good", "pg_bus", "", 'a"b', "x" * 41])
def test_a_namespace_that_cannot_be_is_refused(empty_database: str, namespace: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^namespace: "):
        migrate.upgrade(empty_database, namespace=namespace)
    with pytest.raises(ConfigurationError, match=r"^namespace: "):
        migrate.sql(namespace=namespace)


def test_a_revision_that_does_not_exist_is_refused(empty_database: str) -> None:
    with pytest.raises(ConfigurationError, match=r"there is no '1234'; this version of pgbus has 0001"):
        migrate.upgrade(empty_database, revision="1234")
    with pytest.raises(ConfigurationError, match=r"there is no 'head'"):
        migrate.downgrade(empty_database, revision="head")


def test_the_short_scheme_is_a_dsn_too(empty_database: str) -> None:
    scheme, rest = empty_database.split("://", 1)
    other = {"postgresql": "postgres", "postgres": "postgresql"}[scheme]
    migrate.upgrade(f"{other}://{rest}")
    migrate.check(empty_database)


@pytest.mark.parametrize(
    "dsn", ["postgresql://ann:s3cret@127.0.0.1:1/shop", "postgresql://ann:s3cr@t/x:port@127.0.0.1/shop"]
)
def test_a_database_out_of_reach_is_named_without_its_password(dsn: str) -> None:
    with pytest.raises(DatabaseUnreachableError, match=r"^cannot connect to postgresql://ann:\*\*\*@") as caught:
        migrate.upgrade(dsn)
    assert "s3cr" not in str(caught.value)


async def test_a_user_who_may_not_create_the_namespace_is_told_so(empty_database: str, connect: Connect) -> None:
    connection = await connect(empty_database)
    name = f"poor_{await connection.fetchval('SELECT current_database()')}"
    await connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'")
    try:
        poor = dsn_of_user(empty_database, name)
        with pytest.raises(
            PrivilegeError, match=r"permission denied for database .*: connect as a user with that right"
        ):
            migrate.upgrade(poor)
        # Once it is there, no right to create namespaces is needed.
        await connection.execute(f"CREATE SCHEMA pgbus AUTHORIZATION {name}")
        migrate.upgrade(poor)
        migrate.check(poor)
    finally:
        await connection.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


def test_upgrade_leaves_logging_as_it_was(empty_database: str) -> None:
    mine, alembic = logging.getLogger("shop.orders"), logging.getLogger("alembic")
    before = list(logging.root.handlers), logging.root.level, list(alembic.handlers), alembic.level
    migrate.upgrade(empty_database)
    assert (list(logging.root.handlers), logging.root.level, list(alembic.handlers), alembic.level) == before
    assert not mine.disabled


def test_migrations_inside_the_package_come_first(empty_database: str, tmp_path: Path) -> None:
    # As a wheel lays it out: pgbus/migrations, and none beside the package but somebody else's.
    shutil.copytree(ROOT / "pgbus", tmp_path / "pgbus")
    shutil.copytree(ROOT / "migrations", tmp_path / "pgbus" / "migrations")
    (tmp_path / "migrations").mkdir()
    (tmp_path / "migrations" / "env.py").write_text("raise AssertionError('this is the application\\'s')")
    program = (
        "import sys; from pgbus import migrate; from pgbus.database.migrate.versions import scripts_directory;"
        "migrate.upgrade(sys.argv[1]); migrate.check(sys.argv[1]); print(scripts_directory())"
    )
    command = [sys.executable, "-c", program, empty_database]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=180)
    assert answer.stdout.strip() == str(tmp_path / "pgbus" / "migrations")


def test_alembic_makes_a_new_revision_from_the_template(tmp_path: Path) -> None:
    shutil.copy(ROOT / "alembic.ini", tmp_path)
    shutil.copytree(ROOT / "migrations", tmp_path / "migrations")
    command = [sys.executable, "-m", "alembic", "revision", "--rev-id", "7001", "-m", "Calls and answers"]
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=True, timeout=180)
    text = (tmp_path / "migrations" / "versions" / "7001_calls_and_answers.py").read_text(encoding="utf-8")
    compile(text, "7001_calls_and_answers.py", "exec")
    assert f'down_revision = "{migrate.head()}"' in text
    assert 'execute_script("7001_calls_and_answers_upgrade.sql")' in text


# A migration of an application's own, which brings its database's bus along.
APPLICATION = {
    "env.py": """
        import os
        from alembic import context
        from sqlalchemy import create_engine, pool

        engine = create_engine(os.environ["URL"], poolclass=pool.NullPool)
        with engine.connect() as connection:
            context.configure(connection=connection)
            with context.begin_transaction():
                context.run_migrations()
    """,
    "versions/one.py": """
        import os
        from alembic import context, op
        from pgbus import migrate

        revision, down_revision = "one", None

        def upgrade():
            op.execute("CREATE TABLE before (n int)")
            migrate.upgrade(os.environ["DSN"])
            assert "CREATE TABLE pgbus.outbox" in migrate.sql()
            op.execute("CREATE TABLE after (n int)")
            assert context.is_offline_mode() is False

        def downgrade():
            op.execute("DROP TABLE before")
            migrate.downgrade(os.environ["DSN"], revision="base")
            op.execute("DROP TABLE after")
    """,
}


def test_an_application_upgrades_the_bus_within_its_own_alembic_run(empty_database: str, tmp_path: Path) -> None:
    (tmp_path / "versions").mkdir()
    for name, text in APPLICATION.items():
        (tmp_path / name).write_text(textwrap.dedent(text))
    (tmp_path / "alembic.ini").write_text("[alembic]\nscript_location = %(here)s\n")
    environ = {**os.environ, "DSN": empty_database, "URL": sqlalchemy_url(empty_database, "psycopg")}
    for direction, tables in (("upgrade head", ["after", "before"]), ("downgrade base", [])):
        command = [sys.executable, "-m", "alembic", *direction.split()]
        done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=180)
        assert done.returncode == 0, done.stderr
        with psycopg.connect(empty_database) as connection:
            query = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version'"
            assert sorted(row[0] for row in connection.execute(query)) == tables
        assert migrate.current(empty_database) == (migrate.head() if tables else None)


def test_the_event_loop_that_a_thread_has_set_is_still_set_after_an_upgrade(database: str) -> None:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        migrate.check(database)
        assert asyncio.get_event_loop_policy().get_event_loop() is loop
    finally:
        asyncio.set_event_loop(None)
        loop.close()
