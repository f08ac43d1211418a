"""Who hears a topic: the live listeners, by their patterns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pgbus.database.statements.sequencer import Subscription
from pgbus.topics import ByTopic, is_wildcard, matches


class Route(NamedTuple):
    """A live listener; `lanes` is None for one without order."""

    listener_id: int
    lanes: int | None
    is_active: bool


def all_topics(topic: str, ancestors: Sequence[str] | None) -> tuple[str, ...]:
    """The topic of an event and those of its parent classes.

    PostgreSQL allows what the constraint of new rows does not, and old rows may have: arrays of arrays, and NULLs.
    """
    if not ancestors:
        return (topic,)
    parts: Sequence[object] = ancestors
    while any(isinstance(part, list) for part in parts):
        parts = [one for part in parts for one in (part if isinstance(part, list) else [part])]
    return (topic, *(part for part in parts if isinstance(part, str)))


class Routes:
    """The routes as they were when they were loaded."""

    def __init__(self, subscriptions: Iterable[Subscription] = ()) -> None:
        self._exact: dict[str, list[Route]] = {}
        self._wild: dict[str, list[Route]] = {}
        self._remembered: ByTopic[tuple[str, ...], tuple[Route, ...]] = ByTopic()
        self.has_lanes = False
        for one in subscriptions:
            patterns = self._wild if is_wildcard(one.pattern) else self._exact
            patterns.setdefault(one.pattern, []).append(Route(one.listener_id, one.lanes, one.is_active))
            self.has_lanes = self.has_lanes or one.lanes is not None

    def find(self, topic: str, ancestors: Sequence[str] | None = None) -> tuple[Route, ...]:
        """The listeners of a topic that has these ancestors, each once, by their ids."""
        topics = all_topics(topic, ancestors)
        routes = self._remembered.get(topics)
        if routes is None:
            routes = self._remembered[topics] = self._match(topics)
        return routes

    def _match(self, topics: Sequence[str]) -> tuple[Route, ...]:
        found = {route for topic in topics for route in self._exact.get(topic, ())}
        for pattern, routes in self._wild.items():
            if any(matches(pattern, topic) for topic in topics):
                found.update(routes)
        return tuple(sorted(found))
