"""The calls of one caller that are under way: posts requests in batches, and receives the responses.

A small result is in the notification. Other responses are read from the table, where all of them are.

poster   posts what gathered while the last batch was on its way, then withdraws what was cancelled
reader   reads the responses that were notified without a result
watcher  while calls are under way: are their servers alive? It also finds a response whose notification was lost.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from uuid import UUID

from pgbus.aio.tasks import end_tasks
from pgbus.database import channels
from pgbus.database.faults import Fault, classify, is_passing
from pgbus.database.statements import notifications, rpc
from pgbus.database.statements.rpc import Request, Response
from pgbus.database.store import Store
from pgbus.database.tries import Tries
from pgbus.errors import CallCancelled, InvalidArguments
from pgbus.rpc.connection import LINK_PAUSE, LINK_PAUSE_LIMIT
from pgbus.rpc.directory import Directory
from pgbus.rpc.wire import join_ids, join_names, seal, split_ids, split_results, take_batch

logger = logging.getLogger("pgbus")

# Seconds. A call that is under way for longer than this is checked at this interval.
WATCH_INTERVAL = 0.5
# Seconds to tell servers of calls that were cancelled, before the connection is closed.
FAREWELL = 2.0

UNSERVED = "no live worker serves it"


@dataclass(slots=True)
class Call:
    """A call under way.

    `posted`: a statement with its request was sent, so servers may have it. `watched`: the watcher has seen it in its
    last round, so that it is older than one interval in the next.
    """

    request: Request
    response: asyncio.Future[Response]
    wait: bool
    posted: bool = False
    watched: bool = False


class Exchange:
    """Sends requests, and hands each call its response. `caller` is the id on whose channel servers answer."""

    def __init__(self, store: Store, *, caller: str, caller_name: str, directory: Directory) -> None:
        self._store = store
        self._caller = caller
        self._caller_name = caller_name
        self._directory = directory
        self._calls_channel = channels.calls(store.namespace)
        self._calls: dict[UUID, Call] = {}
        # The poster's: requests that no statement has carried for certain, and posted calls to withdraw.
        self._unposted: list[Request] = []
        self._cancelled: list[UUID] = []
        # The reader's: calls that are said to have a response.
        self._answered: set[UUID] = set()
        # By name. Each task ends when it has nothing left to do; `_keep` begins it again.
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def send(self, request: Request, *, wait: bool, scope: asyncio.Timeout) -> Response:
        """Post a request and wait for its response. When `scope` expires, the servers know of that themselves."""
        call = Call(request, asyncio.get_running_loop().create_future(), wait)
        self._calls[request.call_id] = call
        self._unposted.append(request)
        self._keep("poster", self._post)
        self._keep("watcher", self._watch)
        try:
            return await call.response
        finally:
            # A response that comes after this finds no call, and is passed over; its row stays until the retention
            # ends.
            del self._calls[request.call_id]
            if call.response.cancelled():
                self._take_back(call, expired=scope.expired())

    def heard(self, payload: str) -> None:
        """A notification on our channel: results, or the calls whose responses are to be read."""
        if not payload.startswith("{"):
            self._expect(split_ids(payload))
            return
        for call_id, result in split_results(payload).items():
            self._complete(Response(call_id, "answered", result=result))

    def look_again(self) -> None:
        """Read the responses to the calls under way: their notifications may have been lost."""
        self._expect(self._calls)

    async def close(self) -> None:
        """End; calls that are under way raise CallCancelled."""
        # First: a call that ends by this is not cancelled, and so it is not withdrawn. Its request runs, or expires.
        for call in self._calls.values():
            if not call.response.done():
                call.response.set_exception(CallCancelled("the bus was closed", procedure=call.request.procedure))
        poster = self._tasks.get("poster")
        if poster and self._cancelled:  # by a Ctrl-C, say, which then also closed the bus
            await asyncio.wait([poster], timeout=FAREWELL)
        await end_tasks(*self._tasks.values())
        self._tasks.clear()

    # ---------------------------------------------------------------------------------------------------- the tasks

    def _keep(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Have the task run, unless it does."""
        # A task that finds nothing left to do ends in the same step of the loop, so one that is not done sees what was
        # added before this.
        task = self._tasks.get(name)
        if task is None or task.done():
            self._tasks[name] = asyncio.ensure_future(self._guard(work))

    async def _guard(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run it again until it succeeds. What no further try can mend is our fault, or a privilege's: calls get it."""
        tries = Tries("exchange calls and answers", first=LINK_PAUSE, limit=LINK_PAUSE_LIMIT)
        while True:
            try:
                await work()
            except Exception as error:
                try:
                    pause = tries.pause_after(error)
                except Exception:
                    logger.exception("calls failed")
                    self._refuse(self._calls, error)
                    return
                await asyncio.sleep(pause)
            else:
                return

    def _refuse(self, call_ids: Iterable[UUID], error: Exception) -> None:
        for call_id in call_ids:
            call = self._calls.get(call_id)
            if call and not call.response.done():
                call.response.set_exception(error)

    # --------------------------------------------------------------------------------------------------- the poster

    async def _post(self) -> None:
        while self._unposted or self._cancelled:
            if self._unposted:
                batch = [request for request in take_batch(self._unposted) if self._is_wanted(request)]
                # Before the statement: if it fails the rows may be there, and a call that is cancelled then has to be
                # withdrawn.
                for request in batch:
                    self._calls[request.call_id].posted = True
                try:
                    await self._post_batch(batch)
                except Exception:
                    # Whether it got there is not known; posted again, a request is there once.
                    self._unposted[:0] = batch
                    raise
            # After the requests: one that is to be withdrawn may have been among them.
            if self._cancelled:
                await self._withdraw_cancelled()

    def _is_wanted(self, request: Request) -> bool:
        call = self._calls.get(request.call_id)
        return call is not None and not call.response.done()

    async def _post_batch(self, batch: list[Request]) -> None:
        """Post requests; those that the database refuses fail, and no others."""
        try:
            await self._post_all(batch)
        except Exception as error:
            if is_passing(error):
                raise
            if classify(error) is not Fault.VALUES:
                logger.exception("calls failed")
                self._refuse((request.call_id for request in batch), error)
            elif len(batch) == 1:
                self._refuse([batch[0].call_id], _refused(batch[0], error))
            else:
                for request in batch:
                    await self._post_batch([request])

    async def _post_all(self, batch: list[Request]) -> None:
        names = join_names(request.procedure for request in batch)
        await rpc.post_requests(
            self._store,
            batch,
            caller=self._caller,
            caller_name=self._caller_name,
            channel=self._calls_channel,
            payload=names,
        )

    def _take_back(self, call: Call, *, expired: bool) -> None:
        """Drop a call that is not wanted any more, or cancel it at the servers; they know its deadline themselves."""
        if call.posted:
            if expired:
                return
            self._cancelled.append(call.request.call_id)
            self._keep("poster", self._post)
        elif call.request in self._unposted:
            self._unposted.remove(call.request)

    async def _withdraw_cancelled(self) -> None:
        # A copy: they stay in the list until the statement is done, so that a failure has them withdrawn again.
        call_ids = self._cancelled[:]
        withdrawn = await rpc.withdraw_requests(
            self._store, call_ids, outcome="cancelled", error="the caller took it back"
        )
        del self._cancelled[: len(call_ids)]  # more may have come meanwhile
        # Any role may listen there, and by its id a caller reads a call's response.
        for payload in join_ids(seal(call_id) for call_id in call_ids if call_id not in withdrawn):
            await notifications.notify(self._store, channel=self._calls_channel, payload=f"cancel {payload}")

    # --------------------------------------------------------------------------------------------------- the reader

    def _expect(self, call_ids: Iterable[UUID]) -> None:
        self._answered.update(call_ids)
        self._keep("reader", self._read)

    async def _read(self) -> None:
        while self._answered:
            # Cleared before the read: what is notified during it may be missing in its snapshot, and is read next.
            call_ids = [call_id for call_id in self._answered if call_id in self._calls]
            self._answered.clear()
            if call_ids:
                try:
                    await self._read_responses(call_ids)
                except Exception:
                    self._answered.update(call_ids)
                    raise

    async def _read_responses(self, call_ids: list[UUID]) -> None:
        for response in await rpc.fetch_responses(self._store, call_ids):
            self._complete(response)

    def _complete(self, response: Response) -> None:
        call = self._calls.get(response.call_id)
        if call and not call.response.done():
            call.response.set_result(response)

    # -------------------------------------------------------------------------------------------------- the watcher

    async def _watch(self) -> None:
        while self._calls:
            await asyncio.sleep(WATCH_INTERVAL)
            # Those that the last round saw already: most calls are over by then.
            old = [call for call in self._calls.values() if call.watched]
            for call in self._calls.values():
                call.watched = call.posted
            if old:
                await self._look_after(old)

    async def _look_after(self, calls: list[Call]) -> None:
        call_ids = [call.request.call_id for call in calls]
        # The caller writes the response that its dead server owes. If that has answered after all, its response is
        # there first, and is what the read below finds.
        await rpc.fail_lost_calls(self._store, call_ids)
        await self._withdraw_unserved([call.request for call in calls if not call.wait])
        # Last, and with what the two have written. A notification is a hint: whatever became of it, this finds it.
        await self._read_responses(call_ids)

    async def _withdraw_unserved(self, requests: list[Request]) -> None:
        served = await self._directory.find_served(request.procedure for request in requests)
        unserved = [request.call_id for request in requests if request.procedure not in served]
        if unserved:
            await rpc.withdraw_requests(self._store, unserved, outcome="unserved", error=UNSERVED)


def _refused(request: Request, error: Exception) -> InvalidArguments:
    refusal = InvalidArguments(
        f"the database refused the arguments of {request.procedure}: {error}", procedure=request.procedure
    )
    refusal.__cause__ = error
    return refusal
