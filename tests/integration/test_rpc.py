"""Calls within one process: what comes back, what is refused, and what is never executed."""

import asyncio
import contextvars
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg
import pydantic
import pytest

import pgbus
from pgbus import migrate
from pgbus.database.store import Store
from pgbus.embedded import EmbeddedPostgres
from pgbus.errors import ConfigurationError, DuplicateProcedureName
from pgbus.telemetry import CallEnded, CallStarted, SessionOpened
from tests.conftest import Connect
from tests.support import eventually
from tests.support.workers import Inbox, Watch, open_bus, running


@dataclass
class User:
    name: str
    is_admin: bool = False


class Address(pydantic.BaseModel):
    city: str


class OutOfStock(Exception):
    def __init__(self, item: str, left: int) -> None:
        super().__init__(item, left)
        self.item = item
        self.left = left


async def state_of(connection: asyncpg.Connection, procedure: str) -> list[str]:
    rows = await connection.fetch(
        "SELECT state FROM pgbus.rpc_calls WHERE procedure = $1 ORDER BY requested_at", procedure
    )
    return [row["state"] for row in rows]


# ------------------------------------------------------------------------------------------------------------ results


async def test_a_call_brings_the_result_of_an_async_and_of_a_plain_function(bus: pgbus.Bus) -> None:
    @bus.procedure("auth.check_password")
    async def check_password(username: str, password: str) -> bool:
        return (username, password) == ("admin", "secret")

    @bus.procedure("auth.count")
    def count(words: list[str], least: int = 1) -> int:
        return len([word for word in words if len(word) >= least])

    async with running(bus):
        assert await bus.call("auth.check_password", {"username": "admin", "password": "secret"}) is True
        assert await bus.call("auth.check_password", {"username": "admin", "password": "other"}) is False
        assert await bus.call("auth.count", {"words": ["a", "bc"]}) == 2
        assert await bus.call("auth.count", {"words": ["a", "bc"], "least": 2}) == 1


async def test_arguments_and_results_are_cast_on_either_side(bus: pgbus.Bus) -> None:
    got: list[object] = []

    @bus.procedure("users.promote")
    async def promote(user: User, address: Address, at: datetime, more: User | None = None) -> User:
        got.extend((user, address, at, more))
        return User(user.name, is_admin=True)

    at = datetime.fromisoformat("2026-01-02T03:04:05+00:00")
    arguments = {"user": User("adam"), "address": Address(city="London"), "at": at}
    async with running(bus):
        assert await bus.call("users.promote", arguments, returns=User) == User("adam", is_admin=True)
        assert await bus.call("users.promote", arguments) == User("adam", is_admin=True)
        assert await bus.call("users.promote", arguments, returns=dict) == {"name": "adam", "is_admin": True}
        assert got[:4] == [User("adam"), Address(city="London"), at, None]
        with pytest.raises(pgbus.InvalidResult, match=r"does not fit what `returns` asks for: Expected `int`"):
            await bus.call("users.promote", arguments, returns=int)


async def test_a_procedure_may_take_arguments_that_it_does_not_name(bus: pgbus.Bus) -> None:
    @bus.procedure("echo.all")
    async def echo(first: int, **others: Any) -> dict[str, Any]:
        return {"first": first, **others}

    async with running(bus):
        assert await bus.call("echo.all", {"first": 1, "b": [2]}) == {"first": 1, "b": [2]}


async def test_a_bound_method_is_a_procedure(bus: pgbus.Bus) -> None:
    class Api:
        async def double(self, n: int) -> int:
            return 2 * n

    bus.procedure("maths.double")(Api().double)
    async with running(bus):
        assert await bus.call("maths.double", {"n": 4}) == 8


async def test_megabytes_travel_both_ways(bus: pgbus.Bus) -> None:
    @bus.procedure("echo.text")
    async def echo(text: str) -> str:
        return text

    texts = [letter * 5_000_000 for letter in "abc"]
    async with running(bus):
        assert await asyncio.gather(*(bus.call("echo.text", {"text": text}, timeout=60) for text in texts)) == texts


async def test_a_thread_that_blocks_calls_too(bus: pgbus.Bus) -> None:
    @bus.procedure("maths.double")
    def double(n: int) -> int:
        return 2 * n

    @bus.procedure("maths.quadruple")
    def quadruple(n: int) -> int:
        doubled: int = bus.call_sync("maths.double", {"n": n})
        return 2 * doubled

    async with running(bus):
        assert await asyncio.to_thread(bus.call_sync, "maths.quadruple", {"n": 3}) == 12
        with pytest.raises(pgbus.CannotBlockHere, match="await call"):
            bus.call_sync("maths.double", {"n": 1})


