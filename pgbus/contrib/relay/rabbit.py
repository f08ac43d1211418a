"""RabbitMQ, by aio-pika: publisher confirms and `mandatory`, and a queue whose messages are acknowledged after ours."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

import aio_pika
from aio_pika.exceptions import ChannelNotFoundEntity, DeliveryError

from pgbus.cloudevents import CONTENT_TYPE, CloudEvent
from pgbus.contrib.relay.addresses import Address
from pgbus.contrib.relay.envelope import RABBIT, Incoming, pack
from pgbus.errors import ConfigurationError, MessageRefusedError
from pgbus.messages import EventMessage

BINDING = RABBIT
_BATCH = 500  # messages
_WAIT = 0.5  # seconds


class RabbitSink:
    """Publishes to an exchange, with the topic as routing key."""

    def __init__(self, address: Address, connection: Any, exchange: Any, *, structured: bool) -> None:
        self._address = address
        self._connection = connection
        self._exchange = exchange
        self._structured = structured

    @classmethod
    async def open(cls, address: Address, *, structured: bool) -> RabbitSink:
        """Connect, and find the exchange; raises MessageRefusedError for each event while there is none."""
        connection = await aio_pika.connect(address.url)
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        exchange = await channel.get_exchange(address.parameters.get("exchange", "amq.topic"), ensure=False)
        return cls(address, connection, exchange, structured=structured)

    def leads_to(self, event: EventMessage) -> str:
        """Return the place of the routing key."""
        return self._address.place(f"{self._exchange.name}/{event.topic}")

    async def send(self, cloud: CloudEvent) -> None:
        """Publish an event; all queues that are bound have it when this returns, and at least one is bound."""
        message = pack(cloud, BINDING, structured=self._structured)
        content_type = message.headers.pop(CONTENT_TYPE, None)
        try:
            await self._exchange.publish(
                aio_pika.Message(
                    message.body,
                    headers=dict(message.headers),
                    content_type=content_type,
                    message_id=cloud.id,
                    delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
                ),
                routing_key=cloud.type,
                mandatory=True,
            )
        except DeliveryError as error:
            reason = "no queue is bound to this routing key, or the queue is full"
            raise MessageRefusedError(self._address.place(f"{self._exchange.name}/{cloud.type}"), reason) from error
        except ChannelNotFoundEntity as error:
            # The server has closed the channel with this answer, so the sink is of no use: the outlet opens another
            # one.
            await self._connection.close()
            raise MessageRefusedError(self._address.place(self._exchange.name), "there is no such exchange") from error

    async def close(self) -> None:
        """Close the connection to the server."""
        await self._connection.close()


class RabbitSource:
    """Reads a queue that is there already."""

    def __init__(self, address: Address, connection: Any, channel: Any, queue: Any) -> None:
        self._address = address
        self._connection = connection
        self._channel = channel
        self._queue = queue
        # Filled by the client as messages arrive, up to the prefetch count.
        self._messages: asyncio.Queue[Any] = asyncio.Queue()
        # The last message of the last fetch, whose acknowledgement is that of all before it.
        self._last: Any = None

    @classmethod
    async def open(cls, address: Address, *, name: str) -> RabbitSource:  # noqa: ARG003 - a queue has no readers' names
        """Connect, and consume the queue; raises ConfigurationError where there is none of that name."""
        connection = await aio_pika.connect(address.url)
        wanted = address.names("queue")[0]
        try:
            channel = await connection.channel()
            # One batch is published while the next one comes.
            await channel.set_qos(prefetch_count=2 * _BATCH)
            source = cls(address, connection, channel, await channel.get_queue(wanted, ensure=True))
            await source._queue.consume(source._messages.put)
        except ChannelNotFoundEntity as error:
            await connection.close()
            raise ConfigurationError(f"{address.place(wanted)}: there is no such queue") from error
        except BaseException:
            await connection.close()
            raise
        return source

    async def fetch(self) -> Sequence[Incoming]:
        """Return the next messages in the order of the queue."""
        messages: list[Any] = []
        with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
            messages.append(await asyncio.wait_for(self._messages.get(), _WAIT))
        while len(messages) < _BATCH and not self._messages.empty():
            messages.append(self._messages.get_nowait())
        # The connection counts as closed only when we close it; its channel also when the server is gone.
        if not messages and self._channel.is_closed:
            raise ConnectionError("the connection to RabbitMQ is closed")
        self._last = messages[-1] if messages else None
        return [self._incoming(message) for message in messages]

    async def acknowledge(self) -> None:
        """Acknowledge all messages up to the last one."""
        if self._last is not None:
            await self._last.ack(multiple=True)

    async def close(self) -> None:
        """Disconnect; the queue has what was not acknowledged, in its old place."""
        await self._connection.close()

    def _incoming(self, message: Any) -> Incoming:
        headers = {name: _text(value) for name, value in (message.headers or {}).items()}
        if message.content_type:
            headers[CONTENT_TYPE] = message.content_type
        return Incoming(
            name=message.routing_key or self._queue.name,
            place=self._queue.name,
            position=message.message_id,
            origin=self._address.place(f"{message.exchange or self._queue.name}/{message.routing_key}"),
            headers=headers,
            body=message.body,
        )


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
