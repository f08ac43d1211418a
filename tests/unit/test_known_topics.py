"""What a listener of patterns remembers of the topics that it has heard."""

from __future__ import annotations

from typing import Any, cast
from uuid import uuid4

import pgbus
from pgbus.database.store import Store
from pgbus.listeners.known_topics import KnownTopics
from pgbus.listeners.listener import make_listener
from pgbus.listeners.running import RunningListener, Standing
from pgbus.messages import EventMessage
from pgbus.telemetry import Telemetry
from pgbus.topics import REMEMBERED_TOPICS

NOT_ASKED = cast("Any", None)


def event(number: int) -> EventMessage:
    return EventMessage(topic=f"user.u{number}.moved", raw="{}", event_id=uuid4())


def known_topics() -> KnownTopics:
    async def handle(event: EventMessage) -> None: ...

    listener = make_listener(handle, ["user.*.moved"], name="mail")
    return KnownTopics(
        RunningListener(
            listener=listener,
            id=1,
            store=cast("Store", NOT_ASKED),
            config=pgbus.Config(),
            telemetry=Telemetry(),
            standing=cast("Standing", NOT_ASKED),
        )
    )


async def test_a_topic_that_was_ours_is_known_without_a_second_look() -> None:
    known = known_topics()
    assert not known.is_ours(event(1))
    assert await known.why_left(event(1)) is None
    assert known.is_ours(event(1))


async def test_a_topic_for_each_event_does_not_fill_the_memory() -> None:
    known = known_topics()
    for number in range(REMEMBERED_TOPICS + 1):
        assert await known.why_left(event(number)) is None
    assert [known.is_ours(event(number)) for number in (0, REMEMBERED_TOPICS)] == [False, True]