async def test_handlers_and_procedures_call_their_own_api(bus: pgbus.Bus) -> None:
    got: Inbox[int] = Inbox()

    @bus.procedure("maths.fibonacci")
    async def fibonacci(n: int) -> int:
        if n < 2:
            return n
        parts = [bus.call("maths.fibonacci", {"n": n - 1}), bus.call("maths.fibonacci", {"n": n - 2})]
        return sum(await asyncio.gather(*parts))

    @bus.listener("numbers.asked", name="answer")
    async def answer(event: int) -> None:
        got.put(await bus.call("maths.fibonacci", {"n": event}))

    async with running(bus):
        await bus.publish(4, topic="numbers.asked")
        assert await got.take(1) == [3]


async def test_a_procedure_declared_while_the_worker_runs_is_served(bus: pgbus.Bus) -> None:
    async with running(bus):

        @bus.procedure("late.comer")
        async def late() -> str:
            return "here"

        assert await bus.call("late.comer", wait=True) == "here"


async def test_only_and_skip_choose_procedures(bus: pgbus.Bus) -> None:
    for name in ("a.one", "a.two"):

        @bus.procedure(name)
        async def procedure() -> None: ...

    async with running(bus, only=["a.one"]):
        assert await bus.call("a.one") is None
        with pytest.raises(pgbus.NoWorkerAvailable):
            await bus.call("a.two")
    async with running(bus, skip=["a.one"]):
        assert await bus.call("a.two") is None


async def test_a_bus_lives_in_any_namespace(empty_database: str) -> None:
    migrate.upgrade(empty_database, namespace="shop")
    async with open_bus(empty_database, namespace="shop") as bus:

        @bus.procedure("maths.double")
        async def double(n: int) -> int:
            return 2 * n

        async with running(bus):
            assert await bus.call("maths.double", {"n": 2}) == 4


async def test_one_caller_serves_and_calls_after_close(bus: pgbus.Bus) -> None:
    @bus.procedure("a.one")
    async def one() -> int:
        return 1

    async with running(bus):
        assert await bus.call("a.one") == 1
        await bus.close()
        assert await bus.call("a.one") == 1


# -------------------------------------------------------------------------------------------------------- concurrency


async def test_concurrent_calls_run_at_once_up_to_the_procedures_concurrency(bus: pgbus.Bus) -> None:
    started: Inbox[int] = Inbox()
    gate = asyncio.Event()

    @bus.procedure("slow.wait", concurrency=3, timeout=60)
    async def wait(n: int) -> int:
        started.put(n)
        await gate.wait()
        return n

    @bus.procedure("quick.answer")
    async def quick() -> str:
        return "quick"

    async with running(bus):
        calls = [asyncio.create_task(bus.call("slow.wait", {"n": n})) for n in range(7)]
        await started.take(3)
        assert await bus.call("quick.answer") == "quick"  # the other procedure has room of its own
        assert len(started.items) == 3
        gate.set()
        assert await asyncio.gather(*calls) == list(range(7))
    assert sorted(started.items) == list(range(7))


async def test_concurrency_is_ten_by_default(bus: pgbus.Bus) -> None:
    started: Inbox[int] = Inbox()
    gate = asyncio.Event()

    @bus.procedure("slow.wait", timeout=60)
    async def wait(n: int) -> None:
        started.put(n)
        await gate.wait()

    @bus.procedure("quick.answer")
    async def quick() -> None: ...

    async with running(bus):
        calls = [asyncio.create_task(bus.call("slow.wait", {"n": n})) for n in range(12)]
        await started.take(10)
        await bus.call("quick.answer")
        assert len(started.items) == 10
        gate.set()
        await asyncio.gather(*calls)


async def test_many_callers_each_get_their_own_answer(bus: pgbus.Bus) -> None:
    @bus.procedure("echo.number")
    async def echo(n: int) -> int:
        return n

    async with running(bus):
        answers = await asyncio.gather(*(bus.call("echo.number", {"n": n}, timeout=60) for n in range(1000)))
    assert answers == list(range(1000))


