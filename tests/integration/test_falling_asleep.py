"""What comes while the leader falls asleep, at each of its steps: nothing is lost, and nobody sleeps through it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import asyncpg
import pytest

import pgbus
from pgbus.admin import Admin, DeadFilter
from pgbus.config import Config
from pgbus.database.faults import LockNotAvailable
from pgbus.database.statements import sequencer
from pgbus.leader import slumber
from pgbus.worker.worker import Worker
from tests.support import eventually
from tests.support.orders import INSERT, collect, publish
from tests.support.sleeping import PATIENCE, asleep, pair
from tests.support.waiting import widening
from tests.support.workers import Inbox, open_bus, running

STEPS = ("find_owed", "lie_down", "fall_asleep", "rise")

Act = Callable[[], Awaitable[None]]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a bus sleep that was quiet for a moment."""
    monkeypatch.setattr(slumber, "QUIET", 0.2)


class Steps:
    """The steps of a leader that falls asleep and rises; at the next one of a name something happens, once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._acts: dict[str, Act] = {}
        for name in (*STEPS, "advance_wake_slot"):
            monkeypatch.setattr(sequencer, name, self._wrapped(name, getattr(sequencer, name)))

    def at(self, name: str, act: Act) -> None:
        """Do this at `before NAME` or `after NAME`."""
        self._acts[name] = act

    @property
    def is_over(self) -> bool:
        """Whether everything has been done."""
        return not self._acts

    def _wrapped(self, name: str, step: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def wrapped(*args: Any, **kwargs: Any) -> Any:
            if act := self._acts.pop(f"before {name}", None):
                await act()
            answer = await step(*args, **kwargs)
            if act := self._acts.pop(f"after {name}", None):
                await act()
            return answer

        return wrapped


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    return Steps(monkeypatch)


async def _come_to(place: str, steps: Steps, *workers: Worker) -> None:
    """Wait until what is to happen there has; the workers rise only when something wakes them, so until they sleep."""
    if "rise" in place:
        await asleep(*workers)
    else:
        await eventually(lambda: steps.is_over, PATIENCE)


def _has(number: int, items: list[int]) -> bool:
    return number in items


async def test_an_event_that_commits_at_any_step_is_delivered(database: str, steps: Steps) -> None:
    places = [f"{when} {step}" for step in STEPS for when in ("before", "after")]
    async with pair(database) as (publisher, leader, follower, inbox):
        for number, place in enumerate(places):
            steps.at(place, partial(publish, publisher, number))
            if "rise" in place:
                await asleep(leader, follower)
                await publish(publisher, 1000 + number)
            await inbox.until(partial(_has, number))
        assert steps.is_over
        await asleep(leader, follower)


async def test_a_publisher_between_its_two_looks_at_the_slot_keeps_the_bus_awake(
    database: str, connection: asyncpg.Connection, steps: Steps
) -> None:
    gets_up = asyncio.Event()

    async def note() -> None:
        gets_up.set()

    async def share() -> None:
        # It shares a slot that the leader has left, has read the number of the current one, and is about to lock that.
        await connection.execute(
            "SELECT pg_current_xact_id(), pg_try_advisory_xact_lock_shared(hashtext('pgbus.wake'), 9)"
        )
        steps.at("after advance_wake_slot", note)

    async with pair(database) as (_, leader, follower, inbox):
        await connection.execute("BEGIN")
        steps.at("before lie_down", share)
        await asyncio.wait_for(gets_up.wait(), PATIENCE)
        await connection.execute(
            "INSERT INTO pgbus.outbox (wake, topic, payload) VALUES (NULL, 'orders.placed', '{\"n\": 1}')"
        )
        await connection.execute("COMMIT")
        await inbox.take(1)
        await asleep(leader, follower)


@pytest.mark.parametrize("place", ["after find_owed", "before fall_asleep", "after fall_asleep"])
async def test_an_event_that_is_scheduled_meanwhile_comes_on_time(
    database: str, connection: asyncpg.Connection, steps: Steps, place: str
) -> None:
    async with pair(database) as (publisher, leader, follower, inbox):

        async def schedule() -> None:
            soon = datetime.now(UTC) + timedelta(seconds=1)
            await publisher.publish({"n": 1}, topic="orders.placed", deliver_at=soon)

        steps.at(place, schedule)
        await inbox.take(1)
        await asleep(leader, follower)


async def test_a_listener_that_is_declared_and_a_call_that_is_made_meanwhile_are_served(
    database: str, steps: Steps
) -> None:
    async with open_bus(database) as bus, open_bus(database) as other:
        answers: Inbox[int] = Inbox()

        @bus.procedure(name="shop.double")
        async def double(number: int) -> int:
            return 2 * number

        async def call() -> None:
            assert await other.call("shop.double", {"number": 21}, timeout=PATIENCE) == 42
            answers.put(42)

        async with running(bus) as worker:
            for count, place in enumerate(("after find_owed", "before fall_asleep", "after fall_asleep"), 1):
                steps.at(place, call)
                await answers.take(count)
            await asleep(worker)
            inbox = collect(bus, name="late")  # declared while it sleeps, in the process that runs it
            await eventually(lambda: not worker.is_asleep, PATIENCE)
            await asleep(worker)
            await publish(other, 7)
            assert await inbox.take(1) == [7]


async def test_an_operator_s_change_reaches_a_bus_that_sleeps(database: str) -> None:
    failing = True
    inbox: Inbox[int] = Inbox()
    ran: Inbox[str] = Inbox()
    async with open_bus(database) as bus:

        @bus.listener("orders.placed", name="mail", retry=pgbus.RetryPolicy(max_attempts=1))
        async def mail(event: dict[str, int]) -> None:
            if failing:
                raise ValueError("not yet")
            inbox.put(event["n"])

        bus.client.every(hours=1, name="hourly")(lambda: ran.put("hourly"))
        async with running(bus) as worker, Admin.connect(Config(dsn=database)) as admin:
            await publish(bus, 1)
            await asleep(worker)
            failing = False
            await admin.dead_letters.retry(DeadFilter(listener_name="mail"))
            await inbox.take(1)
            await asleep(worker)
            await admin.schedules.run("hourly")
            await ran.take(1)
            await asleep(worker)
            await admin.listeners.pause("mail")
            await publish(bus, 2)
            await asleep(worker)
            await admin.listeners.resume("mail")
            assert await inbox.take(2) == [1, 2]


# ------------------------------------------------------------------------------------------------------ who fails then


@pytest.mark.parametrize("place", ["after lie_down", "before fall_asleep", "after fall_asleep", "before rise"])
async def test_a_leader_whose_session_ends_at_any_step_is_replaced(
    database: str, connection: asyncpg.Connection, steps: Steps, place: str
) -> None:
    async with pair(database) as (publisher, leader, follower, inbox):

        async def end_leader() -> None:
            await connection.execute(
                "SELECT pg_terminate_backend(l.pid) FROM pg_locks AS l WHERE l.locktype = 'advisory'"
                " AND l.classid::bigint = hashtext('pgbus.leader')::bigint & 4294967295"
                " UNION ALL SELECT pg_terminate_backend(a.pid) FROM pg_stat_activity AS a"
                " WHERE a.datname = current_database() AND a.query ~ 'asleep '"
            )

        steps.at(place, end_leader)
        await _come_to(place, steps, leader, follower)
        await publish(publisher, 1)
        await inbox.take(1)
        await asleep(leader, follower)


@pytest.mark.parametrize("place", ["after lie_down", "after fall_asleep", "after rise"])
async def test_a_leader_of_which_a_step_fails_after_it_took_effect_leads_no_longer_without_its_lock(
    database: str, connection: asyncpg.Connection, steps: Steps, place: str
) -> None:
    async with pair(database) as (publisher, leader, follower, inbox):

        async def fail() -> None:
            # As when NOTIFY waits for a slow commit: the lock of the session is given up, or taken, by then.
            raise LockNotAvailable("canceling statement due to lock timeout")

        async def leads_by_its_lock() -> bool:
            is_awake = await connection.fetchval("SELECT is_called FROM pgbus.wake_slots")
            led = await connection.fetchval(
                "SELECT count(*) FROM pg_locks AS l WHERE l.locktype = 'advisory'"
                " AND l.classid::bigint = hashtext('pgbus.leader')::bigint & 4294967295"
            )
            return (is_awake, led) in {(False, 0), (True, 1)}

        steps.at(place, fail)
        await _come_to(place, steps, leader, follower)
        for number in range(3):
            await publish(publisher, number)
            await inbox.take(number + 1)
            # Eventually: it may be about to sleep again, which it says before it gives up its lock.
            await eventually(leads_by_its_lock, PATIENCE)
            await asleep(leader, follower)


async def test_a_leader_that_hears_no_notifications_does_not_sleep_and_polls(database: str, steps: Steps) -> None:
    tried: Inbox[int] = Inbox()
    async with open_bus(database) as publisher, open_bus(database, poll_interval=0.3) as bus:
        inbox = collect(bus, name="mail")
        async with running(bus) as worker:
            await eventually(lambda: worker.leads, PATIENCE)
            session = worker._membership.session
            assert session
            await session.fetch("UNLISTEN *")
            for number in range(2):
                steps.at("after lie_down", partial(_put, tried, number))
                await tried.take(number + 1)
                await publish(publisher, number)
                await inbox.take(number + 1)
                assert not worker.is_asleep


async def _put(inbox: Inbox[int], number: int) -> None:
    inbox.put(number)


async def test_a_scheduled_event_whose_row_is_locked_when_it_is_due_is_not_slept_through(
    database: str, connection: asyncpg.Connection
) -> None:
    async with pair(database) as (publisher, leader, follower, inbox):
        for number, seconds in enumerate(widening(0.5)):
            due_at = datetime.now(UTC) + timedelta(seconds=seconds)
            await publisher.publish({"n": number}, topic="orders.placed", deliver_at=due_at)
            transaction = connection.transaction()
            await transaction.start()
            # A cancellation, which is rolled back.
            if await connection.execute("DELETE FROM pgbus.outbox") == "DELETE 1":
                break
            await transaction.rollback()  # on a busy machine it was due before
            await inbox.take(number + 1)
        await asleep(leader, follower)
        await eventually(lambda: not leader.is_asleep, PATIENCE)
        await asleep(leader, follower)
        await transaction.rollback()
        await inbox.until(partial(_has, number))


async def test_a_bus_that_sleeps_wakes_once_a_day_and_an_event_of_plain_sql_wakes_it(
    database: str, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pair(database) as (_, leader, follower, inbox):
        await asleep(leader, follower)
        await connection.execute(INSERT, "orders.placed", '{"n": 5}')
        await inbox.take(1)
        monkeypatch.setattr(slumber, "LONGEST", 0.5)  # for a day
        await asleep(leader, follower)
        await eventually(lambda: not leader.is_asleep and not follower.is_asleep, PATIENCE)
