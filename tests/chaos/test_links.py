"""The link to the database is reset, goes silent, or loses an answer."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

import pgbus
from pgbus.leader.leader import SILENCE
from tests.chaos.publishers import Load
from tests.chaos.stage import SOAK, Stage
from tests.support import eventually
from tests.support.faultproxy import FaultProxy


async def test_resets_under_load_lose_nothing(stage: Stage) -> None:
    async with FaultProxy(stage.dsn) as proxy:
        worker = await stage.start("record", dsn=proxy.dsn)
        load = Load(stage, "chaos.recorded", "handled", publishers=1)
        for _ in range(20 * SOAK or 4):
            await stage.wait_for("handled", await stage.count("handled") + 50)
            proxy.reset()
        await stage.wait_for("handled", await stage.count("handled") + 50)
        await load.stop()
        await stage.settled()

        assert worker.lives
        assert load.errors == []
        assert set(await stage.numbers("handled")) == load.published
        assert await stage.dead_letters() == []


async def test_a_worker_comes_back_after_its_link_was_silent(stage: Stage) -> None:
    async with FaultProxy(stage.dsn) as proxy:
        worker = await stage.start("record", dsn=proxy.dsn, CHAOS_SILENCE=SILENCE)
        await stage.publish("chaos.recorded", range(100))
        await stage.wait_for("handled", 100)
        proxy.silence()
        await stage.publish("chaos.recorded", range(100, 200))
        # Meanwhile another one, whose link is fine, leads: the server hears nothing of the first.
        other = await stage.start("record")
        await stage.wait_for("handled", 200)
        await stage.until_leads(other)
        proxy.reset()
        proxy.restore()
        await stage.settled()
        await other.kill()
        await stage.publish("chaos.recorded", range(200, 300))
        await stage.wait_for("handled", 300)
        assert worker.lives
        assert await stage.dead_letters() == []


async def test_a_claim_whose_answer_is_lost_does_not_wait_for_its_lease(stage: Stage) -> None:
    async with FaultProxy(stage.dsn) as proxy:
        await stage.start_idle()
        await stage.start("record", dsn=proxy.dsn)
        await stage.publish("chaos.recorded", [0])
        await stage.wait_for("handled", 1)

        # The worker hears that there is work, claims it, and never hears of that. It may have heard something else, or
        # have claimed with the settlement before, without a word: then once more.
        lease = "SELECT min(lease_expires_at) FROM pgbus.deliveries WHERE claim_token IS NOT NULL"

        async def lost() -> object:
            return proxy.holds_answers and await stage.value(lease)

        for number in range(1, 10):
            proxy.hold_answers(after=b"pgbus_work")
            await stage.publish("chaos.recorded", [number])
            with contextlib.suppress(AssertionError):
                expires_at = await eventually(lost, 3)
                break
            proxy.restore()
            await stage.wait_for("handled", number + 1)
        else:
            raise AssertionError("no claim was caught whose answer could be held back")
        proxy.reset()
        proxy.restore()
        await stage.wait_for("handled", number + 1)
        assert await stage.value("SELECT max(at) < $1 FROM handled", expires_at) is True


async def test_a_publish_whose_answer_is_lost_says_that_its_outcome_is_unknown(stage: Stage) -> None:
    async with FaultProxy(stage.dsn) as proxy, pgbus.create(proxy.dsn) as bus:
        await bus.publish({"n": 0}, topic="chaos.recorded")  # prepares the statement, too
        proxy.hold_answers()
        unsure = asyncio.create_task(bus.publish({"n": 1}, topic="chaos.recorded"))
        committed = "SELECT count(*) = 2 FROM pgbus.outbox"
        await eventually(lambda: stage.value(committed))
        proxy.reset()
        proxy.restore()
        with pytest.raises(pgbus.errors.OutcomeUnknownError, match="whether the event was published") as raised:
            await unsure
        assert "secret" not in str(raised.value)
        assert await stage.value("SELECT count(*) FROM pgbus.outbox") == 2


async def test_a_publish_whose_answer_is_lost_is_tried_once_more_under_its_dedup_key(stage: Stage) -> None:
    async with FaultProxy(stage.dsn) as proxy, pgbus.create(proxy.dsn) as bus:
        await bus.publish({"n": 0}, topic="chaos.recorded", dedup_key="first")  # prepares the statement, too
        proxy.hold_answers()
        unsure = asyncio.create_task(bus.publish({"n": 1}, topic="chaos.recorded", dedup_key="once"))
        committed = "SELECT count(*) = 2 FROM pgbus.outbox"
        await eventually(lambda: stage.value(committed))
        proxy.restore()
        proxy.reset()
        first = await stage.value("SELECT event_id FROM pgbus.outbox ORDER BY id DESC LIMIT 1")
        assert (await unsure).event_id == first

        await stage.start("record")
        await stage.wait_for("handled", 2)
        await stage.settled()
        assert await stage.numbers("handled") == [0, 1]


async def test_a_worker_whose_session_is_away_blames_no_event_for_its_death(stage: Stage) -> None:
    """Its pool still works; but nobody may hold claims whose liveness lock is not held."""
    async with FaultProxy(stage.dsn) as proxy:
        await stage.start_idle()
        await stage.close_gate()
        worker = await stage.start("gated", direct_dsn=proxy.dsn, poll_interval=0.2)
        await stage.registered(worker)
        await stage.publish("chaos.gated", [1])
        await stage.wait_for("started", 1)
        proxy.silence()  # so that it cannot come back
        proxy.reset()
        crashes = "SELECT crashes FROM pgbus.deliveries WHERE crashes > 0"
        assert await eventually(lambda: stage.value(crashes)) == 1
        # The pool could still claim, while the leader looks at the claims of the dead several times.
        look = "SELECT clock_timestamp() > $1::timestamptz + interval '4 seconds'"
        begun_at = await stage.value("SELECT clock_timestamp()")
        await eventually(lambda: stage.value(look, begun_at))
        assert await stage.value(crashes) == 1
        proxy.restore()
        proxy.reset()
        await stage.open_gate()
        await stage.settled()
        assert await stage.dead_letters() == []