async def test_requests_and_replies_travel_in_batches(bus: pgbus.Bus, database: str, connect: Connect) -> None:
    @bus.procedure("echo.number", concurrency=500)
    async def echo(n: int) -> int:
        return n

    connection = await connect(database)
    async with running(bus):
        await bus.call("echo.number", {"n": 0})
        await asyncio.gather(*(bus.call("echo.number", {"n": n}, timeout=60) for n in range(500)))
    # A row's xmin is the transaction that wrote it.
    posted = await connection.fetchval("SELECT count(DISTINCT xmin::text) FROM pgbus.rpc_responses")
    assert posted < 100, f"501 responses took {posted} transactions"


# ------------------------------------------------------------------------------------------------------------- errors


async def test_what_a_procedure_raises_comes_with_type_and_traceback(bus: pgbus.Bus) -> None:
    @bus.procedure("shop.buy")
    async def buy(item: str) -> None:
        raise OutOfStock(item, 3)

    async with running(bus):
        with pytest.raises(pgbus.RemoteError, match="OutOfStock") as caught:
            await bus.call("shop.buy", {"item": "tea"})
        assert caught.value.remote_type.endswith("test_rpc.OutOfStock")
        assert "raise OutOfStock(item, 3)" in caught.value.remote_traceback
        assert caught.value.procedure == "shop.buy"

        bus.registry.procedures.allow_errors(OutOfStock)
        with pytest.raises(OutOfStock) as original:
            await bus.call("shop.buy", {"item": "tea"})
        assert (original.value.item, original.value.left) == ("tea", 3)
        assert isinstance(original.value.__cause__, pgbus.RemoteError)


class Unshowable(Exception):
    def __str__(self) -> str:
        raise ValueError("no")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a\x00b\ud800"),
        Unshowable(),
        Exception(object()),
        RecursionError("deep"),
        SystemExit(3),
        KeyboardInterrupt(),
        StopIteration(1),
        asyncio.CancelledError(),
        GeneratorExit(),
        TimeoutError("its own"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("kind", ["async", "plain"])
async def test_a_server_survives_whatever_a_procedure_raises(bus: pgbus.Bus, error: BaseException, kind: str) -> None:
    def plain() -> None:
        raise error

    async def coroutine() -> None:
        raise error

    bus.procedure("bad.one")(coroutine if kind == "async" else plain)

    @bus.procedure("good.one")
    async def good() -> int:
        return 1

    async with running(bus):
        with pytest.raises(pgbus.RemoteError):
            await bus.call("bad.one")
        assert await bus.call("good.one") == 1


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({}, "missing required field `n`"),
        ({"n": "1"}, r"n: Expected `int`, got `str`"),
        ({"n": 1, "m": 2}, "unknown field `m`"),
        ({"n": object()}, "`n` is of .*object.* no JSON form"),
        ({"n": float("nan")}, "is NaN"),
    ],
)
async def test_arguments_that_do_not_fit_are_the_callers_error(
    bus: pgbus.Bus, arguments: dict[str, object], reason: str
) -> None:
    @bus.procedure("maths.double")
    async def double(n: int) -> int:
        return 2 * n

    async with running(bus):
        with pytest.raises(pgbus.InvalidArguments, match=reason):
            await bus.call("maths.double", arguments)
        assert await bus.call("maths.double", {"n": 2}) == 4


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        ("text", "Expected `int`, got `str`"),
        (None, "Expected `int`, got `null`"),
        (object(), "no JSON form"),
        (float("inf"), "infinite"),
        ("a\x00", "NUL"),
    ],
)
async def test_a_result_that_does_not_fit_is_a_clear_error_and_the_server_lives(
    bus: pgbus.Bus, result: object, reason: str
) -> None:
    @bus.procedure("bad.result")
    async def bad() -> int:
        return result  # type: ignore[return-value] # that is the point

    @bus.procedure("good.one")
    async def good() -> int:
        return 1

    async with running(bus):
        with pytest.raises(pgbus.InvalidResult, match=reason):
            await bus.call("bad.result")
        assert await bus.call("good.one") == 1


async def test_what_is_too_large_is_refused_on_either_side(database: str) -> None:
    async with open_bus(database, rpc_max_payload=1000) as bus:

        @bus.procedure("grow.text")
        async def grow(text: str) -> str:
            return 2 * text

        async with running(bus):
            with pytest.raises(pgbus.InvalidArguments, match="limit is 1000 bytes"):
                await bus.call("grow.text", {"text": "x" * 1000})
            with pytest.raises(pgbus.InvalidResult, match="limit is 1000 bytes"):
                await bus.call("grow.text", {"text": "x" * 600})


