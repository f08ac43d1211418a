"""The caller's side: posts requests in batches, hears of responses on a channel of its own, and reads them in batches.

poster   posts what gathered while the last batch was on its way, then takes back what was cancelled
reader   reads the responses that were notified
watcher  while calls are under way: are their servers alive? It also finds a response whose notification was lost.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

from uuid_utils.compat import uuid7

from pgbus.aio.backoff import Backoff
from pgbus.aio.tasks import end_tasks
from pgbus.config import Config
from pgbus.config.options import FLAG, check_options, seconds
from pgbus.database import channels
from pgbus.database.connections import cut, session_closed, unreachable
from pgbus.database.faults import Fault, ServerError, classify, is_link_error, is_passing
from pgbus.database.migrate import check_async
from pgbus.database.session import Session
from pgbus.database.statements import sequencer
from pgbus.database.store import Store
from pgbus.database.tries import Tries
from pgbus.errors import CallCancelled, CallTimeout, InvalidArguments, NoWorkerAvailable
from pgbus.rpc.procedures import Procedures, check_procedure_name
from pgbus.rpc.wire import (
    Request,
    Response,
    encode_arguments,
    join_ids,
    join_names,
    result_receiver,
    split_ids,
    take_batch,
    to_error,
)
from pgbus.topics import split_name

logger = logging.getLogger("pgbus")

# Seconds. A call that is under way for longer than this is asked after as often.
WATCH_INTERVAL = 0.5
# For so long a procedure counts as served without another look; the watcher finds out soon if it is not.
DIRECTORY_TTL = 1.0
MAX_TIMEOUT = 86_400.0
# Seconds to tell servers of calls that were taken back, before the connections are closed.
FAREWELL = 2.0
LINK_PAUSE = 0.1
LINK_PAUSE_LIMIT = 2.0

_OPTIONS = {"timeout": seconds(MAX_TIMEOUT).or_none(), "wait": FLAG}

UNSERVED = "no live worker serves it"


@dataclass(slots=True)
class Call:
    """A call under way."""

    request: Request
    response: asyncio.Future[Response]
    wait: bool
    posted: bool = False
    watched: bool = False


@dataclass(frozen=True, slots=True)
class Service:
    """What the database knew of a procedure at loop time `seen_at`; `timeout` is the declared one, in seconds."""

    seen_at: float
    is_served: bool
    timeout: float | None


class Schemas(Protocol):
    """What is known of the procedures of other services."""

    async def check_call(self, procedure: str, arguments: str, *, store: Store) -> None:
        """Refuse arguments, as JSON text, that do not fit; `store` is the caller's."""
        ...

    async def why_unserved(self, procedure: str, *, store: Store) -> str | None:
        """What is wrong with the name of a procedure that no live worker serves, if it looks wrong."""
        ...

    def drop(self, store: Store | None = None) -> None:
        """What is known has changed."""
        ...


