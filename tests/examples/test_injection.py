"""The examples of injection run: what a handler is given writes in its transaction, and is closed after it."""

import pytest

import pgbus
from tests.conftest import Connect
from tests.examples.programs import pgbus as program
from tests.examples.programs import run
from tests.support import ROOT

EXAMPLE = ROOT / "examples" / "injection"


@pytest.mark.parametrize("module", ["with_dishka", "with_svcs"])
async def test_a_handler_gets_what_it_needs(module: str, database: str, connect: Connect) -> None:
    connection = await connect(database)
    await connection.execute("CREATE TABLE ledger (order_id integer)")
    async with pgbus.create(database) as bus:
        await bus.publish({"order_id": 7}, topic="orders.placed")
    async with run(*program("run", module), dsn=database, cwd=EXAMPLE) as worker:
        await worker.wait_for("order 7 is noted")
        await worker.wait_for("the ledger is closed")
    assert [row["order_id"] for row in await connection.fetch("SELECT order_id FROM ledger")] == [7]
