"""Five services, a request after another, and `kill -9` all the while: each request has one whole tree."""

from __future__ import annotations

import pytest

from tests.chaos.stage import SOAK, Stage
from tests.chaos.trees import ROOT_TOPIC, judge, run
from tests.support.waiting import PATIENCE, eventually


@pytest.mark.timeout(7200 * SOAK or 900)  # dozens of processes start, on a machine that may be busy
async def test_each_request_has_one_whole_tree_whoever_is_killed(stage: Stage) -> None:
    verdict = await run(stage, kills=1000 * SOAK or 20, seed=7)
    assert verdict.broken == {}, verdict
    assert verdict.calls >= verdict.trees > 0


ONE = "(SELECT event_id FROM pgbus.events WHERE topic = 'tree.{}')"
BREAKS = {
    "DELETE FROM pgbus.events WHERE topic = 'tree.charged'": {"orphans", "outside", "missing"},
    "DELETE FROM pgbus.events WHERE topic = 'tree.reported'": {"missing"},
    "DELETE FROM pgbus.events WHERE topic = 'tree.booked'": {"missing"},
    "DELETE FROM pgbus.rpc_requests": {"orphans", "missing"},
    f"DELETE FROM pgbus.causes WHERE id = {ONE.format('mailed')}": {"outside"},
    f"UPDATE pgbus.causes SET causation_id = gen_random_uuid() WHERE id = {ONE.format('mailed')}": {"outside"},
    f"UPDATE pgbus.causes SET correlation_id = 'other' WHERE id = {ONE.format('reported')}": {"outside"},
    """UPDATE pgbus.events SET headers = headers || '{"correlation_id": "other"}' WHERE topic = 'tree.reserved'""": {
        "strangers"
    },
    "UPDATE pgbus.events SET headers = headers - 'causation_id' WHERE topic = 'tree.reserved'": {"orphans", "missing"},
    """INSERT INTO pgbus.events SELECT (jsonb_populate_record(e, '{"position": 999, "event_id":
       "01a22271-f4e1-7421-9fef-5d4f65856ce1"}')).* FROM pgbus.events AS e WHERE topic = 'tree.reported'""": {"twice"},
}


@pytest.mark.timeout(600)
async def test_what_breaks_a_tree_is_found(stage: Stage) -> None:
    await stage.start(module="tests.chaos.tree_service")
    await stage.publish(ROOT_TOPIC, [1])

    async def whole() -> bool:
        return bool(await stage.value("SELECT count(*) = 6 FROM pgbus.events"))

    await eventually(whole, 2 * PATIENCE, message="the tree is not complete")
    assert (await judge(stage.connection)).broken == {}
    for statement, expected in BREAKS.items():
        transaction = stage.connection.transaction()
        await transaction.start()
        await stage.connection.execute(statement)
        broken = (await judge(stage.connection)).broken
        await transaction.rollback()
        assert broken.keys() >= expected, (statement, broken)
