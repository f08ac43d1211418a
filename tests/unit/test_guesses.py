"""What the leader expects after a sleep: the topics of the last single events, and what is owed of them."""

from __future__ import annotations

from typing import Any

import pytest

from pgbus.database.statements.moving import Guess, GuessedDelivery
from pgbus.database.statements.sequencer import Subscription, Waiting
from pgbus.leader.guesses import DELIVERIES, TOPICS, Guesses
from pgbus.leader.routes import Routes


def waiting(topic: str, ancestors: Any = None) -> Waiting:
    return Waiting(1, topic, ancestors, None, 100, None)


def subscription(listener_id: int, pattern: str, lanes: int | None = None, is_active: bool = True) -> Subscription:
    return Subscription(listener_id=listener_id, lanes=lanes, is_active=is_active, pattern=pattern)


def topics_of(guesses: Guesses) -> list[str]:
    return [guess.topic for guess in guesses.make(Routes(), idle=(), tells_others=False)]


def test_the_last_topics_are_guessed_each_once() -> None:
    guesses = Guesses()
    assert not guesses
    for number in range(TOPICS + 1):
        guesses.remember(waiting(f"a.b{number}"))
    guesses.remember(waiting("a.b1"))
    assert guesses
    assert topics_of(guesses) == ["a.b2", "a.b3", "a.b4", "a.b1"]


@pytest.mark.parametrize("ancestors", [[["a.c"]], [None, "a.c"]])
def test_arrays_that_only_old_rows_may_hold_are_not_guessed(ancestors: Any) -> None:
    guesses = Guesses()
    guesses.remember(waiting("a.b", ancestors))
    assert not guesses


def test_a_guess_has_what_is_owed_and_hands_over_to_idle_listeners() -> None:
    routes = Routes(
        [
            subscription(1, "a.*"), subscription(2, "p.*"), subscription(3, "a.b", lanes=8),
            subscription(4, "a.b", is_active=False), subscription(5, "x"),
        ]
    )  # fmt: skip
    guesses = Guesses()
    guesses.remember(waiting("a.b", ["p.q"]))
    [guess] = guesses.make(routes, idle=[1], tells_others=True)
    deliveries = [
        GuessedDelivery(1, None, True),
        GuessedDelivery(2, None, False),
        GuessedDelivery(3, 8, False),
        GuessedDelivery(4, None, False),
    ]
    assert guess == Guess("a.b", ("p.q",), deliveries, ["2,3,4"])
    assert guesses.takers(routes) == {1, 2}, "those without order that are active"


def test_nobody_is_told_of_a_guess_where_nobody_else_lives() -> None:
    guesses = Guesses()
    guesses.remember(waiting("a.b"))
    [told_nobody] = guesses.make(Routes([subscription(1, "a.*")]), idle=[], tells_others=False)
    assert list(told_nobody.wakes) == []


def test_what_very_many_listeners_hear_is_not_guessed() -> None:
    guesses = Guesses()
    guesses.remember(waiting("a.b"))
    many = Routes([subscription(number, "a.b") for number in range(DELIVERIES + 1)])
    assert guesses.make(many, idle=(), tells_others=False) == []
