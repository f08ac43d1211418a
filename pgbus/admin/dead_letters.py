"""Operators' verbs for dead letters: `admin.dead_letters`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from pgbus.admin.changes import Change
from pgbus.admin.filters import EVERY_DEAD_LETTER, DeadFilter
from pgbus.admin.listeners import check_listener
from pgbus.database.statements import admin, inspection
from pgbus.database.statements.inspection import DeadGroup, DeadLetter
from pgbus.database.store import Store


class DeadLetterVerbs:
    """Operators' verbs for dead letters. Each raises NotRegisteredError if the filter names no listener."""

    def __init__(self, *, store: Store, change: Change) -> None:
        self._store = store
        self._change = change

    async def find(self, wanted: DeadFilter = EVERY_DEAD_LETTER, *, limit: int = 100) -> list[DeadLetter]:
        """At most `limit` dead letters, newest first."""
        return await inspection.read_dead_letters(self._store, await self._match(wanted, limit=limit))

    async def count(self, wanted: DeadFilter = EVERY_DEAD_LETTER) -> int:
        """Return how many dead letters there are."""
        return len(await self._match(wanted, limit=None))

    async def summarize(self, wanted: DeadFilter = EVERY_DEAD_LETTER) -> list[DeadGroup]:
        """Dead letters in groups by their listener and the kind of their error, the largest first."""
        return await inspection.summarize_dead_letters(self._store, await self._match(wanted, limit=None))

    async def retry(self, wanted: DeadFilter = EVERY_DEAD_LETTER) -> list[int]:
        """Owe the events of these dead letters to their listeners again, due at once; the ids of those it did."""
        return await self._settle(admin.retry_dead_letters, wanted)

    async def discard(self, wanted: DeadFilter = EVERY_DEAD_LETTER) -> list[int]:
        """Remove dead letters for good; the history says so. The ids of those it did."""
        return await self._settle(admin.discard_dead_letters, wanted)

    async def _match(self, wanted: DeadFilter, *, limit: int | None) -> list[int]:
        await check_listener(self._store, wanted.listener_name)
        return await inspection.match_dead_letters(self._store, wanted.criteria(), limit=limit)

    async def _settle(
        self, statement: Callable[[Store, Sequence[int]], Awaitable[list[int]]], wanted: DeadFilter
    ) -> list[int]:
        async with self._change():
            ids = await self._match(wanted, limit=None)
            await admin.lock_dead_letters(self._store, ids)
            return await statement(self._store, ids)
