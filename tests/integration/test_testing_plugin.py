"""The pytest plugin, in test runs of its own: each is a project with real files, in a process of its own."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from pgbus.testing.databases import DatabaseServer
from tests.support import ROOT

pytest_plugins = ["pytester"]


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
        return pytester.runpytest_subprocess("-p", "no:cacheprovider", "-rs", *arguments, timeout=180)

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
        async def test_async(pgbus_bus, pgbus_dsn, number):
            heard = []

            @pgbus_bus.listener(name="hears")
            async def hears(order: OrderPlaced):
                heard.append(order.order_id)

            await pgbus_bus.publish(OrderPlaced(number))
            (attempt,) = await pgbus_bus.deliver_now()
            assert attempt.outcome == "done"
            connection = await asyncpg.connect(pgbus_dsn)
            transaction = connection.transaction()
            await transaction.start()
            await pgbus_bus.publish(OrderPlaced(10), using=connection)
            assert len(await pgbus_bus.deliver_now(using=connection)) == 1
            await transaction.rollback()
            await connection.close()
            assert heard == [number, 10]

        @pytest.mark.parametrize("number", [1, 2])
        def test_sync(pgbus_bus, number):
            heard = []

            @pgbus_bus.listener(name="hears")
            def hears(order: OrderPlaced):
                heard.append(order.order_id)

            pgbus_bus.publish_sync(OrderPlaced(number))
            assert len(pgbus_bus.deliver_now_sync()) == 1
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
                async def test_orders(pgbus_bus, pgbus_dsn, number):
                    assert pgbus_bus is bus
                    confirmed.clear()
                    connection = await asyncpg.connect(pgbus_dsn)
                    async with connection.transaction():
                        await connection.execute("INSERT INTO orders VALUES ($1)", number)
                        await bus.publish(OrderPlaced(number), using=connection)
                        assert len(await pgbus_bus.deliver_now(using=connection)) == 1
                    assert await connection.fetchval("SELECT count(*) FROM orders") == 1
                    assert await connection.fetchval("SELECT count(*) FROM shop_bus.outbox") == 0
                    await connection.close()
                    await bus.publish(OrderPlaced(10))
                    stored = await asyncpg.connect(pgbus_dsn)
                    query = "SELECT name FROM shop_bus.schemas WHERE kind = 'event'"
                    assert await stored.fetchval(query) == "orders.placed"
                    await stored.close()
                    assert len(await pgbus_bus.deliver_now()) == 1
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
    pytester.makepyfile("def test_it(pgbus_bus): ...")
    result = run("-o", f"pgbus_bus={name}")
    result.assert_outcomes(errors=1)
    assert says in result.stdout.str()


def test_start_functions_of_the_application_declare_listeners_in_tests(pytester: pytest.Pytester, run: Run) -> None:
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

            def test_it(pgbus_bus):
                bus.auth.user_created.fire(username="ada")
                pgbus_bus.deliver_now_sync()
                assert heard == ["ada"]
        """,
    )
    run("-o", "pgbus_bus=app", "-o", "pythonpath=.").assert_outcomes(passed=1)


def test_xdist_workers_have_databases_of_their_own(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("number", range(4))
        def test_it(pgbus_bus, number):
            heard = []
            pgbus_bus.listener("n", name="hears")(lambda event: heard.append(event))
            pgbus_bus.publish_sync(number, topic="n")
            pgbus_bus.deliver_now_sync()
            assert heard == [number]
        """
    )
    run("-n", "2").assert_outcomes(passed=4)


def test_without_a_server_given_it_starts_an_embedded_one(
    pytester: pytest.Pytester, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PGBUS_TEST_DSN")
    pytester.makepyfile("def test_it(pgbus_bus): assert pgbus_bus.publish_sync(1, topic='n').id")
    run().assert_outcomes(passed=1)


def test_where_there_is_no_server_tests_are_skipped_and_say_why(
    pytester: pytest.Pytester, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("PGBUS_TEST_DSN")
    monkeypatch.setenv("PGBUS_PG_BINDIR", str(tmp_path))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    pytester.makepyfile("def test_it(pgbus_bus): ...\ndef test_other(): ...")
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
        async def test_it(pgbus_bus):
            await pgbus_bus.publish(1, topic="n")

        def test_nothing_is_left():
            gc.collect()
        """
    )
    run().assert_outcomes(passed=2)


