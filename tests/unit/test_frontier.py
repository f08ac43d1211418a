"""The leader's frontier: every look finds all that can be seen, though most holes are not looked up."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgbus.leader.frontier import Frontier, Seen, Snapshot


@dataclass
class Transaction:
    xid: int | None = None
    ids: list[int] = field(default_factory=list)


class Model:
    """Transactions that publish, as PostgreSQL numbers and shows them, and a leader that looks."""

    def __init__(self, *, batch: int = 1_000) -> None:
        self.batch = batch
        self.next_xid = 100
        self.last_ended = 99
        self.last_id = 0
        self.running: list[Transaction] = []
        self.visible: set[int] = set()
        self.moved: list[int] = []
        self.looked_up = 0
        self.frontier = Frontier()

    def begin(self) -> Transaction:
        self.running.append(Transaction())
        return self.running[-1]

    def insert(self, transaction: Transaction) -> None:
        # The trigger: the xid comes before the id.
        if transaction.xid is None:
            transaction.xid = self.take_xid()
        self.last_id += 1
        transaction.ids.append(self.last_id)

    def publish(self) -> None:
        transaction = self.begin()
        self.insert(transaction)
        self.end(transaction, commit=True)

    def end(self, transaction: Transaction, *, commit: bool) -> None:
        self.running.remove(transaction)
        if transaction.xid is not None:
            self.last_ended = max(self.last_ended, transaction.xid)
        if commit:
            self.visible |= set(transaction.ids)

    def take_xid(self) -> int:
        self.next_xid += 1
        return self.next_xid - 1

    def act(self, chance: random.Random) -> None:
        """Something that any session may do at any moment."""
        if not self.running or chance.random() < 0.3:
            self.begin()
        transaction = chance.choice(self.running)
        match chance.randrange(5):
            case 0 | 1 | 2:
                self.insert(transaction)
            case 3 if transaction.xid is None:
                transaction.xid = self.take_xid()
            case _:
                self.end(transaction, commit=chance.random() < 0.8)

    @property
    def snapshot(self) -> Snapshot:
        """It lists what is in progress, but only below its xmax."""
        xmax = self.last_ended + 1
        return Snapshot(xmax, frozenset(one.xid for one in self.running if one.xid is not None and one.xid < xmax))

    def start(self, chance: random.Random | None = None) -> None:
        """A new leader."""
        last_id = self.last_id
        if chance:
            self.act(chance)
        self.frontier = Frontier.begin(last_id=last_id, fence=self._own_transaction())

    def look(self, chance: random.Random | None = None, *, meanwhile: int = 0, fence_is_xmax: bool = False) -> None:
        """A read, and what goes on until the write."""
        snapshot = self.snapshot
        questions = self.frontier.questions(quiet_ones=self.frontier.is_disturbed(snapshot))
        self.looked_up += len(questions)
        found = sorted(
            id_ for id_ in self.visible if id_ > self.frontier.high or any(id_ in hole for hole in questions)
        )
        expected = sorted(self.visible)[: self.batch]
        taken = found[: self.batch]
        stop = taken[-1] if len(found) > self.batch else None
        kept = []
        if chance:
            kept = [id_ for id_ in taken if chance.random() < 0.1]  # locked by someone
        for _ in range(meanwhile):
            self.act(chance or random.Random(0))
        reach = self.last_id if chance and chance.random() < 0.2 else 0
        after = self.frontier.after(snapshot, Seen(taken, kept, stop), reach=reach)
        if len(taken) > len(kept) or after.needs_fence:
            fence = self._own_transaction()
            after = replace(after, fence=snapshot.xmax if fence_is_xmax else fence) if after.needs_fence else after
        self.frontier = after
        self.visible -= set(taken) - set(kept)
        self.moved += [id_ for id_ in taken if id_ not in kept]
        assert taken == expected, "a look has overlooked something"

    def _own_transaction(self) -> int:
        xid = self.take_xid()
        self.last_ended = max(self.last_ended, xid)
        return xid


@given(
    seed=st.integers(0, 2**32),
    batch=st.sampled_from([1, 2, 5, 1_000]),
    steps=st.integers(1, 120),
    restarts=st.booleans(),
)
@settings(max_examples=500)
def test_every_look_finds_the_first_of_all_rows_that_can_be_seen(
    seed: int, batch: int, steps: int, restarts: bool
) -> None:
    chance = random.Random(seed)
    model = Model(batch=batch)
    for _ in range(steps):
        match chance.random():
            case roll if roll < 0.4:
                model.look(chance, meanwhile=chance.choice([0, 0, 1, 3]))
            case roll if roll < 0.43 and restarts:
                model.start(chance)
            case _:
                model.act(chance)
    for transaction in list(model.running):
        model.end(transaction, commit=chance.random() < 0.8)
    for _ in range(model.last_id + 3):
        model.look()
    assert model.visible == set()
    assert len(model.moved) == len(set(model.moved))
    model.look()
    assert model.frontier.holes == (), "nobody's holes are dropped"


def publish_above_the_snapshots_xmax(model: Model) -> Transaction:
    """The look sees ids 1 and 3. The owner of 2 has an xid above that of the look's xmax."""
    first, second = model.begin(), model.begin()
    model.insert(first)
    model.insert(second)
    model.insert(first)
    model.end(first, commit=True)
    return second


def test_an_owner_above_the_snapshots_xmax_is_a_possible_owner() -> None:
    model = Model()
    owner = publish_above_the_snapshots_xmax(model)
    model.look()
    model.look()
    model.end(owner, commit=True)
    model.look()
    assert model.moved == [1, 3, 2]


def test_a_fence_of_the_snapshots_xmax_would_lose_an_event() -> None:
    model = Model()
    owner = publish_above_the_snapshots_xmax(model)
    model.look(fence_is_xmax=True)
    model.look(fence_is_xmax=True)
    model.end(owner, commit=True)
    with pytest.raises(AssertionError, match="overlooked"):
        model.look()


def test_an_open_transaction_costs_no_look_ups() -> None:
    model = Model()
    owner = model.begin()
    model.insert(owner)
    for _ in range(5):
        model.publish()
        model.look()
    model.looked_up = 0
    for _ in range(100):
        model.publish()
        model.look()
    assert model.looked_up == 0
    model.end(owner, commit=True)
    model.look()
    assert model.moved[-1] == 1


def test_rolled_back_ids_are_forgotten_when_the_last_possible_owner_has_ended() -> None:
    model = Model()
    owner = model.begin()
    model.insert(owner)
    for _ in range(10):
        rolled_back = model.begin()
        model.insert(rolled_back)
        model.end(rolled_back, commit=False)
        model.publish()
        model.look()
    model.look()
    model.look()
    assert owner.xid
    assert [group.owners for group in model.frontier.holes] == [frozenset({owner.xid})], "one group for all of them"
    model.end(owner, commit=False)
    model.look()
    assert model.frontier.holes == ()
