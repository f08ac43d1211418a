"""The sequencer's floor: no row may ever become visible below it, and yet it rises."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from pgbus.database.statements.sequencer import Sequencing
from pgbus.leader.sequencer import Floor


@dataclass
class Transaction:
    xid: int | None = None
    ids: list[int] = field(default_factory=list)


class Model:
    """Transactions that publish, as PostgreSQL numbers and shows them, and a leader that looks."""

    def __init__(self, *, batch: int) -> None:
        self.floor = Floor()
        self.batch = batch
        self.next_xid = 100
        self.last_ended = 99
        self.last_id = 0
        self.running: list[Transaction] = []
        self.visible: set[int] = set()

    def begin(self) -> None:
        self.running.append(Transaction())

    def insert(self, transaction: Transaction) -> None:
        # The trigger: the xid comes before the id.
        if transaction.xid is None:
            transaction.xid = self.take_xid()
        self.last_id += 1
        transaction.ids.append(self.last_id)

    def only_take_xid(self, transaction: Transaction) -> None:
        if transaction.xid is None:
            transaction.xid = self.take_xid()

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
            case 3:
                self.only_take_xid(transaction)
            case 4:
                self.end(transaction, commit=chance.random() < 0.8)

    def look(self, chance: random.Random, *, meanwhile: int) -> None:
        """One statement of the leader, in the middle of which others go on."""
        xids = [one.xid for one in self.running if one.xid is not None]
        xmin = min(xids, default=self.last_ended + 1)
        taken = sorted(one for one in self.visible if one >= self.floor.value)[: self.batch]
        wants_xid, xid, last_id = self.floor.wants_xid, None, None
        # In which order it takes an xid and reads the sequence, nobody knows.
        steps = ["xid", "last_id", *["act"] * meanwhile]
        chance.shuffle(steps)
        for step in steps:
            if step == "act":
                self.act(chance)
            elif step == "last_id":
                last_id = self.last_id
            elif wants_xid:
                xid = self.take_xid()
        stops = [taken[-1]] if len(taken) == self.batch else []
        if taken and meanwhile and chance.random() < 0.2:  # one that someone holds locked is left
            stops.append(taken.pop(chance.randrange(len(taken))) - 1)
        self.visible -= set(taken)
        if xid is not None:
            self.last_ended = max(self.last_ended, xid)
        self.floor.observe(
            Sequencing(
                moved=len(taken),
                stopped_at=min(stops, default=None),
                has_more=False,
                too_big=False,
                listener_ids=[],
                xmin=xmin,
                xid=xid,
                last_id=last_id or 0,
                looked_at=0.0,
                next_due=None,
                handed={},
            )
        )
        self.check()

    def check(self) -> None:
        alive = [*self.visible, *(one for transaction in self.running for one in transaction.ids)]
        assert all(one >= self.floor.value for one in alive), (alive, self.floor.value)


@given(seed=st.integers(0, 2**32), batch=st.integers(1, 6), steps=st.integers(1, 120))
@settings(max_examples=400)
def test_no_row_lies_or_can_appear_below_the_floor(seed: int, batch: int, steps: int) -> None:
    chance = random.Random(seed)
    model = Model(batch=batch)
    for _ in range(steps):
        if chance.random() < 0.4:
            model.look(chance, meanwhile=chance.choice([0, 0, 1, 3]))
        else:
            model.act(chance)
            model.check()


@given(seed=st.integers(0, 2**32), batch=st.integers(1, 6), steps=st.integers(1, 60))
def test_when_every_publisher_has_ended_the_floor_rises_above_every_row(seed: int, batch: int, steps: int) -> None:
    chance = random.Random(seed)
    model = Model(batch=batch)
    for _ in range(steps):
        model.act(chance) if chance.random() < 0.7 else model.look(chance, meanwhile=0)
    for transaction in list(model.running):
        model.end(transaction, commit=True)
    for _ in range(model.last_id + 5):
        model.look(chance, meanwhile=0)
    assert model.visible == set()
    assert model.last_id == 0 or model.floor.value == model.last_id + 1


def test_an_idle_bus_takes_no_xids() -> None:
    chance = random.Random(0)
    model = Model(batch=10)
    model.begin()
    model.insert(model.running[0])
    model.end(model.running[0], commit=True)
    for _ in range(5):
        model.look(chance, meanwhile=0)
    assert not model.floor.wants_xid


def test_an_open_publisher_keeps_the_floor_at_its_first_row() -> None:
    chance = random.Random(0)
    model = Model(batch=10)
    model.begin()
    slow = model.running[0]
    model.insert(slow)
    for _ in range(30):
        model.begin()
        model.insert(model.running[-1])
        model.end(model.running[-1], commit=True)
        model.look(chance, meanwhile=0)
    assert model.floor.value <= slow.ids[0]
    model.end(slow, commit=True)
    for _ in range(4):
        model.look(chance, meanwhile=0)
    assert model.floor.value > 30
