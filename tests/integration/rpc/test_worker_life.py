"""Calls while workers stop, connections break and answers get lost; and what is kept of a call."""

import asyncio

import asyncpg
import pytest

import pgbus
from pgbus import migrate
from pgbus.database.store import Store
from pgbus.embedded import EmbeddedPostgres
from pgbus.telemetry import CallStarted, SessionOpened
from tests.conftest import Connect
from tests.support import eventually
from tests.support.tables import has_state, state_of
from tests.support.waiting import widening
from tests.support.workers import Watch, open_bus, running

# ----------------------------------------------------------------------------------------------------- life of a worker


async def test_a_worker_that_stops_lets_running_calls_finish(database: str) -> None:
    async with open_bus(database) as server, open_bus(database) as bus:
        watch = Watch(server)
        gate = asyncio.Event()

        @server.procedure("slow.wait", timeout=60)
        async def wait() -> str:
            await gate.wait()
            return "finished"

        async with running(server) as worker:
            call = asyncio.create_task(bus.call("slow.wait"))
            await watch.first(CallStarted)
            worker.request_stop()
            await eventually(lambda: _is_refused(bus, "slow.wait"))
            gate.set()
            assert await call == "finished"


async def _is_refused(bus: pgbus.Bus, procedure: str) -> bool:
    try:
        await bus.call(procedure, timeout=2)
    except pgbus.NoWorkerAvailable:
        return True
    except pgbus.CallTimeout:
        return False
    return False


async def test_a_worker_that_stops_in_a_hurry_says_that_its_calls_are_lost(database: str) -> None:
    async with open_bus(database) as server, open_bus(database) as bus:
        watch = Watch(server)

        @server.procedure("slow.wait", timeout=60)
        async def wait() -> None:
            await asyncio.Event().wait()

        async with running(server) as worker:
            call = asyncio.create_task(bus.call("slow.wait"))
            await watch.first(CallStarted)
            worker.request_stop()
            worker.request_stop()
            with pytest.raises(pgbus.WorkerLost, match="the worker stopped"):
                await call


async def test_calls_go_on_after_every_connection_was_cut(database: str, connect: Connect) -> None:
    async with open_bus(database) as server, open_bus(database) as bus:

        @server.procedure("maths.double")
        async def double(n: int) -> int:
            return 2 * n

        connection = await connect(database)
        async with running(server):
            assert await bus.call("maths.double", {"n": 1}) == 2
            await _cut_all_connections(connection)
            answers = await asyncio.gather(
                *(bus.call("maths.double", {"n": n}, timeout=30, wait=True) for n in range(20))
            )
            assert answers == [2 * n for n in range(20)]


async def test_an_answer_whose_notification_was_lost_is_found(
    bus: pgbus.Bus, monkeypatch: pytest.MonkeyPatch, database: str, connect: Connect
) -> None:
    @bus.procedure("maths.double")
    async def double(n: int) -> int:
        return 2 * n

    async with running(bus):
        await bus.call("maths.double", {"n": 1})
        # Nobody listens there: nobody hears of the answers from now on.
        monkeypatch.setattr("pgbus.database.channels.replies", lambda namespace, caller: f"{namespace}_other_{caller}")
        assert await bus.call("maths.double", {"n": 2}, timeout=30) == 4


async def test_a_claim_that_the_worker_never_learned_of_is_given_up(database: str, connect: Connect) -> None:
    async with open_bus(database) as server, open_bus(database) as bus:
        watch = Watch(server)

        @server.procedure("maths.double")
        async def double(n: int) -> int:
            return 2 * n

        connection = await connect(database)
        async with running(server):
            assert await bus.call("maths.double", {"n": 1}) == 2
            # Taken in the name of the worker, which knows nothing of it: so a claim looks whose answer was lost.
            await connection.execute(
                """
                CREATE FUNCTION take() RETURNS trigger LANGUAGE plpgsql AS $$
                BEGIN
                    NEW.taken_at := clock_timestamp();
                    NEW.worker_id := (SELECT id FROM pgbus.workers);
                    RETURN NEW;
                END $$;
                CREATE TRIGGER take BEFORE INSERT ON pgbus.rpc_requests FOR EACH ROW EXECUTE FUNCTION take();
                """
            )
            call = asyncio.create_task(bus.call("maths.double", {"n": 1}, timeout=60))
            await eventually(lambda: has_state(connection, "maths.double", "running"))
            await _cut_all_connections(connection)
            await watch.first(SessionOpened, after=1)
            with pytest.raises(pgbus.WorkerLost):
                await call


