"""Who hears a topic, and which topics an event has."""

from __future__ import annotations

from typing import Any

import pytest

from pgbus.database.statements.sequencer import Subscription
from pgbus.leader.routes import Routes, all_topics


def subscription(listener_id: int, pattern: str) -> Subscription:
    return Subscription(listener_id=listener_id, lanes=None, is_active=True, pattern=pattern)


@pytest.mark.parametrize(
    ("ancestors", "topics"),
    [
        (None, ("a.b",)),
        ([], ("a.b",)),
        (["a.c"], ("a.b", "a.c")),
        ([["a.c", "a.d"], ["a.e", None]], ("a.b", "a.c", "a.d", "a.e")),
        ([[["a.c"]]], ("a.b", "a.c")),
        ([None], ("a.b",)),
    ],
)
def test_arrays_that_only_old_rows_may_hold_are_read_as_lists_of_topics(
    ancestors: Any, topics: tuple[str, ...]
) -> None:
    assert all_topics("a.b", ancestors) == topics


def test_a_listener_of_several_topics_of_an_event_hears_it_once() -> None:
    routes = Routes([subscription(1, "a.*"), subscription(1, "a.c"), subscription(2, "a.c"), subscription(3, "x")])
    assert [route.listener_id for route in routes.find("a.b", ["a.c"])] == [1, 2]
    assert [route.listener_id for route in routes.find("a.b", None)] == [1]