SHOP_AND_BILLING = {
    "shop": """
        from dataclasses import dataclass
        import pgbus

        bus = pgbus.create(service_name="shop")
        told = []

        @pgbus.event("orders.placed")
        @dataclass
        class OrderPlaced:
            order_id: int

        @bus.listener("invoices.sent", name="tell")
        async def tell(event: pgbus.EventMessage):
            told.append(event.payload)

        async def price(item: str) -> int:
            return await bus.call("billing.price", {"item": item})
    """,
    "billing": """
        import pgbus

        bus = pgbus.create(service_name="billing")

        def on_start():
            bus.listener("orders.placed", name="send_invoice")(send_invoice)
            bus.procedure("billing.price")(price)
            bus.procedure("billing.double")(double)

        async def send_invoice(order: pgbus.EventMessage):
            await bus.publish(order.payload["order_id"], topic="invoices.sent")

        def price(item: str) -> int:
            if item == "air":
                raise ValueError("the air is free")
            return bus.call_sync("billing.double", {"number": len(item)})

        async def double(number: int) -> int:
            return 2 * number
    """,
}


def test_two_services_share_the_tests_database_their_events_and_their_calls(
    pytester: pytest.Pytester, run: Run
) -> None:
    pytester.makepyfile(
        **SHOP_AND_BILLING,
        test_both="""
            import asyncpg, pytest
            import pgbus
            import billing, shop

            @pytest.mark.asyncio
            async def test_events_go_there_and_back(pgbus_bus, pgbus_dsn):
                assert (pgbus_bus, shop.bus.config.dsn, billing.bus.config.dsn) == (shop.bus, pgbus_dsn, pgbus_dsn)
                await shop.bus.publish(shop.OrderPlaced(7))
                attempts = await pgbus_bus.deliver_now()
                assert [attempt.listener_name for attempt in attempts] == ["send_invoice", "tell"]
                assert shop.told.pop() == 7
                connection = await asyncpg.connect(pgbus_dsn)
                transaction = connection.transaction()
                await transaction.start()
                await shop.bus.publish(shop.OrderPlaced(8), using=connection)
                await pgbus_bus.deliver_now(using=connection)
                await transaction.rollback()
                await connection.close()
                assert shop.told.pop() == 8

            @pytest.mark.asyncio
            async def test_a_call_needs_no_worker(pgbus_bus):
                assert await shop.price("pear") == 8
                with pytest.raises(pgbus.RemoteError, match="the air is free"):
                    await shop.price("air")
                with pytest.raises(pgbus.NoWorkerAvailable):
                    await shop.bus.call("nobody.serves")

            def test_nor_does_one_that_blocks(pgbus_bus):
                assert shop.bus.billing.price(item="pear") == 8
        """,
    )
    run("-o", "pgbus_bus=shop billing", "-o", "pythonpath=.").assert_outcomes(passed=3)


def test_a_call_of_a_test_ends_at_its_timeout_and_when_it_is_cancelled(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        """
        import asyncio
        import pgbus, pytest

        @pytest.mark.asyncio
        async def test_it(pgbus_bus):
            ended, began = [], asyncio.Event()

            @pgbus_bus.procedure("sleepers.sleep")
            async def sleep() -> None:
                try:
                    began.set()
                    await asyncio.Event().wait()
                finally:
                    ended.append(1)

            for timeout in (0.05, 0.5, 5.0, 50.0):  # on a busy machine it may be over before the call begins
                with pytest.raises(pgbus.CallTimeout):
                    await pgbus_bus.call("sleepers.sleep", timeout=timeout)
                if ended:
                    break
            assert ended == [1]
            began.clear()
            task = asyncio.create_task(pgbus_bus.call("sleepers.sleep"))
            await began.wait()
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled() and ended == [1, 1]
        """
    )
    run().assert_outcomes(passed=1)
