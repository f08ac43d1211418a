"""What is declared goes into the database, by version; and out of it, to be compared."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from pgbus.database.store import Run
from pgbus.schema.compatibility import find_broken
from pgbus.schema.documents import Declaration, Stored
from pgbus.schema.generate import Schema

logger = logging.getLogger("pgbus")

# A live worker's schemas are seen at least this often, in seconds.
SEEN_INTERVAL = 60.0
# A statement that another process's came before stores nothing of what that is storing.
_ATTEMPTS = 5


class Publication:
    """What a process has published, of which service, on which channel others are told."""

    def __init__(self, *, service: str, channel: str) -> None:
        self._service = service
        self._channel = channel
        self.forget()

    def forget(self) -> None:
        """Nothing was published yet, in the database that there is now."""
        self._hashes: frozenset[tuple[str, str, str]] = frozenset()
        self._worker_id: int | None = None

    def covers(self, declared: Sequence[Declaration]) -> bool:
        """Whether all of it was published."""
        return all((one.kind, one.name, one.hash) in self._hashes for one in declared)

    async def publish(self, declared: Sequence[Declaration], *, run: Run, worker_id: int | None) -> None:
        """Store what is declared; a worker also says that it speaks it, and is warned of what that breaks.

        Does nothing if the same was published last, as by a worker whose connection was lost and is back: to publish
        again is to say that this version holds, and a newer one may hold by now.
        """
        hashes = frozenset((one.kind, one.name, one.hash) for one in declared)
        if not declared or (hashes == self._hashes and worker_id == self._worker_id):
            return
        values = self._values(declared)
        if worker_id is not None:
            await _warn_of_breaks(declared, values, run)
        await self._store(values, declared, run)
        if worker_id is not None:
            await run("set_worker_schemas", {**values, "worker_id": worker_id})
        self._hashes, self._worker_id = hashes, worker_id

    def _values(self, declared: Sequence[Declaration]) -> dict[str, object]:
        return {
            "kinds": [one.kind for one in declared],
            "names": [one.name for one in declared],
            "hashes": [one.hash for one in declared],
            "service": self._service,
        }

    async def _store(self, values: dict[str, object], declared: Sequence[Declaration], run: Run) -> None:
        schemas = [msgspec.json.encode(one.schema, order="sorted").decode() for one in declared]
        values = {**values, "schemas": schemas, "channel": self._channel}
        for _ in range(_ATTEMPTS):
            rows = await run("publish_schemas", values)
            for kind, name, version, is_new, _told in rows:
                if is_new and version > 1:
                    logger.info("%s %s has a new schema: version %d", kind, name, version)
            if len(rows) >= len(declared):
                return


async def list_stored(run: Run) -> list[Stored]:
    """Every version of every schema in the database."""
    return read_stored(await run("list_schemas", {}))


def read_schema(text: str) -> Schema | None:
    """A stored schema; None for JSON that Python cannot hold: whoever may publish may store any."""
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError) as error:
        logger.warning("a stored schema is passed over, as it cannot be read: %s", error)
        return None


def read_stored(rows: Iterable[Any]) -> list[Stored]:
    """From the rows of the statement `list_schemas`; those that cannot be read are left out."""
    return [
        Stored(
            kind=kind,
            name=name,
            service=service,
            version=version,
            schema=schema,
            is_live=is_live,
            workers=tuple(workers),
            is_registered=is_registered,
            first_seen_at=first_seen_at,
            published_at=published_at,
            last_seen_at=last_seen_at,
        )
        for (
            kind, name, service, version, text, is_live, workers, is_registered, first_seen_at, published_at,
            last_seen_at,
        ) in rows
        if (schema := read_schema(text)) is not None
    ]  # fmt: skip


async def _warn_of_breaks(declared: Sequence[Declaration], values: dict[str, object], run: Run) -> None:
    new = {(kind, name) for kind, name in await run("find_new_schemas", values)}
    if not new:
        return
    changed = [one for one in declared if (one.kind, one.name) in new]
    for found in find_broken(changed, await list_stored(run), with_missing=False):
        logger.warning("this code does not fit the rest of the bus: %s", found)
