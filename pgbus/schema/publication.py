"""Stores declarations in the database by version, and reads them for comparisons."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from pgbus.database.faults import DATABASE_ERRORS
from pgbus.database.statements import schemas
from pgbus.database.statements.schemas import HashedSchema, SchemaVersion
from pgbus.database.store import Store
from pgbus.errors import PrivilegeError
from pgbus.handlers.about import About
from pgbus.schema.declared import Code
from pgbus.schema.documents import Declaration, Stored, read_schema

logger = logging.getLogger("pgbus")

# A live worker's schemas are seen at least this often, in seconds.
SEEN_INTERVAL = 60.0
# A statement that another process's came before stores nothing of what that is storing.
_ATTEMPTS = 5


class Publication:
    """The state of publication: the published declarations, their service, and the channel for notifications."""

    def __init__(self, *, code: Code, service: str, channel: str) -> None:
        self._code = code
        self._service = service
        self._channel = channel
        self.forget()

    def forget(self) -> None:
        """Nothing was published yet, in the database that there is now."""
        self._published: frozenset[HashedSchema] = frozenset()
        self._worker_id: int | None = None

    async def announce(self, store: Store) -> None:
        """Store the schemas of the events that this process may fire, unless it has done so; never fails."""
        try:
            declared = self._code.declare(procedures=())
            if not self._published.issuperset(map(hashed, declared)):
                await self.publish(declared, store=store)
        except (PrivilegeError, *DATABASE_ERRORS) as error:
            logger.info("the schemas of events could not be stored: %s", error)

    async def publish(self, declared: Sequence[Declaration], *, store: Store, worker_id: int | None = None) -> None:
        """Store what is declared; a worker also says that it speaks it, and is warned of what that breaks.

        Does nothing if the same was published last, as by a worker whose connection was lost and is back: to publish
        again is to say that this version holds, and a newer one may hold by now.
        """
        wanted = [hashed(one) for one in declared]
        if not wanted or (frozenset(wanted) == self._published and worker_id == self._worker_id):
            return
        if worker_id is not None:
            await self._warn_of_breaks(declared, wanted, store)
        await self._store(wanted, store)
        if worker_id is not None:
            await schemas.set_worker_schemas(store, wanted, service=self._service, worker_id=worker_id)
        self._published, self._worker_id = frozenset(wanted), worker_id

    async def _store(self, wanted: Sequence[HashedSchema], store: Store) -> None:
        for _ in range(_ATTEMPTS):
            found = await schemas.publish_schemas(store, wanted, service=self._service, channel=self._channel)
            for one in found:
                if one.is_new and one.version > 1:
                    logger.info("%s %s has a new schema: version %d", one.kind, one.name, one.version)
            if len(found) >= len(wanted):
                return

    async def _warn_of_breaks(
        self, declared: Sequence[Declaration], wanted: Sequence[HashedSchema], store: Store
    ) -> None:
        new = await schemas.find_new_schemas(store, wanted, service=self._service)
        if not new:
            return
        from pgbus.schema.compatibility import find_broken  # only a worker with a new schema compares

        changed = [one for one in declared if (one.kind, one.name) in new]
        stored = read_versions(await schemas.list_schemas(store))
        for found in find_broken(changed, stored, with_missing=False):
            logger.warning("this code is incompatible with other services: %s", found)


def hashed(declared: Declaration) -> HashedSchema:
    """The declaration as it is stored; the hash is the same whatever the order of the schema's keys."""
    text = msgspec.json.encode(declared.schema, order="sorted")
    return HashedSchema(
        declared.kind,
        declared.name,
        text.decode(),
        hash=hashlib.sha256(text).hexdigest(),
        about=msgspec.json.encode(declared.about, order="sorted").decode(),
    )


def read_versions(versions: Iterable[SchemaVersion]) -> list[Stored]:
    """The versions that the database holds; those that cannot be read are left out."""
    return [
        Stored(
            kind=one.kind,
            name=one.name,
            service=one.service,
            version=one.version,
            schema=schema,
            is_live=one.is_live,
            workers=one.workers,
            is_registered=one.is_registered,
            options=_read_object(one.options),
            about=About(one.owner, one.description, _read_object(one.links)),
            first_seen_at=one.first_seen_at,
            published_at=one.published_at,
            last_seen_at=one.last_seen_at,
        )
        for one in versions
        if (schema := read_schema(one.schema)) is not None
    ]


def _read_object(text: str | None) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text or "{}", type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError):  # any publisher may store any JSON
        return {}
