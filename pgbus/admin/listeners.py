"""Operators' verbs for listeners: `admin.listeners`."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, Unpack

from pgbus.admin.operations import OperationVerbs
from pgbus.database.statements import inspection
from pgbus.database.statements.inspection import ListenerStatus
from pgbus.database.statements.operations import Operation, Verb, Why
from pgbus.database.store import Store
from pgbus.errors import InUseError, NotRegisteredError
from pgbus.errors.spelling import find_close


class ListenerVerbs:
    """Operators' verbs for listeners. Each that names a listener raises NotRegisteredError for an unknown one."""

    def __init__(self, *, store: Store, operations: OperationVerbs) -> None:
        self._store = store
        self._operations = operations

    async def list(self) -> tuple[ListenerStatus, ...]:
        """Return every listener, sorted by name."""
        return await inspection.list_listeners(self._store)

    async def pause(self, listener_name: str, **why: Unpack[Why]) -> Operation:
        """Stop deliveries to a listener on every worker; events are kept for it."""
        return await self._operate("pause", listener_name, why)

    async def resume(self, listener_name: str, **why: Unpack[Why]) -> Operation:
        """Let a paused listener continue."""
        return await self._operate("resume", listener_name, why)

    async def reset(
        self, listener_name: str, *, to: Literal["beginning", "now"] | int | datetime, **why: Unpack[Why]
    ) -> int:
        """Have a listener hear the log again, or skip what waits for it; returns the position it starts from.

        `to` is the log's beginning, now, a position, or an instant (aware): the first event that entered the log then
        or later. What waits for the listener is dropped; what is in flight stays so. A dead letter from there on is
        heard again, and no longer open; others stay.
        Raises ValueError for a position that is not in the log.
        """
        place = await self.place(listener_name, to)
        done = await self._operations.run("reset", {"listener": listener_name, "to": place}, **why)
        position: int = done.result["position"]
        return position

    async def replay(
        self, listener_name: str, *, start: int | datetime, end: int | datetime | None = None, **why: Unpack[Why]
    ) -> Operation:
        """Have a listener hear a stretch of the log again, from `start` to before `end`, besides what waits for it.

        `start` and `end` are positions, or instants (aware); default end: now. A dead letter of the stretch is no
        longer open. Raises ValueError for a position that is not in the log.
        """
        stretch = {"from": await self.place(listener_name, start)}
        if end is not None:
            stretch["to"] = await self.place(listener_name, end)
        return await self._operations.run("replay", {"listener": listener_name, **stretch}, **why)

    async def remove(self, listener_name: str, *, force: bool = False, **why: Unpack[Why]) -> Operation:
        """Forget a listener, with all that is owed to it; its history stays, and the operation keeps its dead letters.

        Raises InUseError while a live worker runs it, unless `force`.
        """
        await self.check_removable(listener_name, force=force)
        return await self._operations.run("remove", {"listener": listener_name, "force": force}, **why)

    async def check_removable(self, listener_name: str, *, force: bool = False) -> None:
        """Raise InUseError while a live worker runs the listener, unless `force`; NotRegisteredError."""
        await check_listener(self._store, listener_name)
        workers = await inspection.list_workers(self._store)
        running = [worker.name for worker in workers if worker.live and listener_name in worker.listeners]
        if running and not force:
            raise InUseError(
                listener_name,
                f"is run by {', '.join(running)}; stop or change them first, because they would register it again",
                workers=running,
            )

    async def check(self, listener_name: str) -> None:
        """Raise NotRegisteredError unless there is such a listener."""
        await check_listener(self._store, listener_name)

    async def place(self, listener_name: str, place: Literal["beginning", "now"] | int | datetime) -> str:
        """A place in the log, for a listener, in the words of a filter; raises ValueError if it is not in the log."""
        await check_listener(self._store, listener_name)
        return place if isinstance(place, str) else str(await self._position_of(place))

    async def _operate(self, verb: Verb, listener_name: str, why: Why) -> Operation:
        await check_listener(self._store, listener_name)
        return await self._operations.run(verb, {"listener": listener_name}, **why)

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
    """The error for a name that is not one of these."""
    return NotRegisteredError("listener", listener_name, find_close(listener_name, names))
