"""Operators' verbs for listeners: `admin.listeners`."""

from __future__ import annotations

import difflib
from datetime import datetime
from typing import Literal

from pgbus.admin.changes import Change
from pgbus.database.statements import admin, inspection
from pgbus.database.statements.inspection import ListenerStatus
from pgbus.database.store import Store
from pgbus.errors import InUseError, NotRegisteredError


class ListenerVerbs:
    """Operators' verbs for listeners. Each that names a listener raises NotRegisteredError where there is none."""

    def __init__(self, *, store: Store, change: Change) -> None:
        self._store = store
        self._change = change

    async def list(self) -> tuple[ListenerStatus, ...]:
        """Return every listener, sorted by name."""
        return await inspection.list_listeners(self._store)

    async def pause(self, listener_name: str) -> None:
        """Stop deliveries to a listener on every worker; events are kept for it."""
        await self._set_state(listener_name, "paused")

    async def resume(self, listener_name: str) -> None:
        """Let a paused listener continue."""
        await self._set_state(listener_name, "active")

    async def reset(self, listener_name: str, *, to: Literal["beginning", "now"] | int | datetime) -> int:
        """Have a listener hear the log again, or skip what waits for it; returns the position it starts from.

        `to` is the log's beginning, now, a position, or an instant (aware): the first event that entered the log then
        or later. What waits for the listener is dropped; what is in flight stays so; dead letters stay.
        Raises ValueError for a position that is not in the log.
        """
        async with self._change():
            listener_id = await self._lock(listener_name)
            cursor = await self._position_of(to)
            await admin.set_listener_cursor(self._store, listener_id=listener_id, cursor=cursor)
            await admin.delete_waiting_deliveries(self._store, listener_id=listener_id)
            return cursor

    async def remove(self, listener_name: str, *, force: bool = False) -> None:
        """Forget a listener, with all that is owed to it and its dead letters; its history stays.

        Raises InUseError while a live worker runs it, unless `force`.
        """
        async with self._change():
            listener_id = await self._lock(listener_name)
            workers = await inspection.list_workers(self._store)
            running = [worker.name for worker in workers if worker.live and listener_name in worker.listeners]
            if running and not force:
                raise InUseError(
                    listener_name,
                    f"is run by {', '.join(running)}; stop or change them first, because they would register it again",
                    workers=running,
                )
            await admin.delete_deliveries(self._store, listener_id=listener_id)
            await admin.delete_listener(self._store, listener_id=listener_id)

    async def _set_state(self, listener_name: str, state: Literal["active", "paused"]) -> None:
        async with self._change():
            listener_id = await self._lock(listener_name)
            await admin.set_listener_state(self._store, listener_id=listener_id, state=state)

    async def _lock(self, listener_name: str) -> int:
        listener_id = await admin.lock_listener(self._store, listener_name=listener_name)
        if listener_id is None:
            raise unknown_listener(listener_name, await inspection.list_listener_names(self._store))
        return listener_id

    async def _position_of(self, place: Literal["beginning", "now"] | int | datetime) -> int:
        # "now" is the next position and not "live": an event that the leader is sequencing at this moment, with the old
        # cursor before its eyes, is then either delivered or backfilled.
        following = await inspection.read_log_head(self._store) + 1
        match place:
            case "beginning":
                return 0
            case "now":
                return following
            case datetime():
                if place.tzinfo is None:
                    raise ValueError(f"{place} has no time zone: give an aware datetime")
                return await inspection.find_position_at(self._store, instant=place)
            case int() if 0 <= place <= following:
                return place
            case _:
                raise ValueError(f"{place!r} is not a position of the log, which ends at {following - 1}")


async def check_listener(store: Store, listener_name: str | None) -> None:
    """Raise NotRegisteredError if a name is given, and no listener has it."""
    if listener_name is not None:
        names = await inspection.list_listener_names(store)
        if listener_name not in names:
            raise unknown_listener(listener_name, names)


def unknown_listener(listener_name: str, names: list[str]) -> NotRegisteredError:
    """The error for a name that is none of these."""
    return NotRegisteredError("listener", listener_name, difflib.get_close_matches(listener_name, names))
