"""The schemas of events, procedures and listeners: what is stored, and which of it workers use."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal, TypeAlias

import msgspec

from pgbus.database.store import Store

Kind: TypeAlias = Literal["event", "procedure", "listener"]


class HashedSchema(msgspec.Struct, frozen=True):
    """A schema as JSON, its SHA-256, and as JSON what is said about it: `owner`, `description`, `links`."""

    kind: Kind
    name: str
    schema: str
    hash: str
    about: str = "{}"


class PublishedSchema(msgspec.Struct, frozen=True):
    """A schema that is in the database now; `is_new` if this call has put it there."""

    kind: Kind
    name: str
    version: int
    is_new: bool


class CurrentSchema(msgspec.Struct, frozen=True):
    """The version that holds of an event or a procedure, as JSON."""

    kind: Kind
    name: str
    schema: str


class SchemaVersion(msgspec.Struct, frozen=True, kw_only=True):
    """A version of a schema, as JSON. A live worker uses it: `is_live`. A removed listener's is not `is_registered`.

    `options` (of a registered listener) and `links` (URLs by their titles) are JSON objects.
    """

    kind: Kind
    name: str
    service: str
    version: int
    schema: str
    is_live: bool
    workers: tuple[str, ...]
    is_registered: bool
    options: str | None
    owner: str
    description: str
    links: str
    first_seen_at: datetime
    published_at: datetime
    last_seen_at: datetime


class OtherVersions(msgspec.Struct, frozen=True):
    """The signs that an event is for another version of a listener than the one that asks; None where there is none.

    `worker` runs another version since `worker_since`; `version` of `topic` was first stored at `version_since`. `now`
    is the database's.
    """

    now: datetime
    worker: str | None = None
    worker_since: datetime | None = None
    topic: str | None = None
    version: int | None = None
    version_since: datetime | None = None


async def find_new_schemas(store: Store, wanted: Sequence[HashedSchema], *, service: str) -> set[tuple[str, str]]:
    """The kind and name of those of a service's schemas that are not stored yet."""
    rows = await store.fetch("find_new_schemas", **_keys(wanted), service=service)
    return {(row["kind"], row["name"]) for row in rows}


async def publish_schemas(
    store: Store, wanted: Sequence[HashedSchema], *, service: str, channel: str
) -> list[PublishedSchema]:
    """Store a service's schemas, and tell the channel if there are others now; those that are in the database.

    One that another process is publishing at this moment may be missing: publish again until all are there.
    """
    rows = await store.fetch(
        "publish_schemas",
        **_keys(wanted),
        schemas=[one.schema for one in wanted],
        abouts=[one.about for one in wanted],
        service=service,
        channel=channel,
    )
    return [
        PublishedSchema(kind=row["kind"], name=row["name"], version=row["version"], is_new=row["is_new"])
        for row in rows
    ]


async def set_worker_schemas(store: Store, used: Sequence[HashedSchema], *, service: str, worker_id: int) -> None:
    """Make these the schemas that a worker uses, and no others."""
    await store.fetch("set_worker_schemas", **_keys(used), service=service, worker_id=worker_id)


async def find_other_versions(
    store: Store, *, worker_id: int, listener_name: str, topics: Sequence[str]
) -> OtherVersions | None:
    """The signs that events of these topics are for another version of the listener than the worker's.

    None if the worker has not stored its own.
    """
    rows = await store.fetch(
        "find_other_versions", worker_id=worker_id, listener_name=listener_name, topics=list(topics)
    )
    return OtherVersions(**rows[0]) if rows else None


async def touch_schemas(store: Store, *, worker_id: int, age: float) -> None:
    """Note that a worker's schemas were seen, where that was last noted more than `age` seconds ago."""
    await store.fetch("touch_schemas", worker_id=worker_id, age=age)


async def load_schemas(store: Store) -> list[CurrentSchema]:
    """The version that holds of every event and procedure."""
    rows = await store.fetch("load_schemas")
    return [CurrentSchema(kind=row["kind"], name=row["name"], schema=row["schema"]) for row in rows]


async def list_schemas(store: Store) -> list[SchemaVersion]:
    """Every version of every schema, by kind, name and service."""
    rows = await store.fetch("list_schemas")
    return [SchemaVersion(**{**row, "workers": tuple(row["workers"])}) for row in rows]


def _keys(schemas: Sequence[HashedSchema]) -> dict[str, object]:
    return {
        "kinds": [one.kind for one in schemas],
        "names": [one.name for one in schemas],
        "hashes": [one.hash for one in schemas],
    }