async def test_a_declaration_that_cannot_work_is_refused(bus: pgbus.Bus) -> None:
    class Opaque: ...

    async def takes(what: Opaque) -> None: ...
    async def returns() -> Opaque:
        return Opaque()

    async def positional(a: int, /) -> None: ...
    async def fine() -> None: ...

    for handler, reason in ((takes, "'what' is annotated"), (returns, "returns"), (positional, "drop the '/'")):
        with pytest.raises(ConfigurationError, match=reason):
            bus.procedure("a.b")(handler)
    for name in ("plain", "", "a b.c", "a..b"):
        with pytest.raises(ConfigurationError, match="procedure"):
            bus.procedure(name)(fine)
    with pytest.raises(ConfigurationError, match="concurrency"):
        bus.procedure("a.b", concurrency=0)(fine)
    with pytest.raises(ConfigurationError, match="timeout"):
        bus.procedure("a.b", timeout=0)(fine)
    bus.procedure("a.b")(fine)
    with pytest.raises(DuplicateProcedureName):
        bus.procedure("a.b")(fine)


# ----------------------------------------------------------------------------------- nobody there, too late, called off


async def test_a_call_that_nobody_serves_fails_at_once(bus: pgbus.Bus, database: str, connect: Connect) -> None:
    loop = asyncio.get_running_loop()
    started = loop.time()
    with pytest.raises(pgbus.NoWorkerAvailable, match="no live worker serves it"):
        await bus.call("auth.check_password", {}, timeout=30)
    assert loop.time() - started < 5
    assert await state_of(await connect(database), "auth.check_password") == []


async def test_a_call_that_is_told_to_wait_is_served_by_who_comes(
    bus: pgbus.Bus, database: str, connect: Connect
) -> None:
    @bus.procedure("maths.double")
    async def double(n: int) -> int:
        return 2 * n

    connection = await connect(database)
    call = asyncio.create_task(bus.call("maths.double", {"n": 4}, timeout=60, wait=True))
    await eventually(lambda: _has_state(connection, "maths.double", "waiting"))
    async with running(bus):
        assert await call == 8


async def _has_state(connection: asyncpg.Connection, procedure: str, state: str) -> bool:
    return state in await state_of(connection, procedure)


async def test_a_worker_that_stopped_serves_no_more(bus: pgbus.Bus) -> None:
    @bus.procedure("a.one")
    async def one() -> int:
        return 1

    async with running(bus):
        assert await bus.call("a.one") == 1
    # The caller may believe in it for a moment yet, but finds out long before the timeout.
    async with asyncio.timeout(10):
        with pytest.raises(pgbus.NoWorkerAvailable):
            await bus.call("a.one", timeout=60)


async def test_a_late_call_is_never_executed(bus: pgbus.Bus, database: str, connect: Connect) -> None:
    ran: list[int] = []
    gate = asyncio.Event()
    watch = Watch(bus)

    @bus.procedure("slow.wait", concurrency=1)
    async def wait(n: int) -> None:
        ran.append(n)
        await gate.wait()

    connection = await connect(database)
    async with running(bus):
        first = asyncio.create_task(bus.call("slow.wait", {"n": 1}, timeout=60))
        await watch.first(CallStarted)
        with pytest.raises(pgbus.CallTimeout, match=r"no answer within 0\.2 seconds") as caught:
            await bus.call("slow.wait", {"n": 2}, timeout=0.2)
        assert isinstance(caught.value, TimeoutError)
        await eventually(lambda: _has_state(connection, "slow.wait", "expired"))
        gate.set()
        await first
        await bus.call("slow.wait", {"n": 3})
    assert ran == [1, 3]


async def test_a_procedure_that_runs_at_its_deadline_is_cancelled(
    bus: pgbus.Bus, database: str, connect: Connect
) -> None:
    watch = Watch(bus)

    @bus.procedure("slow.wait")
    async def wait() -> None:
        await asyncio.Event().wait()

    async with running(bus):
        with pytest.raises(pgbus.CallTimeout):
            await bus.call("slow.wait", timeout=0.2)
        assert (await watch.first(CallEnded)).outcome == "expired"
        connection = await connect(database)
        await eventually(lambda: _has_state(connection, "slow.wait", "expired"))