async def test_a_database_that_is_gone_is_said_to_be(own_server: EmbeddedPostgres) -> None:
    migrate.upgrade(own_server.dsn())
    async with open_bus(own_server.dsn()) as bus:
        with pytest.raises(pgbus.NoWorkerAvailable):
            await bus.call("a.b")
        await asyncio.to_thread(own_server.stop)
        with pytest.raises(pgbus.DatabaseUnreachableError):
            await bus.call("a.b")


async def _cut_all_connections(connection: asyncpg.Connection) -> None:
    await connection.fetch(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
    )


# ------------------------------------------------------------------------------------------------------------- history


async def test_calls_are_queryable_until_they_are_pruned(database: str, connect: Connect) -> None:
    async with open_bus(database, process_name="tester") as bus:

        @bus.procedure("maths.divide")
        async def divide(a: int, b: int) -> float:
            return a / b

        async with running(bus):
            assert await bus.call("maths.divide", {"a": 1, "b": 2}, timeout=20) == 0.5
            with pytest.raises(pgbus.RemoteError):
                await bus.call("maths.divide", {"a": 1, "b": 0}, timeout=20)
        connection = await connect(database)
        first, second = await connection.fetch(
            "SELECT *, arguments->>'a' AS a FROM pgbus.rpc_calls ORDER BY requested_at"
        )
        assert (first["state"], first["result"], first["caller"], first["worker"]) == (
            "answered", "0.5", "tester", "tester",
        )  # fmt: skip
        assert first["a"] == "1"
        assert 0 <= first["duration"] < 20
        assert (second["state"], second["error_type"]) == ("failed", "builtins.ZeroDivisionError")
        assert "a / b" in second["traceback"]

        store = Store(connection, namespace="pgbus")
        assert (await store.fetch_one("prune_calls", retention=60.0, batch=10))["calls"] == 0
        await connection.execute(
            """
            UPDATE pgbus.rpc_requests
            SET deadline = now() - interval '61 s',
                call_id = CASE WHEN procedure = 'maths.divide' THEN
                    overlay(call_id::text PLACING '00000000' FROM 1 FOR 8)::uuid END
            WHERE call_id = $1
            """,
            first["call_id"],
        )
        assert (await store.fetch_one("prune_calls", retention=60.0, batch=10))["calls"] == 1
        assert await state_of(connection, "maths.divide") == ["failed"]


async def test_what_nobody_took_in_time_leaves_the_queue(bus: pgbus.Bus, database: str, connect: Connect) -> None:
    connection = await connect(database)
    for timeout in widening(0.5):
        with pytest.raises(pgbus.CallTimeout):
            await bus.call("nobody.there", timeout=timeout, wait=True)
        if await has_state(connection, "nobody.there", "expired"):
            break  # it was sent before its time was over
    assert await connection.fetchval("SELECT count(*) FROM pgbus.rpc_responses") == 0
    async with running(bus):  # its leader clears up
        await eventually(
            lambda: connection.fetchval(
                "SELECT (SELECT count(*) FROM pgbus.rpc_responses) = (SELECT count(*) FROM pgbus.rpc_requests)"
            )
        )
    assert await connection.fetchval(
        "SELECT bool_and(taken_at IS NOT NULL AND worker_id IS NULL) FROM pgbus.rpc_requests"
    )
    assert set(await state_of(connection, "nobody.there")) == {"expired"}
