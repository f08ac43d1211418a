"""The pytest plugin, in test runs of its own: each is a project with real files, in a process of its own."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from pgbus.testing.databases import DatabaseServer

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[2]

Run = Callable[..., pytest.RunResult]


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, server: DatabaseServer) -> Run:
    """Runs the project's tests, on our own server, with the plugin as an installed pgbus declares it."""
    entry_points = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]
    declared = "".join(f"{name} = {module}\n" for name, module in entry_points["pytest11"].items())
    installed = pytester.mkdir("pgbus_plugin-0.dist-info")
    (installed / "METADATA").write_text("Name: pgbus-plugin\nVersion: 0\n")
    (installed / "entry_points.txt").write_text(f"[pytest11]\n{declared}")
    pytester.makeini("[pytest]\nfilterwarnings = error\nasyncio_default_fixture_loop_scope = function\n")
    monkeypatch.setenv("PGBUS_TEST_DSN", server.dsn)

    def run_tests(*arguments: str) -> pytest.RunResult:
        return pytester.runpytest_subprocess("-p", "no:cacheprovider", "-rs", *arguments, timeout=60)

    return run_tests


EVENTS = """
from dataclasses import dataclass
import pgbus

@pgbus.event("orders.placed")
@dataclass
class OrderPlaced:
    order_id: int
"""

BUS = f"""
{EVENTS}
bus = pgbus.create("postgresql://nobody@127.0.0.1:1/production", namespace="shop_bus")
confirmed = []

@bus.listener(name="confirm")
async def confirm(order: OrderPlaced):
    confirmed.append(order.order_id)
"""


def test_the_fixture_is_a_bus_on_a_fresh_database_for_each_test(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        f"""
        import asyncpg, pytest
        {EVENTS.replace(chr(10), chr(10) + " " * 8)}

        @pytest.mark.parametrize("number", [1, 2])
        @pytest.mark.asyncio
        async def test_async(pgbus, pgbus_dsn, number):
            heard = []

            @pgbus.listener(name="hears")
            async def hears(order: OrderPlaced):
                heard.append(order.order_id)

            await pgbus.publish(OrderPlaced(number))
            (attempt,) = await pgbus.deliver_now()
            assert attempt.outcome == "done"
            connection = await asyncpg.connect(pgbus_dsn)
            transaction = connection.transaction()
            await transaction.start()
            await pgbus.publish(OrderPlaced(10), using=connection)
            assert len(await pgbus.deliver_now(using=connection)) == 1
            await transaction.rollback()
            await connection.close()
            assert heard == [number, 10]

        @pytest.mark.parametrize("number", [1, 2])
        def test_sync(pgbus, number):
            heard = []

            @pgbus.listener(name="hears")
            def hears(order: OrderPlaced):
                heard.append(order.order_id)

            pgbus.publish_sync(OrderPlaced(number))
            assert len(pgbus.deliver_now_sync()) == 1
            assert heard == [number]
        """
    )
    run().assert_outcomes(passed=4)


def test_it_may_be_the_applications_own_bus_with_its_own_tables(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        **{
            "shop/__init__": "",
            "shop/bus": BUS,
            "conftest": """
                import asyncpg, pytest

                async def make_tables(dsn):
                    connection = await asyncpg.connect(dsn)  # left open: it must not keep the database busy
                    await connection.execute("CREATE TABLE orders (id integer)")

                @pytest.fixture(scope="session")
                def pgbus_prepare():
                    return make_tables
            """,
            "test_shop": """
                import asyncpg, pytest
                from shop.bus import OrderPlaced, bus, confirmed

                @pytest.mark.parametrize("number", [1, 2])
                @pytest.mark.asyncio
                async def test_orders(pgbus, pgbus_dsn, number):
                    assert pgbus is bus
                    confirmed.clear()
                    connection = await asyncpg.connect(pgbus_dsn)
                    async with connection.transaction():
                        await connection.execute("INSERT INTO orders VALUES ($1)", number)
                        await bus.publish(OrderPlaced(number), using=connection)
                        assert len(await pgbus.deliver_now(using=connection)) == 1
                    assert await connection.fetchval("SELECT count(*) FROM orders") == 1
                    assert await connection.fetchval("SELECT count(*) FROM shop_bus.outbox") == 0
                    await connection.close()
                    await bus.publish(OrderPlaced(10))
                    stored = await asyncpg.connect(pgbus_dsn)
                    query = "SELECT name FROM shop_bus.schemas WHERE kind = 'event'"
                    assert await stored.fetchval(query) == "orders.placed"
                    await stored.close()
                    assert len(await pgbus.deliver_now()) == 1
                    assert confirmed == [number, 10]

                def test_afterwards_the_bus_is_what_it_was():
                    assert bus.config.dsn.endswith("/production")
                    assert "BusUnderTest" not in [kind.__name__ for kind in type(bus).__mro__]
            """,
        }
    )
    pytester.path.joinpath("pytest.ini").write_text(
        "[pytest]\nfilterwarnings = error\npythonpath = .\npgbus_bus = shop.bus:bus\n"
        "asyncio_default_fixture_loop_scope = function\n"
    )
    run("-W", "ignore::ResourceWarning", "-W", "ignore::pytest.PytestUnraisableExceptionWarning").assert_outcomes(
        passed=3
    )


