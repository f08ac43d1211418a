"""Guesses what comes next on a quiet bus, so that one statement can read an event and log it, with its deliveries.

A quiet bus has few topics: the leader guesses those of the last single events. A wrong guess costs nothing but the
statement that logs the event, as it would without one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from pgbus.database.statements.moving import Guess, GuessedDelivery
from pgbus.database.statements.sequencer import Waiting
from pgbus.leader.routes import Routes
from pgbus.leader.runs import wake_payloads

# Topics, and deliveries of one: each guess is sent and planned for with every look at a quiet bus.
TOPICS = 4
DELIVERIES = 32

_Topics = tuple[str, tuple[str, ...] | None]


class Guesses:
    """The topics of the last single events, the latest last."""

    def __init__(self) -> None:
        self._topics: dict[_Topics, None] = {}

    def __bool__(self) -> bool:
        return bool(self._topics)

    def remember(self, event: Waiting) -> None:
        """An event with these topics may come again."""
        # Rows that were written by hand may have arrays of arrays: those are not guessed.
        if event.ancestors and not all(isinstance(one, str) for one in event.ancestors):
            return
        topics = (event.topic, tuple(event.ancestors) if event.ancestors else None)
        self._topics.pop(topics, None)
        self._topics[topics] = None
        if len(self._topics) > TOPICS:
            del self._topics[next(iter(self._topics))]

    def takers(self, routes: Routes) -> set[int]:
        """The listeners to which guessed events may be handed over, by these routes."""
        heard_by = (one for topic, ancestors in self._topics for one in routes.find(topic, ancestors))
        return {one.listener_id for one in heard_by if one.is_active and one.lanes is None}

    def make(self, routes: Routes, *, idle: Collection[int], tells_others: bool) -> list[Guess]:
        """The guesses, with what these routes owe of each: to `idle` listeners without order it is handed over."""
        guesses = []
        for topic, ancestors in self._topics:
            heard_by = routes.find(topic, ancestors)
            if len(heard_by) <= DELIVERIES:
                deliveries = [GuessedDelivery(one.listener_id, one.lanes, one.listener_id in idle) for one in heard_by]
                guesses.append(Guess(topic, ancestors, deliveries, _wakes(deliveries) if tells_others else ()))
        return guesses


def _wakes(deliveries: Sequence[GuessedDelivery]) -> list[str]:
    return wake_payloads({one.listener_id: () for one in deliveries if not one.claimed})
