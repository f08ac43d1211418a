"""Claims that a worker holds, and the rows that settling them writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from hypothesis import given
from hypothesis import strategies as st

from pgbus.database.statements.deliveries import Claim
from pgbus.handlers.outcomes import DONE, Dead, Retry
from pgbus.listeners.settlement import ALONE, BLOCKED, RELEASED, Ending, HeldClaim, settlement
from pgbus.messages import EventMessage

endings = st.sampled_from([DONE, Retry(2.0, "again"), Dead("no", "trace"), RELEASED, BLOCKED, ALONE])


def claim(size: int, *, id_: int = 1, attempt: int = 1, claimed_at: float = 1000.0) -> Claim:
    events = [
        EventMessage(topic="a.b", raw="{}", event_id=uuid4(), key=f"k{number}", position=100 * id_ + number)
        for number in range(size)
    ]
    return Claim(
        id=id_,
        token=uuid4(),
        attempt=attempt,
        lane=3,
        suspect=False,
        fresh=True,
        last=events[-1].position or 0,
        claimed_at=claimed_at,
        size=size,
        events=events,
    )


def settle(*held_claims: HeldClaim) -> tuple[dict[str, Any], Any, list[float]]:
    return settlement(held_claims, listener_id=7, worker="worker-1", blocking=False)


def ended(one: Claim) -> HeldClaim:
    held = HeldClaim(one, now=0)
    for index in range(len(one.events)):
        held.end(index, DONE, started=0, duration=0)
    return held


def test_a_claim_has_ended_with_the_last_of_its_events() -> None:
    held = HeldClaim(claim(3), now=0)
    assert [held.end(index, DONE, started=0, duration=0) for index in (2, 0, 1)] == [False, False, True]


def test_only_what_nobody_has_begun_is_released() -> None:
    held = HeldClaim(claim(4), now=0)
    held.next = 2
    assert held.release_rest() == 2
    assert held.endings == [None, None, RELEASED, RELEASED]
    assert held.left == 2
    assert held.release_rest() == 0


def test_releasing_what_runs_leaves_what_has_ended() -> None:
    held = HeldClaim(claim(3), now=0)
    held.end(1, DONE, started=0, duration=0)
    held.release_running()
    assert held.endings == [RELEASED, DONE, RELEASED]
    assert held.left == 0


def test_a_copy_with_the_rest_done_leaves_the_claim_as_it_was() -> None:
    held = HeldClaim(claim(3), now=0)
    held.end(1, Dead("no"), started=1, duration=0.5)
    copy = held.with_rest_done(started=2, duration=0.25)
    assert copy.endings == [DONE, Dead("no"), DONE]
    assert copy.started == [1002, 1001, 1002]
    assert copy.durations == [0.25, 0.5, 0.25]
    assert held.endings == [None, Dead("no"), None]
    assert held.left == 2


def test_times_are_told_by_the_databases_clock() -> None:
    held = HeldClaim(claim(1, claimed_at=1000.0), now=50.0)
    held.end(0, DONE, started=53.5, duration=0.25)
    values, _, _ = settle(held)
    assert (values["done_started"], values["done_durations"]) == ([1003.5], [0.25])


def test_a_retry_and_a_dead_letter_carry_what_the_statement_needs() -> None:
    held = HeldClaim(claim(2, attempt=4), now=0)
    held.end(0, Retry(2.5, "again"), started=1, duration=0.5)
    held.end(1, Dead("no", "trace"), started=2, duration=0.5)
    values, tally, delays = settle(held)
    assert values["other_outcomes"] == ["retry", "dead"]
    assert values["other_delays"] == [2.5, None]
    assert values["other_errors"] == ["again", "no"]
    assert values["other_tracebacks"] == [None, "trace"]
    assert values["other_attempts"] == [4, 4]
    assert values["other_lanes"] == [3, 3]
    assert values["other_keys"] == ["k0", "k1"]
    assert (tally.done, tally.retried, tally.dead, delays) == (0, 1, 1, [2.5])


@given(st.lists(st.lists(endings, min_size=1, max_size=6), min_size=1, max_size=5))
def test_every_event_of_every_claim_is_settled_once(outcomes: list[list[Ending]]) -> None:
    held_claims = []
    for id_, row in enumerate(outcomes, 1):
        held = HeldClaim(claim(len(row), id_=id_), now=0)
        for index, ending in enumerate(row):
            held.end(index, ending, started=0, duration=0)
        held_claims.append(held)
    values, tally, delays = settle(*held_claims)
    everything = [ending for row in outcomes for ending in row]
    positions = [event.position or 0 for held in held_claims for event in held.claim.events]
    done = [position for run in expanded(values) for position in run.positions]
    assert sorted(done + values["other_positions"]) == sorted(positions)
    assert values["delivery_ids"] == list(range(1, len(outcomes) + 1))
    assert values["claim_tokens"] == [held.claim.token for held in held_claims]
    assert tally.done == len(done) == everything.count(DONE)
    assert tally.retried == len(delays) == sum(isinstance(ending, Retry) for ending in everything)
    assert tally.dead == sum(isinstance(ending, Dead) for ending in everything)
    assert len({len(column) for name, column in values.items() if name.startswith("other_")}) == 1
    assert len({len(column) for name, column in values.items() if name.startswith("done_")}) == 1


def run_of(*tried: tuple[int, float, float]) -> list[Run]:
    """The runs of a claim whose events, at these positions, began at these instants and took so long."""
    one = claim(len(tried))
    one.events = [EventMessage(topic="a.b", raw="{}", event_id=uuid4(), position=position) for position, _, _ in tried]
    held = HeldClaim(one, now=1000.0)
    for index, (_, started, duration) in enumerate(tried):
        held.end(index, DONE, started=started, duration=duration)
    values, _, _ = settle(held)
    return list(expanded(values))


def test_an_event_alone_needs_no_arrays() -> None:
    values, _, _ = settle(*(ended(claim(1, id_=id_)) for id_ in (1, 2)))
    assert (values["run_offsets"], values["run_durations"], values["done_since"]) == ([], [], [None, None])


def test_events_that_begin_within_a_millisecond_are_one_run() -> None:
    assert run_of((64, 5.0, 0.1), (65, 5.0004, 0.2), (66, 5.0009, 0.3)) == [Run([64, 65, 66], 5.0, [0.1, 0.2, 0.3])]


def test_an_event_that_begins_a_millisecond_after_the_first_of_a_run_begins_another() -> None:
    assert run_of((64, 5.0, 0.1), (65, 5.0009, 0.1), (66, 5.0011, 0.1), (67, 5.0015, 0.1)) == [
        Run([64, 65], 5.0, [0.1, 0.1]),
        Run([66, 67], 5.0011, [0.1, 0.1]),
    ]


def test_a_run_ends_with_its_block_of_64_positions() -> None:
    assert run_of((63, 5.0, 0.1), (64, 5.0, 0.1), (127, 5.0, 0.1), (128, 5.0, 0.1)) == [
        Run([63], 5.0, [0.1]),
        Run([64, 127], 5.0, [0.1, 0.1]),
        Run([128], 5.0, [0.1]),
    ]


@dataclass
class Run:
    """A row of history: the events in it, when they began, and how long each took."""

    positions: list[int]
    started: float
    durations: list[float]


def expanded(values: Mapping[str, Any]) -> Iterator[Run]:
    """What the statements make of the columns."""
    names = ("firsts", "spans", "started", "durations", "since", "upto")
    for first, span, started, duration, since, upto in zip(*(values[f"done_{name}"] for name in names), strict=True):
        if since is None:
            assert span == 0
            yield Run([first], started, [duration])
        else:
            offsets = values["run_offsets"][since - 1 : upto]
            assert (offsets[0], offsets[-1]) == (0, span)
            durations = values["run_durations"][since - 1 : upto]
            assert duration is None or set(durations) == {duration}
            yield Run([first + offset for offset in offsets], started, durations)
