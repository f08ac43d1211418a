"""The life of events under every order of publishing, sequencing, claiming, settling and dying that one can think of.

The machine drives the engine's own statements, as the leader and the workers do, over real connections, and keeps a
model of who is owed what. PGBUS_SOAK=n tries n times 400 long stories instead of a few short ones.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pgbus.database.statements import deliveries, listeners, maintenance, operations, sequencer
from pgbus.database.statements.deliveries import Claim
from pgbus.database.statements.listeners import Registration
from pgbus.database.store import Store
from pgbus.handlers.outcomes import DONE, Dead, Done, Retry
from pgbus.leader.mover import Look
from pgbus.listeners.lanes import Lanes
from pgbus.listeners.settlement import BLOCKED, RELEASED, Ending, HeldClaim, settlement
from tests.support.leading import Leading
from tests.support.machine import LEAPS, PLACES, PUBLISHERS, RESET, Held, Subscriber, Wires

SOAK = int(os.environ.get("PGBUS_SOAK", "0"))
PROFILE = settings(
    max_examples=400 * SOAK or 120,
    stateful_step_count=80 if SOAK else 40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TOPICS = ("shop.sold", "shop.returned")
KEYS = (None, "ann", "bob")
WORKERS = 3
LANES = 2


class DeliveryMachine(RuleBasedStateMachine):
    """What happens to events between their publisher's transaction and their last place."""

    wires: Wires
    subscribers = Bundle("subscribers")
    claims = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.run = self.wires.run
        self.connection = self.wires.leader
        self.store = Store(self.connection, namespace="pgbus")
        self.run(self.connection.execute(RESET))
        self.leading = self.run(Leading.start(self.connection, base=1))
        self.numbers = 0
        self.open: dict[int, list[int]] = {}
        self.topic_of: dict[int, str] = {}
        self.committed: set[int] = set()
        self.logged: dict[int, int] = {}  # position -> number
        self.all: list[Subscriber] = []
        self.registered = 0
        self.workers: dict[int, asyncpg.Connection] = {}

    # ---------------------------------------------------------------------------------------------------- publishing

    @rule(
        slot=st.integers(0, PUBLISHERS - 1),
        topic=st.sampled_from(TOPICS),
        key=st.sampled_from(KEYS),
        count=st.integers(1, 4),
    )
    def publish(self, slot: int, topic: str, key: str | None, count: int) -> None:
        """Insert into a transaction that stays open, perhaps for long."""
        connection = self.wires.publishers[slot]
        if slot not in self.open:
            self.run(connection.execute("BEGIN"))
            self.open[slot] = []
        for _ in range(count):
            self.numbers += 1
            self.topic_of[self.numbers] = topic
            payload = f'{{"n": {self.numbers}}}'
            # The same story must have the same ids each time it is told: they choose the lanes of events without a key.
            insert = "INSERT INTO pgbus.outbox (event_id, topic, key, payload) VALUES ($1, $2, $3, $4)"
            self.run(connection.execute(insert, UUID(int=self.numbers), topic, key, payload))
            self.open[slot].append(self.numbers)

    @rule(slot=st.integers(0, PUBLISHERS - 1), commits=st.sampled_from([True, True, False]))
    def end(self, slot: int, commits: bool) -> None:
        if slot not in self.open:
            return
        self.run(self.wires.publishers[slot].execute("COMMIT" if commits else "ROLLBACK"))
        numbers = self.open.pop(slot)
        if commits:
            self.committed.update(numbers)

    @rule(topic=st.sampled_from(TOPICS), key=st.sampled_from(KEYS), count=st.integers(1, 8))
    def publish_and_sequence(self, topic: str, key: str | None, count: int) -> None:
        free = [slot for slot in range(PUBLISHERS) if slot not in self.open]
        if free:
            self.publish(free[0], topic, key, count)
            self.end(free[0], commits=True)
            self._sequence(batch=100, run=500)

    # ---------------------------------------------------------------------------------------------------- the leader

    @rule()
    def change_the_leader(self) -> None:
        """The new one remembers nothing."""
        base = self.leading.mover.base
        self.leading = self.run(Leading.start(self.connection, base=base))

    @rule(batch=st.sampled_from([1, 2, 5, 100]), run=st.sampled_from([1, 2, 500]))
    def sequence(self, batch: int, run: int) -> None:
        self._sequence(batch, run)

    @precondition(lambda self: self.workers)
    @rule(target=claims, data=st.data(), batch=st.sampled_from([1, 100]))
    def sequence_for_idle_listeners(self, data: st.DataObject, batch: int) -> Any:
        """What few events come are claimed at once; in lanes only where nothing is, whatever the worker believes."""
        worker_id = data.draw(st.sampled_from(sorted(self.workers)))
        idle = [one for one in self.all if data.draw(st.booleans())]
        self._look(batch, 500, idle=idle, worker_id=worker_id)
        neighbours = self.leading.neighbours
        held: list[Held] = []
        for one in idle:
            alone = [neighbours.handed[one.id]] if one.id in neighbours.handed else []
            claims = [*alone, *neighbours.in_lanes.get(one.id, ())]
            self._check_claims(one, claims, batch, batch, suspects=False)
            tops = {claim.lane: claim.events[0].position or 0 for claim in claims if claim.lane is not None}
            one.floors.saw(tops, tops)
            held += [Held(one, claim, worker_id) for claim in claims]
        return multiple(*held)

    def _sequence(self, batch: int, run: int) -> int:
        return self._look(batch, run).moved

    def _look(self, batch: int, run: int, *, idle: Sequence[Subscriber] = (), worker_id: int = 0) -> Look:
        waiting = len(self.committed - set(self.logged.values()))
        self.leading.mover.rows, self.leading.mover.run = batch, run
        self.leading.neighbours.listener_ids = [one.id for one in idle]
        self.leading.neighbours.lanes = {
            one.id: dict(enumerate(one.floors.floors)) for one in idle if one.lanes and not one.blocking
        }
        self.leading.neighbours.worker_id = worker_id
        before = self.leading.mover.base
        look = self.run(self.leading.look())
        assert look.moved == min(batch, waiting), "every committed event is moved, and nothing else"
        found = self.run(
            self.connection.fetch(
                "SELECT position, (payload ->> 'n')::integer AS n FROM pgbus.events WHERE position >= $1 ORDER BY 1",
                before,
            )
        )
        assert [row["position"] for row in found] == list(range(before, before + look.moved))
        for row in found:
            assert row["n"] in self.committed, "an event came into the log that is not committed"
            self.logged[row["position"]] = row["n"]
            for one in self.all:
                if self.topic_of[row["n"]] in one.topics:
                    one.owed.add(row["position"])
        return look

    @rule(batch=st.sampled_from([1, 3, 100]), run=st.sampled_from([1, 500]))
    def backfill(self, batch: int, run: int) -> None:
        self._backfill(batch, run)

    def _backfill(self, batch: int, run: int) -> bool:
        return self.run(sequencer.backfill_listener(self.store, batch=batch, run=run)).were_behind

    @rule(searches=st.booleans())
    def free_claims(self, searches: bool) -> None:
        self._free_claims(searches=searches)

    def _free_claims(self, *, searches: bool = False) -> None:
        """Afterwards nobody who is dead, or whose lease ran out, has a claim."""
        absent: frozenset[int] = frozenset()
        overdue: list[int] = []
        floor = -math.inf
        if searches:
            floor = self.run(self.connection.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8"))
            overdue = self.run(deliveries.find_overdue_claims(self.store, before=floor, batch=1_000))
        for _ in range(2):  # the first look only notes who is absent
            look = self.run(
                deliveries.free_claims(
                    self.store,
                    absent=absent,
                    max_crashes=5,
                    lease_floor=floor,
                    overdue=overdue,
                    all_leases=True,
                    batch=1_000,
                )
            )
            absent = look.absent
        assert look.is_done
        left = """
            SELECT count(*) FROM pgbus.deliveries
            WHERE claim_token IS NOT NULL AND (lease_expires_at < now() OR worker_id <> ALL ($1))
        """
        assert self.run(self.connection.fetchval(left, list(self.workers))) == 0

    @rule(held=claims)
    def let_a_lease_run_out(self, held: Held) -> None:
        self._let_a_lease_run_out(held)

    def _let_a_lease_run_out(self, held: Held) -> None:
        late = "UPDATE pgbus.deliveries SET lease_expires_at = now() - interval '1 hour' WHERE claim_token = $1"
        self.run(self.connection.execute(late, held.claim.token))

    @rule(held=claims)
    def freeze_a_worker_past_its_lease(self, held: Held) -> None:
        """Its claim is free; when the worker goes on, it settles in vain: see `settle`."""
        self._let_a_lease_run_out(held)
        self._free_claims()
        ours = "SELECT count(*) FROM pgbus.deliveries WHERE claim_token = $1"
        assert self.run(self.connection.fetchval(ours, held.claim.token)) == 0

    # ----------------------------------------------------------------------------------------------------- listeners

    @precondition(lambda self: len(self.all) < 4)
    @rule(
        target=subscribers,
        topics=st.sampled_from([TOPICS, TOPICS[:1], TOPICS[1:]]),
        start=st.sampled_from([None, 0]),
        kind=st.sampled_from(["plain", "plain", "ordered", "blocking"]),
    )
    def register(self, topics: tuple[str, ...], start: int | None, kind: str) -> Subscriber:
        lanes = None if kind == "plain" else LANES
        self.registered += 1
        registration = Registration(
            listener_name=f"{kind} {self.registered}",
            lanes=lanes,
            options='{"on_poison": "block"}' if kind == "blocking" else "{}",
            start_position=start,
        )
        [registered] = self.run(listeners.register_listeners(self.store, [registration], service=""))
        self.run(listeners.replace_subscriptions(self.store, {registered.id: topics}))
        one = Subscriber(registered.id, topics, lanes, blocking=kind == "blocking")
        if start == 0:
            one.owed = {position for position, number in self.logged.items() if self.topic_of[number] in topics}
        self.all.append(one)
        return one

    def operate(
        self, verb: operations.Verb, one: Subscriber, *, by: asyncpg.Connection | None = None, **filter_: object
    ) -> None:
        """Carry out an operation on a listener, in one batch."""
        query = "SELECT listener_name FROM pgbus.listeners WHERE id = $1"
        filter_ |= {"listener": self.run(self.connection.fetchval(query, one.id))}
        store = Store(by, namespace="pgbus") if by else self.store
        number = self.run(operations.begin_operation(store, verb, filter_, {}))
        done = self.run(operations.continue_operation(store, number, batch=10_000))
        assert done.state == "done"

    @rule(one=subscribers, state=st.sampled_from(["paused", "active"]))
    def set_state(self, one: Subscriber, state: str) -> None:
        if one in self.all:
            self.operate("pause" if state == "paused" else "resume", one)
        one.paused = state == "paused"

    @precondition(lambda self: len(self.all) > 1)
    @rule(one=subscribers)
    def remove(self, one: Subscriber) -> None:
        """With what is claimed: those workers settle in vain."""
        if one in self.all:
            self.operate("remove", one, force=True)
            self.all.remove(one)

    @precondition(lambda self: len(self.all) > 1)
    @rule(one=subscribers, batch=st.sampled_from([1, 100]))
    def remove_while_the_leader_writes(self, one: Subscriber, batch: int) -> None:
        """It cannot see the removal yet: what it owes to that listener it takes back when it reads the routes again."""
        if one in self.all:
            self.run(self.wires.rival.execute("BEGIN"))
            self.operate("remove", one, by=self.wires.rival, force=True)
            self._sequence(batch, run=500)
            self.run(self.wires.rival.execute("COMMIT"))
            self.all.remove(one)

    @rule(one=subscribers, back=st.integers(0, 8))
    def replay(self, one: Subscriber, back: int) -> None:
        """From the end of the log or some positions before it; what waits is dropped, what is claimed is not."""
        if one not in self.all:
            return
        cursor = max(0, max(self.logged, default=0) + 1 - back)
        self.operate("reset", one, to=str(cursor))
        places = self.run(self.connection.fetch(PLACES))
        one.past = Counter(row["position"] for row in places if row["listener_id"] == one.id)
        one.owed = self._heard(one.topics, since=cursor)
        one.keeps_order = False

    @rule(one=subscribers, topics=st.sampled_from([TOPICS, TOPICS[:1], TOPICS[1:]]))
    def change_subscriptions(self, one: Subscriber, topics: tuple[str, ...]) -> None:
        """What is owed stays; what is not logged, or behind the listener's cursor, goes by the new ones."""
        if one not in self.all:
            return
        self.run(listeners.replace_subscriptions(self.store, {one.id: topics}))
        cursor = self.run(self.connection.fetchval("SELECT cursor FROM pgbus.listeners WHERE id = $1", one.id))
        if cursor is not None:
            one.owed = {position for position in one.owed if position < cursor} | self._heard(topics, since=cursor)
        one.topics = topics

    def _heard(self, topics: tuple[str, ...], *, since: int) -> set[int]:
        return {
            position
            for position, number in self.logged.items()
            if position >= since and self.topic_of[number] in topics
        }

    @rule(one=subscribers)
    def change_lanes(self, one: Subscriber) -> None:
        """An ordered listener becomes a plain one, and the leader takes what waits out of its lanes; or the reverse."""
        if one not in self.all or one.blocking:
            return
        one.lanes = LANES if one.lanes is None else None
        one.floors = Lanes(one.lanes or 0)  # a worker's, too, is new: it runs other code
        registration = Registration(listener_name="", lanes=one.lanes, options="{}", start_position=None)
        self.run(listeners.set_listener_options(self.store, {one.id: registration}, service=""))
        self.run(maintenance.release_lanes(self.store, batch=1_000))
        one.keeps_order = False

    # ------------------------------------------------------------------------------------------------------- workers

    @initialize()
    def begin(self) -> None:
        self.start_worker()

    @precondition(lambda self: len(self.workers) < WORKERS)
    @rule()
    def start_worker(self) -> None:
        session = self.wires.open()
        store = Store(session, namespace="pgbus")
        worker_id = self.run(
            listeners.register_worker(
                store, name="w", service="", home=None, host="h", pid=1, version="0", listeners=[]
            )
        )
        self.run(listeners.lock_worker(store, worker_id=worker_id))
        self.workers[worker_id] = session

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def crash_worker(self, data: st.DataObject) -> None:
        worker_id = data.draw(st.sampled_from(sorted(self.workers)))
        self._end_session(worker_id)

    def _end_session(self, worker_id: int) -> None:
        session = self.workers.pop(worker_id)
        # The server does this when it notices the end of the session, which may be a moment after we go on.
        self.run(session.execute("SELECT pg_advisory_unlock_all()"))
        self.run(session.close())

    @precondition(lambda self: self.workers)
    @rule(
        target=claims,
        one=subscribers,
        data=st.data(),
        limit=st.sampled_from([1, 2, 7, 100]),
        piece=st.sampled_from([1, 2, 100]),
        rows=st.sampled_from([1, 3, 100]),
        suspects=st.booleans(),
    )
    def claim(self, one: Subscriber, data: st.DataObject, limit: int, piece: int, rows: int, suspects: bool) -> Any:
        worker_id = data.draw(st.sampled_from(sorted(self.workers)))
        # Some lanes, for which the lean claim may do; none: everything.
        lanes = data.draw(st.sets(st.integers(0, LANES - 1))) if one.lanes else []
        found = self.run(self._claim(self.store, one, worker_id, limit, piece, rows, suspects, sorted(lanes)))
        self._check_claims(one, found, limit, piece, suspects)
        return self._one_of(one, found, worker_id)

    @precondition(lambda self: self.workers)
    @rule(target=claims, one=subscribers, data=st.data(), limit=st.sampled_from([1, 3, 100]), commits=st.booleans())
    def claim_beside_another_claim(self, one: Subscriber, data: st.DataObject, limit: int, commits: bool) -> Any:
        """While another worker's claim is not committed yet, and perhaps never is."""
        worker_id = data.draw(st.sampled_from(sorted(self.workers)))
        rival = self.wires.rival
        self.run(rival.execute("BEGIN"))
        theirs = self.run(self._claim(Store(rival, namespace="pgbus"), one, worker_id, limit, 2, limit, False))
        ours = self.run(self._claim(self.store, one, worker_id, 100, 2, 100, False))
        self.run(rival.execute("COMMIT" if commits else "ROLLBACK"))
        taken = [event.position for claim in theirs + ours for event in claim.events]
        assert len(taken) == len(set(taken)), "two workers hold the same event"
        self._check_claims(one, ours, 100, 2, suspects=False)
        return self._one_of(one, ours, worker_id)

    async def _claim(
        self,
        store: Store,
        one: Subscriber,
        worker_id: int,
        limit: int,
        piece: int,
        rows: int,
        suspects: bool,
        lanes: Sequence[int] = (),
    ) -> list[Claim]:
        terms = deliveries.ClaimTerms(
            token=uuid4(),
            listener_id=one.id,
            worker_id=worker_id,
            lane_floors=one.floors.floors,
            lanes=lanes,
            rows=rows,
            limit=limit,
            piece=piece,
            lease=60.0,
            suspects=suspects,
            blocking=one.blocking,
        )
        claimed = await deliveries.claim(store, terms, expects_cuts=False)
        one.floors.saw(claimed.looked, claimed.tops, claimed.left)  # of all workers: what one saw holds for each
        return claimed.claims

    def _check_claims(self, one: Subscriber, found: list[Claim], limit: int, piece: int, suspects: bool) -> None:
        assert not (found and one.paused), "a paused listener was given work"
        assert sum(len(claim.events) for claim in found) <= limit
        for claim in found:
            assert 1 <= len(claim.events) <= piece
            positions = [event.position for event in claim.events]
            assert positions == sorted(p for p in positions if p is not None)
            assert set(positions) <= one.owed | set(one.past)
            assert not claim.suspect or (suspects and len(found) == 1 == len(claim.events))
        if one.lanes and found:
            # What is from before the listener had an order lies in no lane.
            lanes = [claim.lane for claim in found if claim.lane is not None]
            assert len(set(lanes)) == len(lanes), "two pieces of one lane at once"
            leaps = self.run(self.connection.fetch(LEAPS, found[0].token)) if one.keeps_order else []
            assert leaps == [], "an earlier event of the lane waits"

    def _one_of(self, one: Subscriber, found: list[Claim], worker_id: int) -> Any:
        return multiple(*(Held(one, claim, worker_id) for claim in found))

    @rule(held=claims, data=st.data())
    def settle(self, held: Held, data: st.DataObject) -> None:
        """Also what was settled before, or taken back meanwhile: then nothing may change."""
        endings = st.sampled_from([DONE, DONE, DONE, Retry(0.0, "again"), Retry(3600.0, "later"), Dead("no"), RELEASED])
        self._settle(held, lambda: data.draw(endings))

    def _settle(self, held: Held, choose: Any) -> None:
        claim, one = held.claim, held.subscriber
        sql = "SELECT count(*) FROM pgbus.deliveries WHERE id = $1 AND claim_token = $2"
        still_ours = self.run(self.connection.fetchval(sql, claim.id, claim.token))
        ours = HeldClaim(claim, now=0.0)
        self._end(ours, one, choose)
        values, _, _ = settlement([ours], listener_id=one.id, worker="w", blocking=one.blocking)
        settled = self.run(deliveries.settle_deliveries(self.store, values))
        assert len(settled) == still_ours, "a stale token settled something, or a good one did not"

    @staticmethod
    def _end(ours: HeldClaim, one: Subscriber, choose: Any) -> None:
        """As a runner does it: an ordered listener gives back what comes after a failure."""
        claim = ours.claim
        barred: set[str | None] = set()
        for index, event in enumerate(claim.events):
            if event.key is not None and (event.key in barred or (claim.blocked and claim.blocked[index])):
                ending: Ending = BLOCKED
            else:
                ending = choose()
            if one.lanes and ending is RELEASED:
                ours.next = index
                ours.release_rest()
                return
            ours.next = index + 1
            ours.end(index, ending, started=0.0, duration=0.0)
            if one.blocking and isinstance(ending, Dead) and event.key is not None:
                barred.add(event.key)
            if one.lanes and isinstance(ending, Retry):
                ours.release_rest()
                return

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def return_forgotten_claims(self, data: st.DataObject) -> None:
        worker_id = data.draw(st.sampled_from(sorted(self.workers)))
        claims = self.run(deliveries.find_own_claims(self.store, worker_id=worker_id))
        self.run(deliveries.return_claims(self.store, claims))
        assert self.run(deliveries.find_own_claims(self.store, worker_id=worker_id)) == {}

    @rule()
    def let_retries_be_due(self) -> None:
        due = "UPDATE pgbus.deliveries SET available_at = now() WHERE available_at > now()"
        self.run(self.connection.execute(due))

    # ----------------------------------------------------------------------------------------------------- operators

    @rule(one=subscribers, verb=st.sampled_from(["retry", "discard"]), count=st.integers(1, 3))
    def deal_with_dead_letters(self, one: Subscriber, verb: operations.Verb, count: int) -> None:
        query = "SELECT id FROM pgbus.dead_letters WHERE listener_id = $1 ORDER BY id LIMIT $2"
        ids = [row["id"] for row in self.run(self.connection.fetch(query, one.id, count))]
        if one in self.all:
            self.operate(verb, one, ids=ids)

    # ---------------------------------------------------------------------------------------------------- invariants

    @invariant()
    def every_event_is_in_exactly_one_place_at_each_listener(self) -> None:
        places = self.run(self.connection.fetch(PLACES))
        cursors = self.run(self.connection.fetch("SELECT id, cursor FROM pgbus.listeners"))
        behind = {row["id"]: math.inf if row["cursor"] is None else row["cursor"] for row in cursors}
        for one in self.all:
            found = sorted(row["position"] for row in places if row["listener_id"] == one.id)
            owed = [position for position in one.owed if position < behind[one.id]]
            assert found == sorted([*owed, *one.past.elements()])

    @invariant()
    def nothing_waits_behind_a_dead_letter_that_is_gone(self) -> None:
        stranded = """
            SELECT d.id FROM pgbus.deliveries AS d
            WHERE d.blocked_key IS NOT NULL AND NOT EXISTS (
                SELECT FROM pgbus.dead_letters AS x
                WHERE x.listener_id = d.listener_id AND x.blocked_key = d.blocked_key)
        """
        assert self.run(self.connection.fetch(stranded)) == []

    def teardown(self) -> None:
        """In the end, with a single worker that does its work, every event that was committed is done."""
        try:
            for slot in tuple(self.open):
                self.end(slot, commits=slot % 2 == 0)
            while self._sequence(batch=100, run=500):
                pass
            assert set(self.logged.values()) == self.committed
            self.change_the_leader()  # it reads the routes
            while self._backfill(batch=100, run=500):
                pass
            for worker_id in tuple(self.workers):
                self._end_session(worker_id)
            self._free_claims()
            self.run(maintenance.release_lanes(self.store, batch=1_000))
            self.start_worker()
            for one in self.all:
                self.set_state(one, "active")
                self._finish(one)
            self.every_event_is_in_exactly_one_place_at_each_listener()
            assert self.run(self.connection.fetchval("SELECT count(*) FROM pgbus.deliveries")) == 0
            assert self.run(self.connection.fetchval("SELECT count(*) FROM pgbus.dead_letters")) == 0
        finally:
            for session in self.workers.values():
                session.terminate()

    def _finish(self, one: Subscriber) -> None:
        """Claim and handle until nothing is owed; what was given up is tried again."""
        (worker_id,) = self.workers
        handled: dict[str | None, int] = {}
        for _ in range(10 * (len(one.owed) + one.past.total()) + 10):
            self.deal_with_dead_letters(one, "retry", 1000) if not handled else None
            self.let_retries_be_due()
            found = self.run(self._claim(self.store, one, worker_id, 100, 3, 100, True))
            if not found:
                return
            self._check_claims(one, found, 100, 3, suspects=True)
            for claim in found:
                for event in claim.events:
                    assert event.position is not None
                    if one.lanes and one.keeps_order and event.key is not None:
                        assert event.position > handled.get(event.key, 0), "events of one key came out of order"
                        handled[event.key] = event.position
                self._settle(Held(one, claim, worker_id), lambda: Done())
        raise AssertionError("the work does not end")


@pytest.mark.timeout(400)  # thousands of statements, on a machine that may be busy
def test_no_event_is_lost_doubled_or_out_of_order_whatever_happens(database: str) -> None:
    wires = Wires(database)
    try:
        machine = type("Machine", (DeliveryMachine,), {"wires": wires})
        run_state_machine_as_test(machine, settings=PROFILE)
    finally:
        wires.close()
