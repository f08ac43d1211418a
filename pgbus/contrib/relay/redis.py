"""Redis streams, by redis-py: entries are added in transactions, and read by a consumer group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import redis.asyncio
from redis.exceptions import ResponseError

from pgbus.cloudevents import CloudEvent
from pgbus.contrib.relay.addresses import Address
from pgbus.contrib.relay.batches import Batches
from pgbus.contrib.relay.envelope import REDIS, Incoming, pack
from pgbus.errors import MessageRefusedError
from pgbus.messages import EventMessage

BINDING = REDIS
_BATCH = 500  # entries
_WAIT = 500  # milliseconds
# Seconds for one answer.
_TIMEOUT = 10.0
# The fields of an entry: the headers of binary mode, among them the id by which a reader drops doubles, and this one.
_BODY = "data"


class RedisSink:
    """Adds entries to the ends of streams."""

    def __init__(self, address: Address, client: Any, *, structured: bool) -> None:
        self._address = address
        self._client = client
        self._structured = structured
        self._batches = Batches(self._write, limit=_BATCH)

    @classmethod
    async def open(cls, address: Address, *, structured: bool) -> RedisSink:
        """Connect, and return a sink that writes to the server."""
        client = _client(address)
        await client.ping()
        return cls(address, client, structured=structured)

    def leads_to(self, event: EventMessage) -> str:
        """Return the place of the stream."""
        return self._address.place(self._address.target("stream", event.topic))

    async def send(self, cloud: CloudEvent) -> None:
        """Add an event; the server has it when this returns."""
        await self._batches.put(cloud)

    async def close(self) -> None:
        """Close the connection to the server."""
        await self._batches.close()
        await self._client.aclose()

    async def _write(self, clouds: Sequence[CloudEvent]) -> Sequence[Exception | None]:
        # A transaction: should the connection break, all of them are there or none.
        pipeline = self._client.pipeline(transaction=True)
        for cloud in clouds:
            message = pack(cloud, BINDING, structured=self._structured)
            fields = {**message.headers, "ce_id": cloud.id, _BODY: message.body}
            pipeline.xadd(self._address.target("stream", cloud.type), fields)
        answers = await pipeline.execute(raise_on_error=False)
        return [self._judge(cloud, answer) for cloud, answer in zip(clouds, answers, strict=True)]

    def _judge(self, cloud: CloudEvent, answer: object) -> Exception | None:
        if isinstance(answer, ResponseError):
            place = self._address.place(self._address.target("stream", cloud.type))
            return MessageRefusedError(place, str(answer))
        if isinstance(answer, Exception):
            return answer
        return None


class RedisSource:
    """Reads streams as the consumer group, and the one consumer, of the relay's name."""

    def __init__(self, address: Address, client: Any, *, name: str) -> None:
        self._address = address
        self._client = client
        self._name = name
        self._streams = address.names("stream")
        # By stream, the entries of the last fetch, until they are acknowledged.
        self._fetched: dict[bytes, list[bytes]] = {}
        # First what was fetched before and not acknowledged, until there is none: new entries must not overtake it. Who
        # fetched it had this consumer's name, which belongs to one process at a time.
        self._repeats = True

    @classmethod
    async def open(cls, address: Address, *, name: str) -> RedisSource:
        """Connect, and find or create the group; a new group begins with the oldest entry."""
        source = cls(address, _client(address), name=name)
        for stream in source._streams:
            try:
                await source._client.xgroup_create(stream, name, id="0", mkstream=True)
            except ResponseError as error:
                if not str(error).startswith("BUSYGROUP"):
                    raise
        return source

    async def fetch(self) -> Sequence[Incoming]:
        """Return the next entries, of each stream in its order."""
        found: list[Any] = []
        if self._repeats:
            found = [one for one in await self._read("0", block=None) if one[1]]
            self._repeats = bool(found)
        if not self._repeats:
            found = await self._read(">", block=_WAIT)
        self._fetched = {stream: [entry for entry, _ in entries] for stream, entries in found}
        return [
            self._incoming(stream, entry, fields)
            for stream, entries in found
            for entry, fields in entries
            if fields  # else it was fetched, and then deleted
        ]

    async def acknowledge(self) -> None:
        """Acknowledge the entries that were fetched."""
        for stream, entries in self._fetched.items():
            await self._client.xack(stream, self._name, *entries)
        self._fetched = {}

    async def close(self) -> None:
        """Close the connection to the server."""
        await self._client.aclose()

    async def _read(self, start: str, *, block: int | None) -> list[Any]:
        streams = dict.fromkeys(self._streams, start)
        answer = await self._client.xreadgroup(self._name, self._name, streams, count=_BATCH, block=block)
        return list(answer.items()) if isinstance(answer, Mapping) else list(answer or [])

    def _incoming(self, stream: bytes, entry: bytes, fields: Mapping[bytes, bytes]) -> Incoming:
        name = stream.decode()
        texts = {field.decode(errors="replace"): value for field, value in fields.items()}
        body = texts.pop(_BODY, None)
        headers = {field: value.decode(errors="replace") for field, value in texts.items()}
        if body is None:  # an entry that is nothing but fields
            body, headers = msgspec.json.encode(headers), {}
        return Incoming(
            name=name,
            place=name,
            position=entry.decode(),
            origin=self._address.place(name),
            headers=headers,
            body=body,
        )


def _client(address: Address) -> Any:
    return redis.asyncio.from_url(
        address.url, socket_timeout=_TIMEOUT, socket_connect_timeout=_TIMEOUT, single_connection_client=True
    )