@pytest.mark.parametrize(
    ("name", "says"),
    [("nowhere.bus:bus", "there is no module 'nowhere.bus'"), ("os:path", "'path' in module 'os' is of type module")],
)
def test_a_wrong_pgbus_bus_is_an_error_that_says_so(pytester: pytest.Pytester, run: Run, name: str, says: str) -> None:
    pytester.makepyfile("def test_it(pgbus): ...")
    result = run("-o", f"pgbus_bus={name}")
    result.assert_outcomes(errors=1)
    assert says in result.stdout.str()


def test_the_start_functions_of_the_applications_module_declare_listeners_in_tests_too(
    pytester: pytest.Pytester, run: Run
) -> None:
    pytester.makepyfile(
        app="""
            import pgbus
            bus = pgbus.create()
            heard = []

            class AuthApi(pgbus.Api):
                user_created = pgbus.Event(parameters=("username",))
                class Meta:
                    name = "auth"

            bus.client.register_api(AuthApi())

            def before_server_start():
                bus.auth.user_created.listen(lambda username: heard.append(username), listener_name="greet")
        """,
        test_app="""
            from app import bus, heard

            def test_it(pgbus):
                bus.auth.user_created.fire(username="ada")
                pgbus.deliver_now_sync()
                assert heard == ["ada"]
        """,
    )
    run("-o", "pgbus_bus=app", "-o", "pythonpath=.").assert_outcomes(passed=1)


def test_xdist_workers_have_databases_of_their_own(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("number", range(4))
        def test_it(pgbus, number):
            heard = []
            pgbus.listener("n", name="hears")(lambda event: heard.append(event))
            pgbus.publish_sync(number, topic="n")
            pgbus.deliver_now_sync()
            assert heard == [number]
        """
    )
    run("-n", "2").assert_outcomes(passed=4)


def test_without_a_server_given_it_starts_an_embedded_one(
    pytester: pytest.Pytester, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PGBUS_TEST_DSN")
    pytester.makepyfile("def test_it(pgbus): assert pgbus.publish_sync(1, topic='n').id")
    run().assert_outcomes(passed=1)


def test_where_there_is_no_server_tests_are_skipped_and_say_why(
    pytester: pytest.Pytester, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("PGBUS_TEST_DSN")
    monkeypatch.setenv("PGBUS_PG_BINDIR", str(tmp_path))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    pytester.makepyfile("def test_it(pgbus): ...\ndef test_other(): ...")
    result = run()
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines(["*SKIPPED*there is no PostgreSQL for tests: set PGBUS_TEST_DSN*"])


def test_who_does_not_use_the_fixtures_does_not_import_pgbus(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        """
        import sys

        def test_it(request):
            assert "pytest_pgbus" in sys.modules
            assert "pgbus" not in sys.modules
            assert "asyncpg" not in sys.modules
        """
    )
    run().assert_outcomes(passed=1)


def test_an_async_test_of_anyio_leaves_nothing_open(pytester: pytest.Pytester, run: Run) -> None:
    pytest.importorskip("anyio")
    pytester.makepyfile(
        """
        import gc, pytest

        @pytest.fixture
        def anyio_backend():
            return "asyncio"

        @pytest.mark.anyio
        async def test_it(pgbus):
            await pgbus.publish(1, topic="n")

        def test_nothing_is_left():
            gc.collect()
        """
    )
    run().assert_outcomes(passed=2)