class Caller:
    """Calls procedures from one event loop, over one session of its own, opened by the first call.

    A call's statements follow each other, and those of calls at the same time are gathered: a second connection would
    be waited for by nobody.
    """

    def __init__(self, config: Config, *, procedures: Procedures, schemas: Schemas | None = None) -> None:
        self._config = config
        self._schemas = schemas
        self._procedures = procedures
        self._id = secrets.token_hex(8)
        self._store = Store(self, namespace=config.namespace)
        self._calls_channel = channels.calls(config.namespace)
        self._session: Session | None = None
        self._opening = asyncio.Lock()
        self._looking = asyncio.Lock()
        self._services: dict[str, Service] = {}
        self._calls: dict[UUID, Call] = {}
        self._unposted: list[Request] = []
        self._cancelled: list[UUID] = []
        self._answered: set[UUID] = set()
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def call(
        self,
        procedure: str,
        arguments: Mapping[str, object],
        *,
        timeout: float | None,
        returns: Any,
        wait: bool,
        call_id: UUID | None = None,
    ) -> Any:
        """What `Bus.call` tells; `call_id` is a new UUIDv7 unless given."""
        check_procedure_name(procedure)
        declared = self._procedures.get(procedure)
        settings = self._config.api(split_name(procedure)[0])
        receive = result_receiver(procedure, returns, declared=declared, settings=settings)
        check_options(procedure, _OPTIONS, {"timeout": timeout, "wait": wait})
        text = encode_arguments(procedure, arguments, limit=self._config.rpc_max_payload)
        if declared:
            declared.decode.check(text, arguments)
        return receive(await self._call(procedure, text, timeout=timeout, wait=wait, call_id=call_id or uuid7()))

    async def _call(self, procedure: str, arguments: str, *, timeout: float | None, wait: bool, call_id: UUID) -> str:
        loop = asyncio.get_running_loop()
        started = loop.time()
        scope = asyncio.timeout(timeout)
        try:
            async with scope:
                if self._session is None:
                    await self._open()
                if self._schemas is not None:
                    await self._schemas.check_call(procedure, arguments, store=self._store)
                service = await self._find(procedure, since=started)
                if not (service.is_served or wait):
                    raise await self._unserved(procedure)
                if timeout is None:
                    timeout = service.timeout or self._default_timeout(procedure)
                    scope.reschedule(started + timeout)
                request = Request(call_id, procedure, arguments, timeout)
                response = await self._exchange(request, wait=wait, scope=scope)
        except TimeoutError as error:
            if not scope.expired():
                raise
            raise CallTimeout(
                f"{procedure}: no answer within {timeout:g} seconds; it is not executed any more if it was not yet",
                procedure=procedure,
            ) from error
        if response.result is None:
            raise to_error(response, procedure=procedure, allowed=self._procedures.errors)
        return response.result

    async def _unserved(self, procedure: str) -> NoWorkerAvailable:
        why = self._schemas and await self._schemas.why_unserved(procedure, store=self._store)
        reason = f", and {why}" if why else "; start one, or call with wait=True"
        return NoWorkerAvailable(f"{procedure}: {UNSERVED}{reason}", procedure=procedure)

    def _default_timeout(self, procedure: str) -> float:
        api_name, _ = split_name(procedure)
        return self._config.api(api_name).rpc_timeout or self._config.rpc_timeout

    async def _exchange(self, request: Request, *, wait: bool, scope: asyncio.Timeout) -> Response:
        call = Call(request, asyncio.get_running_loop().create_future(), wait)
        self._calls[request.call_id] = call
        self._unposted.append(request)
        self._keep("poster", self._post)
        self._keep("watcher", self._watch)
        try:
            return await call.response
        finally:
            del self._calls[request.call_id]
            if call.response.cancelled():
                self._take_back(call, expired=scope.expired())

    def _take_back(self, call: Call, *, expired: bool) -> None:
        """Not wanted any more: drop it, or tell the servers; of its deadline they know themselves."""
        if call.posted:
            if expired:
                return
            self._cancelled.append(call.request.call_id)
            self._keep("poster", self._post)
        elif call.request in self._unposted:
            self._unposted.remove(call.request)

    async def close(self) -> None:
        """Close the connections; calls that are under way raise CallCancelled."""
        for call in self._calls.values():
            if not call.response.done():
                call.response.set_exception(CallCancelled("the bus was closed", procedure=call.request.procedure))
        poster = self._tasks.get("poster")
        if poster and self._cancelled:  # by a Ctrl-C, say, which then also closed the bus
            await asyncio.wait([poster], timeout=FAREWELL)
        await end_tasks(*self._tasks.values())
        self._tasks.clear()
        if self._session:
            await self._session.close()
            self._session = None

    def abandon(self) -> None:
        """Drop the connection of a loop that was closed with it."""
        if self._session:
            cut(self._session.connection)

    # ------------------------------------------------------------------------------------------------- connections

    async def fetch(self, query: str, *args: Any) -> list[Any]:
        """Run one statement on the session."""
        session = self._session
        if session is None:
            raise session_closed()
        try:
            return await session.fetch(query, *args)
        except Exception as error:
            if is_link_error(error):  # it may not have noticed yet
                session.terminate()
                session.lost.set()
            raise

    async def _open(self) -> None:
        """Have a session that is not known to be lost; raises DatabaseUnreachableError."""
        async with self._opening:
            if self._session is not None and not self._session.lost.is_set():
                return
            session = await self._open_session()
            if self._session is None:
                await self._check(session)
                self._session = session
                self._keep("session", self._keep_session)
            self._session = session

    async def _check(self, session: Session) -> None:
        try:
            await check_async(session.connection, namespace=self._config.namespace)
        except BaseException as error:
            session.terminate()
            if is_link_error(error) or isinstance(error, ServerError):
                raise unreachable(self._config, error) from error
            raise

    async def _open_session(self) -> Session:
        namespace = self._config.namespace
        heard = {
            channels.replies(namespace, self._id): self._heard,
            channels.schemas(namespace): self._heard_schemas,
        }
        try:
            return await Session.open(self._config, channels=heard)
        except ServerError as error:
            raise unreachable(self._config, error) from error

    async def _keep_session(self) -> None:
        backoff = Backoff(LINK_PAUSE, LINK_PAUSE_LIMIT)
        while session := self._session:
            await session.lost.wait()
            session.terminate()
            while session is self._session:
                await asyncio.sleep(backoff.next())
                try:
                    await self._open()
                except Exception as error:  # whatever it is: the calls find out by themselves
                    logger.debug("cannot hear of answers to calls: %s", error)
            backoff.reset()
            self._expect(self._calls)  # what was answered in between was notified to nobody

    def _keep(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Have the task run, unless it does."""
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

    # ------------------------------------------------------------------------------------------------- the directory

    async def _find(self, procedure: str, *, since: float) -> Service:
        """Who serves it, as seen lately; nobody is believed only if seen since the call began."""
        loop = asyncio.get_running_loop()
        if service := self._lately(procedure, since=since):
            return service
        async with self._looking:
            if service := self._lately(procedure, since=since):
                return service
            seen_at = loop.time()
            try:
                rows = await self._find_servers([procedure])
            except Exception as error:
                if not is_link_error(error):
                    raise
                try:  # the session may have died long ago; a new one tells whether the database lives
                    await self._open()
                    rows = await self._find_servers([procedure])
                except Exception as again:
                    raise unreachable(self._config, again) from error
            is_served, timeout = (rows[0]["is_served"], rows[0]["timeout"]) if rows else (False, None)
            service = self._services[procedure] = Service(seen_at, is_served, timeout)
            return service

    async def _find_servers(self, procedures: list[str]) -> list[Any]:
        return await self._store.fetch("find_servers", procedures=procedures)

    def _lately(self, procedure: str, *, since: float) -> Service | None:
        service = self._services.get(procedure)
        if service is None:
            return None
        limit = asyncio.get_running_loop().time() - DIRECTORY_TTL if service.is_served else since
        return service if service.seen_at >= limit else None

    # ---------------------------------------------------------------------------------------------------- the tasks

    async def _post(self) -> None:
        while self._unposted or self._cancelled:
            if self._unposted:
                batch = [request for request in take_batch(self._unposted) if self._is_wanted(request)]
                for request in batch:
                    self._calls[request.call_id].posted = True
                try:
                    await self._post_batch(batch)
                except Exception:
                    # Whether it got there is not known; posted again, a request is there once.
                    self._unposted[:0] = batch
                    raise
            # After the requests: one that is to be taken back may have been among them.
            if self._cancelled:
                await self._withdraw_cancelled()

    def _is_wanted(self, request: Request) -> bool:
        call = self._calls.get(request.call_id)
        return call is not None and not call.response.done()

    async def _post_batch(self, batch: list[Request]) -> None:
        """Post requests; those that the database refuses fail, and no others."""
        try:
            await self._send(batch)
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

    async def _send(self, batch: list[Request]) -> None:
        await self._store.fetch(
            "post_requests",
            call_ids=[request.call_id for request in batch],
            procedures=[request.procedure for request in batch],
            arguments=[request.arguments for request in batch],
            timeouts=[request.timeout for request in batch],
            caller=self._id,
            caller_name=self._config.process_name,
            channel=self._calls_channel,
            payload=join_names(request.procedure for request in batch),
        )

    async def _withdraw_cancelled(self) -> None:
        call_ids = self._cancelled[:]
        withdrawn = await self._withdraw(call_ids, outcome="cancelled", error="the caller took it back")
        del self._cancelled[: len(call_ids)]
        for payload in join_ids(call_id for call_id in call_ids if call_id not in withdrawn):
            await sequencer.notify(self._store, channel=self._calls_channel, payload=f"cancel {payload}")

    async def _withdraw(self, call_ids: list[UUID], *, outcome: str, error: str) -> set[UUID]:
        rows = await self._store.fetch("withdraw_requests", call_ids=call_ids, outcome=outcome, error=error)
        return {row["call_id"] for row in rows}

    def _heard_schemas(self, payload: str) -> None:  # noqa: ARG002 - it tells that something changed, not what
        if self._schemas is not None:
            self._schemas.drop(self._store)

    def _heard(self, payload: str) -> None:
        self._expect(split_ids(payload))

    def _expect(self, call_ids: Iterable[UUID]) -> None:
        self._answered.update(call_ids)
        self._keep("reader", self._read)

    async def _read(self) -> None:
        while self._answered:
            call_ids = [call_id for call_id in self._answered if call_id in self._calls]
            self._answered.clear()
            if call_ids:
                try:
                    await self._read_responses(call_ids)
                except Exception:
                    self._answered.update(call_ids)
                    raise

    async def _read_responses(self, call_ids: list[UUID]) -> None:
        for row in await self._store.fetch("fetch_responses", call_ids=call_ids):
            call = self._calls.get(row["call_id"])
            if call and not call.response.done():
                call.response.set_result(Response(**row))

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
        await self._store.fetch("fail_lost_calls", call_ids=call_ids)
        await self._withdraw_unserved([call.request for call in calls if not call.wait])
        await self._read_responses(call_ids)

    async def _withdraw_unserved(self, requests: list[Request]) -> None:
        procedures = list({request.procedure for request in requests})
        served = {row["procedure"] for row in await self._find_servers(procedures) if row["is_served"]}
        unserved = [request.call_id for request in requests if request.procedure not in served]
        if unserved:
            await self._withdraw(unserved, outcome="unserved", error=UNSERVED)


def _refused(request: Request, error: Exception) -> InvalidArguments:
    refusal = InvalidArguments(
        f"the database refused the arguments of {request.procedure}: {error}", procedure=request.procedure
    )
    refusal.__cause__ = error
    return refusal
