"""Messages that relays receive from other systems, each of which becomes one event."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from pgbus.database.store import Store
from pgbus.messages import EventMessage


@dataclass(frozen=True, slots=True)
class Arrival:
    """A message of another system: the event that it is, or why it cannot be one, and then its bytes.

    `source` and `message_id` together are its identity: what has the same is the same message.
    """

    source: str
    message_id: str
    event: EventMessage | None
    refused: str | None = None
    body: bytes | None = None


async def receive_messages(store: Store, *, relay: str, arrivals: Sequence[Arrival]) -> int:
    """Publish what is new of these, of which no two are the same, in their order; returns its number."""
    events = [arrival.event for arrival in arrivals]
    row = await store.fetch_one(
        "receive_messages",
        relay=relay,
        sources=[arrival.source for arrival in arrivals],
        message_ids=[arrival.message_id for arrival in arrivals],
        refusals=[arrival.refused for arrival in arrivals],
        bodies=[arrival.body for arrival in arrivals],
        event_ids=[event and event.event_id for event in events],
        topics=[event and event.topic for event in events],
        ancestors=[" ".join(event.ancestors) if event and event.ancestors else None for event in events],
        keys=[event and event.key for event in events],
        payloads=[event and event.raw for event in events],
        headers=[event and event.raw_headers for event in events],
    )
    return int(row["new"])


async def forget_received(store: Store, *, age: float, most: int) -> int:
    """Forget messages that were received more than `age` seconds ago, the oldest first; returns their number.

    At most `most`. Messages that were refused stay.
    """
    return int((await store.fetch_one("forget_received", age=age, most=most))["messages"])


async def read_bus_id(store: Store) -> UUID:
    """Return the identity of the bus."""
    bus_id: UUID = (await store.fetch_one("read_bus_id"))["bus_id"]
    return bus_id


async def lock_relay(store: Store, *, relay: str) -> bool:
    """Take the right to receive under this name, until the session ends; False while another session has it."""
    return bool((await store.fetch_one("lock_relay", namespace=store.namespace, relay=relay))["locked"])
