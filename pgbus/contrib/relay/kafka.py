"""Kafka, by aiokafka: an idempotent producer, and a consumer whose offsets are committed after ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import (
    InvalidTopicError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
)
from aiokafka.helpers import create_ssl_context

from pgbus.cloudevents import CloudEvent
from pgbus.contrib.relay.addresses import Address
from pgbus.contrib.relay.envelope import KAFKA, Incoming, pack
from pgbus.errors import MessageRefusedError
from pgbus.messages import EventMessage

BINDING = KAFKA
_BATCH = 500  # messages
_WAIT = 500  # milliseconds
# What the cluster refuses of a message, and would refuse again. Every other error is taken for the connection's.
_REFUSALS = (
    InvalidTopicError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
)


class KafkaSink:
    """Writes to topics; the key of an event is the key of its message."""

    def __init__(self, address: Address, producer: AIOKafkaProducer, *, structured: bool) -> None:
        self._address = address
        self._producer = producer
        self._structured = structured

    @classmethod
    async def open(cls, address: Address, *, structured: bool) -> KafkaSink:
        """Connect, and return a sink that writes to the cluster."""
        producer = AIOKafkaProducer(**_login(address), enable_idempotence=True)
        try:
            await producer.start()
        except BaseException:
            await producer.stop()
            raise
        return cls(address, producer, structured=structured)

    def leads_to(self, event: EventMessage) -> str:
        """Return the place of the topic."""
        return self._address.place(self._address.target("topic", event.topic))

    async def send(self, cloud: CloudEvent) -> None:
        """Write an event; all in-sync replicas have it when this returns."""
        message = pack(cloud, BINDING, structured=self._structured)
        topic = self._address.target("topic", cloud.type)
        try:
            await self._producer.send_and_wait(
                topic,
                message.body,
                key=cloud.key.encode() if cloud.key else None,
                headers=[(name, value.encode()) for name, value in message.headers.items()],
            )
        except _REFUSALS as error:
            raise MessageRefusedError(self._address.place(topic), f"{type(error).__name__}: {error}") from error

    async def close(self) -> None:
        """Send what is under way, and disconnect from the cluster."""
        await self._producer.stop()


class KafkaSource:
    """Reads topics as the consumer group of the relay's name."""

    def __init__(self, address: Address, consumer: AIOKafkaConsumer) -> None:
        self._address = address
        self._consumer = consumer
        self._has_fetched = False

    @classmethod
    async def open(cls, address: Address, *, name: str) -> KafkaSource:
        """Connect, and join the group; a new group begins with the oldest message."""
        consumer = AIOKafkaConsumer(
            *address.names("topic"),
            **_login(address),
            group_id=name,
            # Kafka's own would commit with the next fetch, whether or not we have published what came with the last
            # one.
            enable_auto_commit=False,
            auto_offset_reset="earliest",
        )
        try:
            await consumer.start()
        except BaseException:
            await consumer.stop()
            raise
        return cls(address, consumer)

    async def fetch(self) -> Sequence[Incoming]:
        """Return the next messages, of each partition in its order."""
        found = await self._consumer.getmany(timeout_ms=_WAIT, max_records=_BATCH)
        messages = [self._incoming(record) for records in found.values() for record in records]
        self._has_fetched = bool(messages)
        return messages

    async def acknowledge(self) -> None:
        """Commit the offsets of all that was fetched."""
        # The consumer's position, which is the end of the last fetch: nothing was fetched since.
        if self._has_fetched:
            await self._consumer.commit()

    async def close(self) -> None:
        """Leave the group, and close the connection."""
        await self._consumer.stop()

    def _incoming(self, record: Any) -> Incoming:
        return Incoming(
            name=record.topic,
            place=f"{record.topic}/{record.partition}",
            # With its time: the offsets of a topic that was deleted and created again begin again.
            position=f"{record.offset}@{record.timestamp}",
            origin=self._address.place(record.topic),
            key=record.key.decode(errors="replace") if record.key else None,
            headers={name: value.decode(errors="replace") for name, value in record.headers if value is not None},
            body=record.value or b"",
        )


def _login(address: Address) -> dict[str, Any]:
    options: dict[str, Any] = {"bootstrap_servers": address.hosts}
    if address.is_encrypted:
        options["ssl_context"] = create_ssl_context()
    if address.user:
        options |= {
            "sasl_mechanism": "PLAIN",
            "sasl_plain_username": address.user,
            "sasl_plain_password": address.password or "",
        }
    options["security_protocol"] = ("SASL_" if address.user else "") + ("SSL" if address.is_encrypted else "PLAINTEXT")
    return options
