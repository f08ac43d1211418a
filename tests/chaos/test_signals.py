"""SIGTERM and SIGINT: what runs is finished and settled, the rest is returned, and nothing is handled twice."""

from __future__ import annotations

import signal

import pytest

from tests.chaos.stage import SOAK, Stage, WorkerProcess
from tests.support import eventually

# Seconds that a worker gives its handlers after the first signal.
GRACE = 60.0

both_signals = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)


async def heeded(stage: Stage, worker: WorkerProcess, listener: str) -> None:
    """Wait until a worker has heeded its first signal, and has returned what it did not start."""
    # Two signals of one number merge while the first is not yet handled.
    await eventually(lambda: "stopping; waiting" in worker.log, message="the worker did not say that it stops")
    # What runs is in pieces, whose other events are returned with them.
    query = """
        SELECT sum(events) FILTER (WHERE state = 'waiting') > 40
        FROM pgbus.pending
        WHERE listener_name = $1 AND NOT EXISTS (SELECT FROM pgbus.listeners WHERE cursor IS NOT NULL)
    """
    await eventually(lambda: stage.value(query, listener), message="the worker did not return what it did not start")


@both_signals
async def test_a_signal_lets_handlers_finish_and_nothing_is_handled_twice(stage: Stage, number: signal.Signals) -> None:
    await stage.close_gate()
    worker = await stage.start("gated", batch_target=10)
    await stage.publish("chaos.gated", range(60))
    await stage.wait_for("started", 5)

    worker.signal(number)
    await heeded(stage, worker, "gated")
    assert worker.lives
    await stage.open_gate()

    assert await worker.ended() == 0
    started = await stage.numbers("started")
    assert await stage.numbers("handled") == started
    await stage.start("gated")
    await stage.settled()
    assert await stage.numbers("started") == await stage.numbers("handled") == list(range(60))
    assert await stage.value("SELECT bool_and(attempt = 1 AND outcome = 'done') FROM pgbus.attempts")


@both_signals
@pytest.mark.parametrize("listener", ["gated", "threaded"])
async def test_a_second_signal_stops_at_once(stage: Stage, number: signal.Signals, listener: str) -> None:
    await stage.close_gate()
    worker = await stage.start(listener, batch_target=10, grace=GRACE)
    await stage.publish(f"chaos.{listener}", range(60))
    await stage.wait_for("started", 2)

    worker.signal(number)
    await heeded(stage, worker, listener)
    worker.signal(number)
    assert await worker.ended(GRACE / 2) == 0
    assert await stage.numbers("handled") == []

    await stage.open_gate()
    await stage.start(listener)
    await stage.settled()
    assert set(await stage.numbers("handled")) == set(range(60))
    assert await stage.dead_letters() == []


async def test_a_worker_that_is_stopped_while_idle_ends_at_once_and_leaves_no_row(stage: Stage) -> None:
    worker = await stage.start("record")
    await stage.registered(worker)
    await stage.publish("chaos.recorded", [1])
    await stage.wait_for("handled", 1)
    worker.signal(signal.SIGTERM)
    assert await worker.ended() == 0
    assert await stage.value("SELECT count(*) FROM pgbus.workers") == 0


async def test_a_stopped_worker_leaves_no_claim_that_counts_as_a_crash(stage: Stage) -> None:
    """Also not the one whose answer was under way when it was told to stop."""
    for round_number in range(4 * (SOAK or 1)):
        worker = await stage.start("record")
        await stage.publish("chaos.recorded", range(round_number * 3000, (round_number + 1) * 3000))
        await stage.wait_for("handled", await stage.count("handled") + 200)
        worker.signal(signal.SIGTERM)
        assert await worker.ended() == 0
        assert await stage.value("SELECT count(*) FROM pgbus.deliveries WHERE claim_token IS NOT NULL") == 0
