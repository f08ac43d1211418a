"""Writes the responses of a server's calls, in batches: what gathers while one is on its way goes with the next."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from uuid import UUID

from pgbus.database import channels
from pgbus.database.faults import Fault, classify
from pgbus.database.statements import rpc
from pgbus.database.statements.rpc import Notification, Response
from pgbus.database.store import Store
from pgbus.database.tries import Tries
from pgbus.rpc.wire import join_ids, take_batch

logger = logging.getLogger("pgbus")


class Answerer:
    """The responses that a server owes. `worker` is its name in them; `written` is called after every batch."""

    def __init__(self, store: Store, *, worker: str, written: Callable[[], None]) -> None:
        self._store = store
        self._worker = worker
        self._written = written
        self._responses: list[Response] = []
        self._callers: dict[UUID, str] = {}
        self._more = asyncio.Event()

    def owe(self, call_id: UUID, *, caller: str) -> None:
        """A call was taken, whose response is to be told to that caller."""
        self._callers[call_id] = caller

    @property
    def owed(self) -> list[UUID]:
        """The calls whose responses are not written yet."""
        return list(self._callers)

    def add(self, response: Response) -> None:
        """Write this response to a call that is owed one."""
        self._responses.append(response)
        self._more.set()

    async def run(self) -> None:
        """Write responses until cancelled."""
        tries = Tries("answer calls")
        while True:
            if not self._responses:
                self._more.clear()
                await self._more.wait()
                continue
            batch = take_batch(self._responses)
            try:
                await self._answer(batch)
                tries.worked()
            except Exception as error:
                # Written again, a response is there once; but some may be out of our hands by now.
                self._responses[:0] = [response for response in batch if response.call_id in self._callers]
                await asyncio.sleep(tries.pause_after(error))

    async def _answer(self, batch: list[Response]) -> None:
        try:
            await self._write(batch, told=self._notifications(batch))
        except Exception as error:
            if classify(error) is not Fault.VALUES:
                raise
            if len(batch) > 1:  # one that the database refuses fails alone
                for response in batch:
                    await self._answer([response])
                return
            await self._answer_refused(batch[0].call_id, error)
        for response in batch:
            self._callers.pop(response.call_id, None)
        self._written()

    async def _answer_refused(self, call_id: UUID, error: Exception) -> None:
        """Say why there is no result. The caller is not notified, which may be what failed: it looks twice a second."""
        text = f"the database refused the result: {error}".encode("ascii", "backslashreplace").decode()
        try:
            await self._write([Response(call_id, "invalid", error=text)], told=())
        except Exception as again:
            if classify(again) is not Fault.VALUES:
                raise
            logger.error("call %s is left without an answer: %s", call_id, again)

    async def _write(self, batch: list[Response], *, told: Iterable[Notification]) -> None:
        await rpc.answer_requests(self._store, batch, worker=self._worker, notifications=told)

    def _notifications(self, batch: list[Response]) -> list[Notification]:
        """One per caller, which says what was answered; more only for a large batch."""
        by_caller: dict[str, list[UUID]] = {}
        for response in batch:
            by_caller.setdefault(self._callers[response.call_id], []).append(response.call_id)
        return [
            Notification(channels.replies(self._store.namespace, caller), payload)
            for caller, call_ids in by_caller.items()
            for payload in join_ids(call_ids)
        ]
