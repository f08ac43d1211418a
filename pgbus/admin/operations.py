"""Operations: `admin.operations` previews, carries out, lists and cancels the changes that people make."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Unpack

from pgbus.admin.changes import Change
from pgbus.database.faults import ObjectInUse, hint_of
from pgbus.database.statements import operations
from pgbus.database.statements.operations import (
    Filter,
    Operation,
    OperationFilter,
    OperationItem,
    Preview,
    Verb,
    Why,
)
from pgbus.database.store import Store
from pgbus.errors import InUseError, OperationNotFound

# Failures or events of one batch. It is one transaction, and workers wait for the rows that it has locked.
BATCH = 500
# These change one listener or schedule at once. The others go through what they match, batch by batch.
AT_ONCE = frozenset(
    (
        "reset",
        "pause",
        "resume",
        "remove",
        "pause_schedule",
        "resume_schedule",
        "run_schedule",
        "remove_schedule",
        "republish",
        "adopt",
    )
)
EVERY_OPERATION = OperationFilter()
_SUBJECT = re.compile(r'(?:listener|schedule) "(.*?)" (.*)', re.DOTALL)


class OperationVerbs:
    """Operators' verbs for operations: each change is a row with the person, the instant, the reason and what changed.

    `verb` and the keys of `filter_` are those of `pgbus.check_filter`: for `retry` and `discard`, which take dead
    letters, `ids`, `listener`, `topic`, `key`, `error`, `since`, `until`, `where`.
    """

    def __init__(self, *, store: Store, change: Change) -> None:
        self._store = store
        self._change = change

    async def preview(self, verb: Verb, filter_: Filter, *, samples: int = 5) -> Preview:
        """Count the rows that a change would apply to, and return a few of them; nothing is changed."""
        return await operations.preview_operation(self._store, verb, filter_, samples=samples)

    async def run(
        self,
        verb: Verb,
        filter_: Filter,
        *,
        batch: int = BATCH,
        progress: Callable[[Operation], None] = lambda _: None,
        **why: Unpack[Why],
    ) -> Operation:
        """Record an operation and carry it out, a transaction per batch; it as it is in the end.

        `progress` is called after each batch. It ends early where somebody cancels it. Raises InUseError.
        """
        if verb not in AT_ONCE:
            number = await self.begin(verb, filter_, **why)
            return await self.carry_out(number, batch=batch, progress=progress)
        try:
            async with self._change():  # refused, it leaves nothing that looks as if it ran
                number = await operations.begin_operation(self._store, verb, filter_, why)
                done = await operations.continue_operation(self._store, number, batch=batch)
        except ObjectInUse as error:
            raise _in_use(error) from error
        progress(done)
        return done

    async def begin(self, verb: Verb, filter_: Filter, **why: Unpack[Why]) -> int:
        """Record an operation that goes batch by batch, and return its id; `carry_out` does the rest."""
        return await operations.begin_operation(self._store, verb, filter_, why)

    async def resume(
        self,
        operation_id: int,
        *,
        batch: int = BATCH,
        progress: Callable[[Operation], None] = lambda _: None,
        **why: Unpack[Why],
    ) -> Operation:
        """Carry out the rest of an operation that was broken off, and record who does; safe to repeat.

        Raises OperationNotFound.
        """
        await self.show(operation_id)  # raises for one that is not there
        await operations.resume_operation(self._store, operation_id, why)
        return await self.carry_out(operation_id, batch=batch, progress=progress)

    async def carry_out(
        self, operation_id: int, *, batch: int = BATCH, progress: Callable[[Operation], None] = lambda _: None
    ) -> Operation:
        """Carry out an operation that this program has begun; `resume` is for those that were broken off."""
        # A batch at a time, each in a transaction of its own. The row of the operation is locked meanwhile: of two
        # programs that continue it, each does other batches, and a crash loses none that is recorded.
        while True:
            now = await operations.continue_operation(self._store, operation_id, batch=batch)
            progress(now)
            if now.state != "running":
                return now

    async def cancel(self, operation_id: int, **why: Unpack[Why]) -> bool:
        """Stop an operation after its current batch, and leave what it has done; false if it has ended already.

        Raises OperationNotFound.
        """
        await self.show(operation_id)
        return await operations.cancel_operation(self._store, operation_id, why)

    async def show(self, operation_id: int) -> Operation:
        """Return one operation; raises OperationNotFound."""
        found = await operations.list_operations(self._store, OperationFilter(operation_id=operation_id), limit=1)
        if not found:
            raise OperationNotFound(operation_id)
        return found[0]

    async def items(self, operation_id: int, *, limit: int | None = None) -> list[OperationItem]:
        """Return the events that an operation has touched, in the order of the log."""
        return await operations.list_operation_items(self._store, operation_id, limit=limit)

    async def list(self, wanted: OperationFilter = EVERY_OPERATION, *, limit: int | None = 100) -> list[Operation]:
        """At most `limit` operations, the newest first."""
        return await operations.list_operations(self._store, wanted, limit=limit)


def _in_use(error: Exception) -> InUseError:
    text = str(error).partition("\n")[0]  # the hint comes after it
    found = _SUBJECT.match(text)
    name, reason = found.groups() if found else ("", text)
    hint = hint_of(error)
    return InUseError(name, f"{reason}; {hint[0].lower()}{hint[1:].rstrip('.')}" if hint else reason)
