"""Order, and batches in one transaction, while workers die."""

from __future__ import annotations

from tests.chaos.stage import SOAK, Stage

KEYS = 5


async def test_events_of_a_key_are_handled_in_order_whatever_is_killed(stage: Stage) -> None:
    kills = 20 * SOAK or 3
    events = 200 * kills
    transaction = stage.connection.transaction()
    await transaction.start()
    for number in range(events):
        await stage.bus.publish(
            {"n": number}, topic="chaos.ordered", key=f"key {number % KEYS}", using=stage.connection
        )
    await transaction.commit()
    for _ in range(kills):
        team = [await stage.start("ordered"), await stage.start("ordered")]
        await stage.wait_for("handled", min(events, await stage.count("handled") + 60))
        for worker in team:
            await worker.kill()
    await stage.start("ordered")
    await stage.wait_for("handled", events)
    await stage.settled()

    # An event may begin again after a kill; but none before the one before it is through.
    leaps = """
        SELECT later.n
        FROM started AS later
        JOIN (SELECT n, min(at) AS through_at FROM handled GROUP BY n) AS earlier ON earlier.n = later.n - $1
        WHERE later.at < earlier.through_at
    """
    assert await stage.connection.fetch(leaps, KEYS) == []
    assert await stage.count("started") == await stage.count("handled") == events
    assert await stage.dead_letters() == []
