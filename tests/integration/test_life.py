"""A worker that a program starts itself: `bus.client.run_forever()`, `start_worker()` and what ends them."""

import asyncio
import signal
import sys
from pathlib import Path

import pytest

import pgbus
from pgbus import migrate
from tests.support.programs import program_of
from tests.support.services import Services
from tests.support.waiting import PATIENCE
from tests.support.workers import Inbox, open_bus


async def test_a_program_starts_and_stops_a_worker_and_may_do_it_again(bus: pgbus.Bus) -> None:
    inbox: Inbox[int] = Inbox()
    bus.client.listen_for_event("shop", "sold", lambda number: inbox.put(number), "note")
    for number in (1, 2):
        await bus.client.start_worker()
        await bus.publish({"number": number}, topic="shop.sold")
        await inbox.take(number)
        with pytest.raises(pgbus.ConfigurationError, match="already has a worker in this event loop"):
            await bus.client.start_worker()
        await bus.client.stop_worker()
    await bus.client.stop_worker()  # there is none
    assert inbox.items == [1, 2]


async def test_a_handler_requests_the_end_of_its_worker_and_is_settled(bus: pgbus.Bus) -> None:
    def stop(event: pgbus.EventMessage) -> None:
        bus.client.request_shutdown()

    bus.client.listen_for_event("shop", "closed", stop, "stop")
    await bus.client.start_worker()
    await bus.publish({}, topic="shop.closed")
    async with asyncio.timeout(PATIENCE):
        await bus.client.raise_errors()
    await bus.client.stop_worker()
    await bus.client.lazy_load_now()
    bus.client.request_shutdown()  # nothing runs any more
    await bus.client.close_async()


async def test_what_a_start_hook_raises_comes_out_of_start_worker(bus: pgbus.Bus) -> None:
    def fail() -> None:
        raise ValueError("no")

    bus.client.on_start(fail)
    with pytest.raises(ValueError, match="no"):
        await bus.client.start_worker()


async def test_a_start_that_is_cancelled_leaves_no_worker(bus: pgbus.Bus) -> None:
    begun = asyncio.Event()

    async def wait() -> None:
        begun.set()
        await asyncio.Event().wait()

    bus.client.on_start(wait)
    start = asyncio.create_task(bus.client.start_worker())
    await begun.wait()
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    await bus.client.start_worker()
    await bus.client.stop_worker()


async def test_connecting_early_finds_a_database_that_nobody_prepared(empty_database: str) -> None:
    async with open_bus(empty_database) as bus:
        with pytest.raises(pgbus.SchemaVersionError):
            await bus.client.lazy_load_now()
        await asyncio.to_thread(migrate.upgrade, empty_database)
        with pytest.raises(pgbus.RemoteSchemasNotLoaded):
            bus.schema.get_api_schema("nobodys_api")
        await bus.client.lazy_load_now()
        with pytest.raises(pgbus.SchemaNotFound):
            bus.schema.get_api_schema("nobodys_api")


async def test_a_handler_also_ends_a_worker_of_the_command_line(services: Services) -> None:
    directory = services.write(
        "shop",
        """
        import pgbus

        bus = pgbus.create()
        bus.client.listen_for_event("shop", "closed", lambda: bus.client.request_shutdown(), "stop")
        """,
    )
    async with services.worker(directory) as worker:
        services.run_code(directory, "from bus import bus; bus.publish_sync({}, topic='shop.closed')")
        assert await worker.ends() == 0
        await services.settled()


async def test_run_forever_does_not_block_an_event_loop(bus: pgbus.Bus) -> None:
    with pytest.raises(pgbus.CannotBlockHere, match="start_worker"):
        bus.client.run_forever()
    bus.client.close()


PROGRAM = """
import sys
import pgbus

bus = pgbus.create(sys.argv[1])
if len(sys.argv) > 2:
    def listen() -> None:
        raise RuntimeError("this hook fails")
    bus.client.on_start(listen)


class Shop(pgbus.Api):
    class Meta:
        name = "shop"

    def stop(self) -> str:
        bus.client.request_shutdown()
        return "stopping"


bus.client.register_api(Shop())
sys.exit(bus.client.run_forever())
"""


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT, None], ids=["SIGTERM", "SIGINT", "a call"])
async def test_run_forever_ends_with_exit_code_0_when_it_is_told_to(
    bus: pgbus.Bus, database: str, tmp_path: Path, ending: signal.Signals | None
) -> None:
    async with program_of(sys.executable, "-c", PROGRAM, database, cwd=tmp_path) as child:
        if ending:
            await _serves(bus)
            child.send_signal(ending)
        else:
            assert await bus.call("shop.stop", wait=True, timeout=30) == "stopping"
        async with asyncio.timeout(PATIENCE):
            assert await child.wait() == 0


async def _serves(bus: pgbus.Bus) -> None:
    """Once it refuses a call, it has taken it."""
    with pytest.raises(pgbus.InvalidArguments):
        await bus.call("shop.stop", {"nonsense": 1}, wait=True, timeout=30)


async def test_run_forever_logs_an_error_and_ends_with_exit_code_1(database: str, tmp_path: Path) -> None:
    async with program_of(sys.executable, "-c", PROGRAM, database, "fail", cwd=tmp_path) as child:
        async with asyncio.timeout(PATIENCE):
            _, said = await child.communicate()
        assert child.returncode == 1
    assert "the worker failed" in said.decode()
    assert "RuntimeError: this hook fails" in said.decode()


LEAVING_ALL_AS_IT_WAS = """
import asyncio
import signal
import sys
import pgbus

loop = asyncio.new_event_loop()
asyncio.set_event_loop(loop)
handlers = {number: lambda *_: None for number in (signal.SIGTERM, signal.SIGINT)}
for number, handler in handlers.items():
    signal.signal(number, handler)

bus = pgbus.create(sys.argv[1])
bus.client.on_start(lambda: bus.client.request_shutdown())
code = bus.client.run_forever()
assert {number: signal.getsignal(number) for number in handlers} == handlers
assert asyncio.get_event_loop() is loop
loop.close()
sys.exit(code)
"""


async def test_run_forever_leaves_the_program_its_signal_handlers_and_its_event_loop(
    database: str, tmp_path: Path
) -> None:
    async with program_of(sys.executable, "-c", LEAVING_ALL_AS_IT_WAS, database, cwd=tmp_path) as child:
        async with asyncio.timeout(PATIENCE):
            _, said = await child.communicate()
        assert child.returncode == 0, said.decode()


def test_create_takes_the_flask_option_of_lightbus() -> None:
    assert isinstance(pgbus.create(flask=True), pgbus.Bus)
