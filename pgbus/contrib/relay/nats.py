"""NATS JetStream, by nats-py: acknowledged by the stream, which drops doubles by `Nats-Msg-Id` in its window."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

import nats
from nats.errors import MaxPayloadError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import APIError, BadRequestError, NoStreamResponseError, NotFoundError

from pgbus.cloudevents import CloudEvent
from pgbus.contrib.relay.addresses import Address
from pgbus.contrib.relay.envelope import NATS, Incoming, pack
from pgbus.errors import ConfigurationError, MessageRefusedError
from pgbus.messages import EventMessage

BINDING = NATS
_BATCH = 500  # messages
_WAIT = 0.5  # seconds
# Seconds for one answer.
_TIMEOUT = 10.0
# Seconds after which the stream delivers again what was fetched and not acknowledged.
_ACK_WAIT = 5.0
_MESSAGE_ID = "Nats-Msg-Id"


class NatsSink:
    """Writes to subjects that a stream has."""

    def __init__(self, address: Address, connection: Any, *, structured: bool) -> None:
        self._address = address
        self._connection = connection
        self._stream = connection.jetstream(timeout=_TIMEOUT)
        self._structured = structured

    @classmethod
    async def open(cls, address: Address, *, structured: bool) -> NatsSink:
        """Connect, and return a sink that writes to the server."""
        return cls(address, await _connect(address), structured=structured)

    def leads_to(self, event: EventMessage) -> str:
        """Return the place of the subject."""
        return self._address.place(self._address.target("subject", event.topic))

    async def send(self, cloud: CloudEvent) -> None:
        """Write an event; the stream has stored it when this returns, now or at an earlier try."""
        message = pack(cloud, BINDING, structured=self._structured)
        subject = self._address.target("subject", cloud.type)
        try:
            await self._stream.publish(subject, message.body, headers={**message.headers, _MESSAGE_ID: cloud.id})
        except NoStreamResponseError as error:
            raise MessageRefusedError(self._address.place(subject), "no stream has this subject") from error
        except (MaxPayloadError, BadRequestError) as error:
            raise MessageRefusedError(self._address.place(subject), f"{type(error).__name__}: {error}") from error

    async def close(self) -> None:
        """Close the connection to the server."""
        await self._connection.close()


class NatsSource:
    """Reads a stream as the durable consumer of the relay's name."""

    def __init__(self, address: Address, connection: Any, subscription: Any) -> None:
        self._address = address
        self._connection = connection
        self._subscription = subscription
        # The last message of the last fetch, whose acknowledgement is that of all before it.
        self._last: Any = None

    @classmethod
    async def open(cls, address: Address, *, name: str) -> NatsSource:
        """Connect, and find or create the consumer; raises ConfigurationError where there is no such stream."""
        stream = address.names("stream")[0]
        connection = await _connect(address)
        try:
            subscription = await connection.jetstream(timeout=_TIMEOUT).pull_subscribe(
                address.parameters.get("subject", ">"),
                durable=name.replace(".", "_"),
                stream=stream,
                config=ConsumerConfig(
                    ack_policy=AckPolicy.ALL,  # one acknowledgement for a batch
                    ack_wait=_ACK_WAIT,
                    deliver_policy=DeliverPolicy.ALL,
                    max_ack_pending=2 * _BATCH,
                ),
            )
            info = await subscription.consumer_info()
            if info.num_ack_pending:
                # The last reader has left these. They come again once their time has passed; what is fetched before
                # would overtake them.
                await asyncio.sleep(_ACK_WAIT + 0.5)
        except (NotFoundError, BadRequestError) as error:
            await connection.close()
            raise ConfigurationError(f"{address.place(stream)}: {_said(error)}") from error
        except BaseException:
            await connection.close()
            raise
        return cls(address, connection, subscription)

    async def fetch(self) -> Sequence[Incoming]:
        """Return the next messages in the order of the stream."""
        messages: list[Any] = []
        with contextlib.suppress(TimeoutError, asyncio.TimeoutError, nats.errors.TimeoutError):
            messages = await self._subscription.fetch(_BATCH, timeout=_WAIT)
        if not messages and self._connection.is_closed:
            raise nats.errors.ConnectionClosedError
        self._last = messages[-1] if messages else None
        return [self._incoming(message) for message in messages]

    async def acknowledge(self) -> None:
        """Acknowledge the last message, which acknowledges those before it; the server confirms it."""
        if self._last is not None:
            await self._last.ack_sync(timeout=_TIMEOUT)

    async def close(self) -> None:
        """Disconnect from the server; its consumer stays."""
        await self._connection.close()

    def _incoming(self, message: Any) -> Incoming:
        metadata = message.metadata
        return Incoming(
            name=message.subject,
            place=metadata.stream,
            position=f"{metadata.sequence.stream}@{metadata.timestamp.timestamp()}",
            origin=self._address.place(message.subject),
            headers={name: value for name, value in (message.headers or {}).items() if not name.startswith("Nats-")},
            body=message.data,
        )


async def _connect(address: Address) -> Any:
    scheme = "tls" if address.is_encrypted else "nats"

    async def ignore(_: Exception) -> None:
        """Say nothing: an error is raised where it is awaited."""

    return await nats.connect(
        [f"{scheme}://{host}" for host in address.hosts.split(",")],
        user=address.user,
        password=address.password,
        # The relay opens another connection itself: what was under way on this one is then known to have failed.
        allow_reconnect=False,
        connect_timeout=_TIMEOUT,
        error_cb=ignore,
    )


def _said(error: APIError) -> str:
    return error.description or type(error).__name__
