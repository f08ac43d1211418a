"""The example of SQLAlchemy's ORM runs as it says."""

from tests.conftest import Connect
from tests.examples.programs import pgbus, python, run
from tests.support import ROOT

EXAMPLE = ROOT / "examples" / "sqlalchemy_orm"


async def test_orders_of_the_orm_are_packed_by_a_worker(empty_database: str, connect: Connect) -> None:
    for arguments in (("migrate",), ("place", "pen", "ink")):
        async with run(*python("shop.py", *arguments), dsn=empty_database, cwd=EXAMPLE) as program:
            assert await program.wait() == 0, program.output
    async with run(*pgbus("run", "shop"), dsn=empty_database, cwd=EXAMPLE) as worker:
        await worker.wait_for("order 1 is packed")
        await worker.wait_for("order 2 is packed")
    connection = await connect(empty_database)
    assert [row["order_id"] for row in await connection.fetch("SELECT order_id FROM parcels ORDER BY 1")] == [1, 2]
    assert await connection.fetchval("SELECT count(*) FROM pgbus.events WHERE payload::text LIKE '%mind%'") == 0
