"""The responses that a server owes: they gather while a statement is on its way, and go with the next one."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from uuid import UUID

from pgbus.database import channels
from pgbus.database.faults import Fault, classify
from pgbus.database.statements import rpc
from pgbus.database.statements.rpc import Answered, ClaimedRequest, Response
from pgbus.database.store import Store
from pgbus.rpc.wire import is_small, join_ids, join_results, take_batch

logger = logging.getLogger("pgbus")


class Answerer:
    """Writes responses, and with the same statement claims what the server has room for. `worker` is its name."""

    def __init__(self, store: Store, *, worker: str) -> None:
        self._store = store
        self._worker = worker
        self._responses: list[Response] = []
        # A call is in here from its claim until its response is committed. What is claimed in our name and is not in
        # here, nobody works on: the server fails it as lost.
        self._callers: dict[UUID, str] = {}

    def owe(self, call_id: UUID, *, caller: str) -> None:
        """A call was claimed; its response will be sent to that caller."""
        self._callers[call_id] = caller

    @property
    def owed(self) -> list[UUID]:
        """The calls whose responses are not written yet."""
        return list(self._callers)

    def add(self, response: Response) -> None:
        """Write this response, to a call that is owed one, with the next statement."""
        self._responses.append(response)

    @property
    def has_responses(self) -> bool:
        """Whether there is something to write."""
        return bool(self._responses)

    async def answer(self, *, rooms: Mapping[str, int], worker_id: int) -> list[ClaimedRequest]:
        """Write a batch of responses, and claim as many requests as there is room for; what was claimed.

        What could not be written is written with the next batch.
        """
        # Taken out before the statement: what is answered meanwhile is the next batch, and is not sent twice.
        batch = take_batch(self._responses)
        try:
            return await self._answer(batch, rooms=rooms, worker_id=worker_id)
        except BaseException:
            # Written again, a response is there once; but some of the batch may be written for certain by now.
            self._responses[:0] = [response for response in batch if response.call_id in self._callers]
            raise

    async def _answer(self, batch: list[Response], *, rooms: Mapping[str, int], worker_id: int) -> list[ClaimedRequest]:
        try:
            claimed = await self._write(batch, told=self._told(batch), rooms=rooms, worker_id=worker_id)
        except Exception as error:
            if classify(error) is not Fault.VALUES:
                raise
            await self._answer_apart(batch, error)
            # The refused statement has claimed nothing, either.
            return await rpc.claim_requests(self._store, rooms, worker_id=worker_id) if rooms else []
        self._written(batch)
        return claimed

    async def _answer_apart(self, batch: list[Response], error: Exception) -> None:
        """Write responses one by one: those that the database refuses, for values in them, fail alone."""
        if len(batch) == 1:
            await self._answer_refused(batch[0].call_id, error)
            self._written(batch)
            return
        for response in batch:
            await self._answer([response], rooms={}, worker_id=0)

    def _written(self, batch: list[Response]) -> None:
        for response in batch:
            self._callers.pop(response.call_id, None)

    async def _answer_refused(self, call_id: UUID, error: Exception) -> None:
        """Say why there is no result. The caller is not notified, which may be what failed: it looks twice a second."""
        text = f"the database refused the result: {error}".encode("ascii", "backslashreplace").decode()
        try:
            await self._write([Response(call_id, "invalid", error=text)], told=(), rooms={}, worker_id=0)
        except Exception as again:
            if classify(again) is not Fault.VALUES:
                raise
            logger.error("call %s gets no response: %s", call_id, again)

    async def _write(
        self, batch: list[Response], *, told: Sequence[Answered], rooms: Mapping[str, int], worker_id: int
    ) -> list[ClaimedRequest]:
        if rooms:
            return await rpc.answer_and_claim(
                self._store, batch, rooms, worker=self._worker, told=told, worker_id=worker_id
            )
        await rpc.answer_requests(self._store, batch, worker=self._worker, told=told)
        return []

    def _told(self, batch: list[Response]) -> list[Answered]:
        """One notification per caller, with the small results; further ones if there are many or others."""
        by_caller: dict[str, list[Response]] = {}
        for response in batch:
            by_caller.setdefault(self._callers[response.call_id], []).append(response)
        told: list[Answered] = []
        for caller, responses in by_caller.items():
            channel = channels.replies(self._store.namespace, caller)
            small = [response for response in responses if is_small(response)]
            told.extend(
                Answered(channel, payload, hint=",".join(map(str, call_ids)))
                for payload, call_ids in join_results(small)
            )
            others = [response.call_id for response in responses if not is_small(response)]
            told.extend(Answered(channel, hint, hint=hint) for hint in join_ids(others))
        return told
