"""Operators' verbs for dead letters: `admin.dead_letters`."""

from __future__ import annotations

from typing import Unpack

from pgbus.admin.filters import EVERY_DEAD_LETTER, DeadFilter
from pgbus.admin.listeners import check_listener
from pgbus.admin.operations import OperationVerbs
from pgbus.database.statements import inspection
from pgbus.database.statements.inspection import DeadGroup, DeadLetter
from pgbus.database.statements.operations import Operation, Verb, Why
from pgbus.database.store import Store


class DeadLetterVerbs:
    """Operators' verbs for dead letters. Each raises NotRegisteredError if the filter names no listener."""

    def __init__(self, *, store: Store, operations: OperationVerbs) -> None:
        self._store = store
        self._operations = operations

    async def find(self, wanted: DeadFilter = EVERY_DEAD_LETTER, *, limit: int = 100) -> list[DeadLetter]:
        """At most `limit` dead letters, newest first."""
        return await inspection.read_dead_letters(self._store, await self._match(wanted, limit=limit))

    async def count(self, wanted: DeadFilter = EVERY_DEAD_LETTER) -> int:
        """Return how many dead letters there are."""
        return len(await self._match(wanted, limit=None))

    async def summarize(self, wanted: DeadFilter = EVERY_DEAD_LETTER) -> list[DeadGroup]:
        """Dead letters in groups by their listener and fingerprint, the largest first."""
        return await inspection.summarize_dead_letters(self._store, await self._match(wanted, limit=None))

    async def retry(self, wanted: DeadFilter = EVERY_DEAD_LETTER, **why: Unpack[Why]) -> list[int]:
        """Owe the events of these dead letters to their listeners again, due at once; the ids of those it did."""
        return await self._operate("retry", wanted, why)

    async def discard(self, wanted: DeadFilter = EVERY_DEAD_LETTER, **why: Unpack[Why]) -> list[int]:
        """Remove dead letters for good; returns their ids. The history notes it, and the operation keeps them."""
        return await self._operate("discard", wanted, why)

    async def retry_now(self, wanted: DeadFilter = EVERY_DEAD_LETTER, **why: Unpack[Why]) -> Operation:
        """Have events that failed, and wait for their next attempt, tried at once.

        The filter's `since` and `until` are compared with the instant at which an event entered the log; `ids` are
        those of dead letters, and are refused.
        """
        return await self._operate_on_waiting("retry_now", wanted, why)

    async def give_up(self, wanted: DeadFilter = EVERY_DEAD_LETTER, **why: Unpack[Why]) -> Operation:
        """Make dead letters of events that failed and wait for their next attempt; the filter is as for `retry_now`."""
        return await self._operate_on_waiting("give_up", wanted, why)

    async def _operate_on_waiting(self, verb: Verb, wanted: DeadFilter, why: Why) -> Operation:
        await check_listener(self._store, wanted.listener_name)
        return await self._operations.run(verb, wanted.as_filter(), **why)

    async def _match(self, wanted: DeadFilter, *, limit: int | None) -> list[int]:
        await check_listener(self._store, wanted.listener_name)
        return await inspection.match_dead_letters(self._store, wanted.as_filter(), limit=limit)

    async def _operate(self, verb: Verb, wanted: DeadFilter, why: Why) -> list[int]:
        await check_listener(self._store, wanted.listener_name)
        done = await self._operations.run(verb, wanted.as_filter(), **why)
        return sorted(item.letter_id for item in await self._operations.items(done.id) if item.letter_id is not None)
