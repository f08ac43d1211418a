"""Orders: events with a number, published and collected."""

from __future__ import annotations

from typing import Any

import pgbus
from tests.support.workers import Inbox

INSERT = "INSERT INTO pgbus.outbox (topic, payload) VALUES ($1, $2)"


def collect(bus: pgbus.Bus, topic: str = "orders.placed", *, name: str, **options: Any) -> Inbox[int]:
    """A listener that notes the `n` of its events."""
    inbox: Inbox[int] = Inbox()

    @bus.listener(topic, name=name, **options)
    async def handle(event: dict[str, int]) -> None:
        inbox.put(event["n"])

    return inbox


async def publish(bus: pgbus.Bus, *numbers: int, topic: str = "orders.placed") -> None:
    await bus.publish_many([{"n": number} for number in numbers], topic=topic)
