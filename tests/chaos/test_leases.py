"""A worker that hangs: its lease runs out, another one takes the event, and what the first one settles late is void."""

from __future__ import annotations

import signal

import pytest

from tests.chaos.stage import Stage
from tests.support import eventually


async def test_a_worker_with_a_blocked_loop_loses_its_lease_and_settles_nothing(stage: Stage) -> None:
    await stage.start_idle()
    await stage.close_gate()
    hung = await stage.start("blocking", lease=1, CHAOS_BLOCKS=1, process_name="hung")
    await stage.publish("chaos.blocking", [1])
    await stage.wait_for("started", 1, pid=hung.pid)

    heir = await stage.start("blocking", process_name="heir")
    await stage.wait_for("handled", 1, pid=heir.pid)
    await stage.settled()
    await heir.kill()

    await stage.open_gate()
    # Once it has handled another event, it has tried to settle the first one.
    await stage.publish("chaos.blocking", [2])
    await stage.wait_for("handled", 2, pid=hung.pid)
    await stage.settled()
    told = await stage.connection.fetch(
        "SELECT (payload ->> 'n')::integer, worker, outcome FROM pgbus.event_history ORDER BY position, started_at"
    )
    assert [tuple(row) for row in told] == [(1, "heir", "done"), (2, "hung", "done")]
    assert "lost 1 claims" in hung.log
    assert await stage.dead_letters() == []


async def test_a_transactional_handler_that_hangs_needs_no_lease(stage: Stage) -> None:
    """Its transaction holds the delivery: whoever looks for lost claims steps over it."""
    await stage.start_idle()
    await stage.connection.execute("BEGIN; LOCK TABLE effects IN EXCLUSIVE MODE")
    hung = await stage.start("effect", lease=3, poll_interval=0.2)  # and it may be slow to begin what it claims
    await stage.publish("chaos.effect", [1])
    waits = "SELECT pid FROM pg_locks WHERE NOT granted AND relation = 'effects'::regclass"
    await eventually(lambda: stage.value(waits))
    hung.signal(signal.SIGSTOP)  # it cannot extend its lease any more
    expired = "SELECT lease_expires_at < clock_timestamp() - interval '1 second' FROM pgbus.deliveries"
    await eventually(lambda: stage.value(expired))
    assert await stage.value("SELECT crashes = 0 AND claim_token IS NOT NULL FROM pgbus.deliveries")
    hung.signal(signal.SIGCONT)
    await stage.connection.execute("COMMIT")
    await stage.settled()
    assert await stage.numbers("effects") == [1]


@pytest.mark.parametrize("listener", ["one_by_one", "laned", "together", "gated_effect"])
async def test_a_worker_frozen_past_its_lease_starts_nothing_more_of_its_claims(stage: Stage, listener: str) -> None:
    # A transaction holds on to its event, lease or not, until the server ends it.
    name = await stage.connection.fetchval("SELECT quote_ident(current_database())")
    await stage.connection.execute(f"ALTER DATABASE {name} SET idle_in_transaction_session_timeout = '3s'")
    await stage.start_idle()
    await stage.close_gate()
    stopped = await stage.start(listener, lease=1, process_name="stopped")
    await stage.registered(stopped)
    await stage.publish("chaos.stopped", range(1, 16), key="k")
    await stage.wait_for("started", 1, pid=stopped.pid)
    stopped.signal(signal.SIGSTOP)

    heir = await stage.start(listener, process_name="heir")
    await stage.wait_for("started", 1, pid=heir.pid)
    await stage.open_gate()
    settled = "SELECT count(*) = $1 FROM pgbus.attempts WHERE worker = 'heir' AND outcome = 'done'"
    await eventually(lambda: stage.value(settled, 15))
    await heir.kill()

    stopped.signal(signal.SIGCONT)
    await stage.wait_for("handled", 1, pid=stopped.pid)
    await stage.publish("chaos.stopped", [99], key="k")
    await stage.settled()
    started = await stage.connection.fetch("SELECT DISTINCT n FROM started WHERE pid = $1 ORDER BY n", stopped.pid)
    assert [row["n"] for row in started] == [1, 99]
    assert await stage.dead_letters() == []
    if listener == "gated_effect":
        assert await stage.numbers("effects") == [*range(1, 16), 99]