async def test_the_timeout_is_the_calls_else_the_procedures_else_the_setting(database: str) -> None:
    gate = asyncio.Event()
    async with open_bus(database, rpc_timeout=0.3) as bus, open_bus(database) as server:

        @server.procedure("slow.patient", timeout=60)
        async def patient() -> str:
            await asyncio.wait([asyncio.create_task(gate.wait())])
            return "patient"

        @server.procedure("slow.plain")
        async def plain() -> None:
            await asyncio.Event().wait()

        async with running(server):
            call = asyncio.create_task(bus.call("slow.patient"))
            with pytest.raises(pgbus.CallTimeout, match=r"within 0\.3 seconds"):
                await bus.call("slow.plain")
            with pytest.raises(pgbus.CallTimeout, match=r"within 0\.1 seconds"):
                await bus.call("slow.plain", timeout=0.1)
            gate.set()
            assert await call == "patient"


async def test_cancelling_the_caller_takes_a_waiting_call_back(bus: pgbus.Bus, database: str, connect: Connect) -> None:
    ran: list[int] = []
    gate = asyncio.Event()
    watch = Watch(bus)

    @bus.procedure("slow.wait", concurrency=1, timeout=60)
    async def wait(n: int) -> None:
        ran.append(n)
        await gate.wait()

    connection = await connect(database)
    async with running(bus):
        first = asyncio.create_task(bus.call("slow.wait", {"n": 1}))
        await watch.first(CallStarted)
        second = asyncio.create_task(bus.call("slow.wait", {"n": 2}))
        await eventually(lambda: _has_state(connection, "slow.wait", "waiting"))
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        await eventually(lambda: _has_state(connection, "slow.wait", "cancelled"))
        gate.set()
        await first
    assert ran == [1]


async def test_cancelling_the_caller_cancels_the_running_procedure(bus: pgbus.Bus) -> None:
    watch = Watch(bus)
    ended: Inbox[str] = Inbox()

    @bus.procedure("slow.wait", timeout=60)
    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.put("cancelled")
            raise

    async with running(bus):
        call = asyncio.create_task(bus.call("slow.wait"))
        await watch.first(CallStarted)
        call.cancel()
        assert await ended.take(1) == ["cancelled"]
        assert (await watch.first(CallEnded)).outcome == "cancelled"


async def test_a_call_that_is_cancelled_before_it_is_sent_is_never_sent(
    bus: pgbus.Bus, database: str, connect: Connect
) -> None:
    @bus.procedure("maths.double")
    async def double(n: int) -> int:
        return 2 * n

    async with running(bus):
        await bus.call("maths.double", {"n": 1})
        call = asyncio.create_task(bus.call("maths.double", {"n": 2}))
        asyncio.get_running_loop().call_soon(call.cancel)
        with pytest.raises(asyncio.CancelledError):
            await call
        await bus.call("maths.double", {"n": 3})
        assert await state_of(await connect(database), "maths.double") == ["answered", "answered"]


async def test_closing_the_bus_ends_calls_under_way(database: str) -> None:
    async with open_bus(database) as server, open_bus(database) as bus:
        watch = Watch(server)

        @server.procedure("slow.wait", timeout=60)
        async def wait() -> None:
            await asyncio.Event().wait()

        async with running(server) as worker:
            call = asyncio.create_task(bus.call("slow.wait"))
            await watch.first(CallStarted)
            await bus.close()
            with pytest.raises(pgbus.CallCancelled, match="closed"):
                await call
            worker.request_stop()
            worker.request_stop()


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
            await eventually(lambda: _has_state(connection, "maths.double", "running"))
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
    with pytest.raises(pgbus.CallTimeout):
        await bus.call("nobody.there", timeout=0.1, wait=True)
    await eventually(lambda: _has_state(connection, "nobody.there", "expired"))
    assert await connection.fetchval("SELECT count(*) FROM pgbus.rpc_responses") == 0
    async with running(bus):  # its leader clears up
        await eventually(lambda: connection.fetchval("SELECT count(*) FROM pgbus.rpc_responses"))
    assert await connection.fetchval("SELECT taken_at IS NOT NULL AND worker_id IS NULL FROM pgbus.rpc_requests")
    assert await state_of(connection, "nobody.there") == ["expired"]


async def test_context_variables_of_calls_are_apart(bus: pgbus.Bus) -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)

    @bus.procedure("context.count")
    async def count() -> int:
        variable.set(variable.get() + 1)
        return variable.get()

    async with running(bus):
        assert await asyncio.gather(*(bus.call("context.count") for _ in range(5))) == [1] * 5
