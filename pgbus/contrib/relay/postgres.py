"""Another bus of pgbus, in another PostgreSQL: events are published there once, by its table `received`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID

from pgbus.cloudevents import CloudEvent
from pgbus.config import Config
from pgbus.contrib.relay.addresses import Address
from pgbus.contrib.relay.batches import Batches
from pgbus.contrib.relay.envelope import arrive_as_it_is
from pgbus.contrib.relay.inward import receive
from pgbus.database.opening import open_session
from pgbus.database.session import Session
from pgbus.database.statements.received import read_bus_id
from pgbus.messages import EventMessage

_BATCH = 500


class PostgresSink:
    """Publishes in another bus, over a session of its own."""

    def __init__(self, session: Session, *, bus_id: UUID, name: str) -> None:
        self._session = session
        self._bus_id = str(bus_id)
        self._name = name
        self._batches = Batches(self._write, limit=_BATCH)

    @classmethod
    async def open(cls, address: Address, config: Config, *, name: str) -> PostgresSink:
        """Connect to the other bus, as a member of its pgbus_worker; `config` is this bus's."""
        namespace = address.parameters.get("namespace", config.namespace)
        session = await open_session(
            replace(config, dsn=address.url, direct_dsn=None, namespace=namespace), channels={}
        )
        try:
            await session.connection.execute("SET synchronous_commit TO DEFAULT")  # what is acknowledged must stay
            bus_id = await read_bus_id(session.store)
        except BaseException:
            session.terminate()
            raise
        return cls(session, bus_id=bus_id, name=name)

    def leads_to(self, event: EventMessage) -> str:  # noqa: ARG002 - all events go to one bus
        """Return the id of the other bus."""
        return self._bus_id

    async def send(self, cloud: CloudEvent) -> None:
        """Publish an event there; it is committed when this returns, now or at an earlier try."""
        await self._batches.put(cloud)

    async def close(self) -> None:
        """End the session with the other bus."""
        await self._batches.close()
        await self._session.close()

    async def _write(self, clouds: Sequence[CloudEvent]) -> Sequence[Exception | None]:
        arrivals = {(cloud.source, cloud.id): arrive_as_it_is(cloud) for cloud in clouds}
        await receive(self._session.store, list(arrivals.values()), relay=self._name)
        return [None] * len(clouds)
