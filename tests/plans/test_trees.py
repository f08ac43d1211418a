"""A tree takes what it finds, however many causes there are."""

from __future__ import annotations

from tests.plans.conftest import EVENTS
from tests.plans.plan import Plans

CAUSES = """
INSERT INTO pgbus.causes (position, id, correlation_id, causation_id)
SELECT e.position, e.event_id, 'request-' || e.position / 10, e.event_id FROM pgbus.events AS e
WHERE e.position <= {count}
"""


async def test_a_tree_is_found_by_the_index_of_its_correlation(plans: Plans) -> None:
    await plans.connection.execute(CAUSES.format(count=EVENTS // 4))
    await plans.connection.execute("ANALYZE pgbus.causes")
    await plans.connection.execute("RESET ALL")
    query = "SELECT * FROM pgbus.correlation_tree('request-777')"
    await plans.ask(query)
    plan = await plans.ask(query)
    assert "causes_p0_correlation_id_idx" in plan.indexes
    assert plan.scanned_whole == set()
    assert "causes_p0" not in {node.relation for node in plan.nodes if node.kind == "Seq Scan"}
    assert plan.pages < 300
    assert plan.steps < 1_000
