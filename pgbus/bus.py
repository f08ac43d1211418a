"""The bus: declare listeners, publish events. Workers (`pgbus run`) do the rest."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, Unpack, overload
from uuid import UUID

from uuid_utils.compat import uuid7

from pgbus.aio.loopbound import LoopBound
from pgbus.aio.portal import Portal
from pgbus.aio.threads import is_loop_running
from pgbus.api import BusClient, BusPath
from pgbus.api.life import Engine, RunnableWorker
from pgbus.config import Config, home_of_caller
from pgbus.config.features import check_features, read_features
from pgbus.database.adapters import AsyncExecutor, async_executor, sync_executor
from pgbus.database.sql import load
from pgbus.errors import CannotBlockHere, ConfigurationError, PublishTimeout
from pgbus.listeners.declaring import ListenerOptions, TakesMany, TakesOne
from pgbus.listeners.listener import Listener, OnPoison, Start, make_listener
from pgbus.messages import EventMessage, OpenEvent
from pgbus.outcomes import RetryPolicy
from pgbus.plugins import Plugin, in_order, load_plugins, tell_plugins
from pgbus.publishing import hooked, outbox
from pgbus.publishing.options import PublishOptions
from pgbus.publishing.outbox import Limits, OutboxRow
from pgbus.publishing.publisher import Publisher
from pgbus.registry import Registry
from pgbus.rpc.caller import Caller
from pgbus.rpc.hooks import exchange, exchange_here, rpc_message
from pgbus.rpc.procedures import check_procedure_name, make_procedure
from pgbus.telemetry import Telemetry

if TYPE_CHECKING:
    from pgbus.worker.selection import Selection
    from pgbus.worker.worker import Worker

E = TypeVar("E")
T = TypeVar("T")
H = TypeVar("H", bound=Callable[..., Any])


class StandIn(Protocol):
    """Takes what leaves a bus in place of the database, while a test has the bus mocked; called from any thread."""

    @property
    def caller(self) -> Caller:
        """What calls go through."""
        ...

    def insert(self, rows: Sequence[OutboxRow]) -> list[UUID]:
        """For each row, the id of the event that stands for it."""
        ...

    def cancel(self, event_id: UUID | str) -> bool:
        """Whether there was such a scheduled event."""
        ...


class Bus(BusPath):
    """An event bus in a PostgreSQL database. Make one with `pgbus.create()`; it connects when it is first used.

    Any attribute that it does not have begins the path to an event or a procedure: `bus.auth.user_created`.
    """

    def __init__(
        self, config: Config, *, features: Iterable[str] | None = None, plugins: Iterable[Plugin] = ()
    ) -> None:
        self.config = config
        self.plugins = in_order(plugins)
        self.registry = Registry()
        self.registry.features = read_features(config.features) if features is None else check_features(features)
        self.telemetry = Telemetry()
        self._limits = Limits(
            max_payload=config.max_payload, is_checked=lambda api_name: config.api(api_name).validate_outgoing
        )
        self._statements = load(config.namespace)
        self._publishers = LoopBound(lambda: Publisher(self.config, on_open=self.schema.announce))
        self._callers = LoopBound(lambda: Caller(self.config, procedures=self.registry.procedures, schemas=self.schema))
        self._stand_in: StandIn | None = None
        self._joined: AsyncExecutor | None = None  # a test's transaction, which publishing without `using` joins
        self._portal: Portal | None = None
        self._portal_lock = threading.Lock()
        self.client = BusClient(
            bus=self,
            registry=self.registry,
            publish=self.publish,
            publish_sync=self.publish_sync,
            call=self.call,
            call_sync=self.call_sync,
            config=config,
            taken_names=frozenset([*object.__dir__(self), "client", "schema"]),
            engine=Engine(
                make_worker=self._make_worker, connect=self._connect, close=self.close, close_sync=self.close_sync
            ),
            run=self._run_statement,
            block=self._block,
        )
        super().__init__(self.client, ())
        self.schema = self.client.schema
        self._hooks = self.registry.hooks
        for plugin in self.plugins:
            self._add(plugin)

    def _add(self, plugin: Plugin) -> None:
        for api in plugin.apis:
            self.client.register_api(api)
        self._hooks.add_plugin(plugin)

    def __getattr__(self, word: str) -> BusPath:
        client = self.__dict__.get("client")  # not there yet in a subclass's __init__, nor in a bare copy
        if word.startswith("_") or client is None:
            raise AttributeError(f"a bus has no attribute {word!r}")
        return BusPath(client, (word,))

    def __str__(self) -> str:
        return repr(self)

    def __repr__(self) -> str:
        return object.__repr__(self)

    @property
    def features(self) -> frozenset[str]:
        """What its workers do: any of `events`, `rpcs` and `tasks`; `bus.client.set_features` changes it."""
        return self.registry.features

    # ------------------------------------------------------------------------------------------------- listening

    @overload
    def listener(  # type: ignore[overload-overlap] # one class is also one of several
        self, event: type[E], /, *, batch: Literal[False] = False, **options: Unpack[ListenerOptions]
    ) -> TakesOne[E]: ...
    @overload
    def listener(
        self, *events: type | str, batch: Literal[False] = False, **options: Unpack[ListenerOptions]
    ) -> Callable[[H], H]: ...
    @overload
    def listener(self, *events: type | str, batch: Literal[True], **options: Unpack[ListenerOptions]) -> TakesMany: ...
    @overload
    def listener(self, *events: type | str, batch: bool, **options: Unpack[ListenerOptions]) -> Callable[[H], H]: ...
    def listener(
        self,
        *events: type | str,
        name: str | None = None,
        start: Start = "now",
        concurrency: int = 10,
        batch_size: int | None = None,
        ordered: bool = False,
        transactional: bool = False,
        retry: RetryPolicy | int = RetryPolicy(),  # noqa: B008 - immutable
        timeout: float | None = None,
        on_poison: OnPoison = "dead",
        batch: bool = False,
    ) -> Any:
        """Decorator: have the function called with every event of these classes, topics or patterns.

        Without `events`, the event class that the handler's event is annotated with. The function may be async, or
        plain (it then runs in a thread), and gets the event decoded into its annotation, which has to fit: it is the
        class itself, a parent class, a union with either, an EventMessage, or a type for the payload's JSON.

        - `name`: the listener_name, under which events are kept for it and workers share its work, whatever service
          they belong to; default: `{service_name}-` and the function's qualified name.
        - `start`: where a listener begins that was never registered before: "now" (default), "beginning", an aware
          datetime or a position of the log.
        - `concurrency`: events handled at once in one process; default 10.
        - `batch_size`: events per claim, at most 10,000; default: adaptive, about a second of work.
        - `ordered`: events with the same key come one after the other, in the order of the log.
        - `transactional`: the handler gets a connection by annotation (a connection of asyncpg, psycopg or SQLAlchemy,
          or SQLAlchemy's AsyncSession or Session), and what it writes there commits with the event's settlement.
        - `retry`: a RetryPolicy, or a number of attempts; default 10 attempts, exponential.
        - `timeout`: seconds per attempt; default none.
        - `on_poison`: an ordered listener's event that is given up goes to the dead letters, and then the next one of
          its key follows ("dead", default), or waits until someone retries or discards it ("block").
        - `batch`: the handler takes a list of events.

        To a type checker, a function that is declared for one class takes its event by position.

        Raises ConfigurationError for what cannot work, and DuplicateListenerName.
        """
        if len(events) == 1 and callable(events[0]) and not isinstance(events[0], type):
            raise TypeError("write @bus.listener() with parentheses")

        def declare(handler: H) -> H:
            self.registry.listeners.add(
                make_listener(
                    handler,
                    events,
                    name=name,
                    start=start,
                    concurrency=concurrency,
                    batch_size=batch_size,
                    ordered=ordered,
                    transactional=transactional,
                    retry=retry,
                    timeout=timeout,
                    on_poison=on_poison,
                    batch=batch,
                    service_name=self.config.service_name,
                )
            )
            return handler

        return declare

    @property
    def listeners(self) -> Sequence[Listener]:
        """The listeners declared so far."""
        return list(self.registry.listeners)

    def middleware(self, function: H) -> H:
        """Decorator: wrap the handlers of all listeners and procedures in the function.

        It is called as `function(context, call_next)` for each attempt of a handler (also of a batch, and of a
        transactional one within its transaction), and for each call of a procedure. `context` is a Context or a
        CallContext. `call_next()` goes on to the handler and returns what that returns; to raise is the handler's
        failure, and to return without having gone on skips it. What is returned is the result of a procedure.

        - `async def`: wraps every handler; `await call_next()`. Around a plain transactional handler, whose transaction
          is its thread's, it is outside of the transaction.
        - plain: wraps plain handlers only, in their thread and, if there is one, their transaction; `call_next()`.

        What is registered first is outermost, and plain functions are within async ones. Raises ConfigurationError
        for what cannot be called like that.
        """
        self.registry.middleware.add(function)
        return function

    # --------------------------------------------------------------------------------------------------- calling

    def procedure(self, name: str, *, concurrency: int | None = None, timeout: float | None = None) -> Callable[[H], H]:
        """Decorator: serve the function to whoever calls `name`, which is `api.procedure`.

        The function may be async, or plain (it then runs in a thread). It gets the arguments by name, decoded into its
        annotations, and its result must fit its return annotation. A call runs at most once.

        - `concurrency`: calls that a worker runs at once; default: the setting `rpc_concurrency`.
        - `timeout`: seconds that a caller waits, and the function may run, when the call names no timeout; default:
          the caller's setting `rpc_timeout`.

        Raises ConfigurationError for what cannot work, and DuplicateProcedureName.
        """
        check_procedure_name(name)

        def declare(handler: H) -> H:
            settings = self.config.api(name.rpartition(".")[0])
            self.registry.procedures.add(
                make_procedure(name, handler, concurrency=concurrency, timeout=timeout, settings=settings)
            )
            return handler

        return declare

    @overload  # type: ignore[override] # of a bus, as no path, the name is an argument
    async def call(
        self,
        procedure: str,
        arguments: Mapping[str, object] | None = None,
        *,
        timeout: float | None = None,
        returns: type[T],
        wait: bool = False,
    ) -> T: ...
    @overload
    async def call(
        self,
        procedure: str,
        arguments: Mapping[str, object] | None = None,
        *,
        timeout: float | None = None,
        returns: Any = Any,
        wait: bool = False,
    ) -> Any: ...
    async def call(
        self,
        procedure: str,
        arguments: Mapping[str, object] | None = None,
        *,
        timeout: float | None = None,
        returns: Any = Any,
        wait: bool = False,
    ) -> Any:
        """Call a procedure on whatever worker serves it, and return its result, decoded into `returns`.

        - `arguments`: by name; anything that an event's payload may hold.
        - `timeout`: seconds; default: the procedure's own, else the setting `rpc_timeout`. A call that no worker has
          begun by then is never executed; one that is running is cancelled.
        - `returns`: the type of the result; default: the procedure's return annotation, if this process has it, else
          plain JSON values.
        - `wait`: wait for a worker, until the timeout, when there is none.

        Raises a CallError: NoWorkerAvailable, CallTimeout, WorkerLost, InvalidArguments (a DeformError if they have no
        JSON form), InvalidResult, CallCancelled;
        RemoteError for what the procedure raised, or that very class if `registry.procedures.allow_errors` has it.
        Cancelling the task that awaits takes the call back.
        """
        options: dict[str, Any] = {"timeout": timeout, "returns": returns, "wait": wait}
        if not self._hooks.on_calling:
            return await self._caller().call(procedure, arguments or {}, **options)
        options["call_id"] = call_id = uuid7()
        message = rpc_message(procedure, arguments or {}, call_id=call_id)

        async def work() -> Any:
            return await self._caller().call(procedure, message.kwargs, **options)

        return await exchange(self._hooks.before_rpc_call, self._hooks.after_rpc_call, message, work)

    @overload
    def call_sync(
        self,
        procedure: str,
        arguments: Mapping[str, object] | None = None,
        *,
        timeout: float | None = None,
        returns: type[T],
        wait: bool = False,
    ) -> T: ...
    @overload
    def call_sync(
        self,
        procedure: str,
        arguments: Mapping[str, object] | None = None,
        *,
        timeout: float | None = None,
        returns: Any = Any,
        wait: bool = False,
    ) -> Any: ...
    def call_sync(
        self,
        procedure: str,
        arguments: Mapping[str, object] | None = None,
        *,
        timeout: float | None = None,
        returns: Any = Any,
        wait: bool = False,
    ) -> Any:
        """`call` for code that blocks; raises CannotBlockHere on the thread of a running event loop."""
        options: dict[str, Any] = {"timeout": timeout, "returns": returns, "wait": wait}
        _refuse_to_block("call")
        if not self._hooks.on_calling:
            return self._through_portal(lambda: self._caller().call(procedure, arguments or {}, **options))
        options["call_id"] = call_id = uuid7()
        message = rpc_message(procedure, arguments or {}, call_id=call_id)

        def work() -> Any:
            return self._through_portal(lambda: self._caller().call(procedure, message.kwargs, **options))

        before, after = self._hooks.before_rpc_call, self._hooks.after_rpc_call
        return exchange_here(before, after, message, work, block=self._through_portal)

    # ------------------------------------------------------------------------------------------------ publishing

    async def publish(
        self,
        event: object,
        *,
        topic: str | None = None,
        using: object = None,
        **options: Unpack[PublishOptions],
    ) -> EventMessage:
        """Publish an event in the transaction of `using`, or durably at once without it; returns it with its id.

        - `event`: an instance of an event class; or, with `topic`, anything that is JSON.
        - `using`: an asyncpg, psycopg or SQLAlchemy async connection or session.
        - `options`: those of PublishOptions.

        Raises InvalidEventError before anything is sent, as InvalidEventArguments for a field of an event class that is
        not of its type, unless `validate` of the API is off; TransactionAbortedError, ConnectionUnusableError.
        """
        row = outbox.prepare(event, topic=topic, limits=self._limits, **options)
        if self._hooks.on_sending:
            return (await self._send([row], using))[0]
        return _published(row, (await self._insert([row], using))[0])

    def publish_sync(
        self,
        event: object,
        *,
        topic: str | None = None,
        using: object = None,
        timeout: float | None = None,
        **options: Unpack[PublishOptions],
    ) -> EventMessage:
        """`publish` for code that blocks; `using` is a psycopg Connection, or SQLAlchemy's Session or Connection.

        Without `using` it raises CannotBlockHere on the thread of a running event loop, and PublishTimeout if it is
        not done after `timeout` seconds; default: it waits for as long as it takes.
        """
        row = outbox.prepare(event, topic=topic, limits=self._limits, **options)
        if self._hooks.on_sending:
            return self._send_sync([row], using, "publish", timeout=timeout)[0]
        return _published(row, self._insert_sync([row], using, "publish", timeout=timeout)[0])

    async def publish_many(
        self, events: Iterable[object], *, topic: str | None = None, using: object = None
    ) -> list[UUID]:
        """Publish events in bulk, in one transaction, a few thousand per statement; returns their ids in order."""
        rows = outbox.prepare_many(events, topic=topic, limits=self._limits)
        if self._hooks.on_sending:
            return [message.event_id for message in await self._send(rows, using)]
        return await self._insert(rows, using)

    def publish_many_sync(
        self, events: Iterable[object], *, topic: str | None = None, using: object = None
    ) -> list[UUID]:
        """`publish_many` for code that blocks."""
        rows = outbox.prepare_many(events, topic=topic, limits=self._limits)
        if self._hooks.on_sending:
            return [message.event_id for message in self._send_sync(rows, using, "publish_many")]
        return self._insert_sync(rows, using, "publish_many")

    async def cancel(self, event_id: UUID | str, *, using: object = None) -> bool:
        """Take back a scheduled event that is not yet due; false when there is none such."""
        statement, values = outbox.cancel(event_id, self._statements)
        if self._stand_in:
            return self._stand_in.cancel(event_id)
        if executor := self._executor(using):
            return bool(await executor.fetch(statement, values))
        return bool(await self._publisher().execute(statement.name, values))

    def cancel_sync(self, event_id: UUID | str, *, using: object = None) -> bool:
        """`cancel` for code that blocks."""
        statement, values = outbox.cancel(event_id, self._statements)
        if self._stand_in:
            return self._stand_in.cancel(event_id)
        if using is None:
            return bool(self._block(lambda: self.cancel(event_id), "cancel"))
        return bool(sync_executor(using).fetch(statement, values))

    async def _send(self, rows: Sequence[OutboxRow], using: object) -> list[OpenEvent]:
        """`_insert` between hooks; the events as they were sent."""
        return await hooked.send(self._hooks, rows, lambda rows: self._insert(rows, using), limits=self._limits)

    def _send_sync(
        self, rows: Sequence[OutboxRow], using: object, call: str, *, timeout: float | None = None
    ) -> list[OpenEvent]:
        if using is None:
            _refuse_to_block(call)
        for moment in (self._hooks.before_event_sent, self._hooks.after_event_sent):
            moment.check_here(call)

        def insert(rows: Sequence[OutboxRow]) -> list[UUID]:
            return self._insert_sync(rows, using, call, timeout=timeout)

        return hooked.send_here(self._hooks, rows, insert, limits=self._limits, block=self._through_portal)

    async def _insert(self, rows: Sequence[OutboxRow], using: object) -> list[UUID]:
        """Where events leave; for each row, the id of the event that stands for it."""
        if self._stand_in:
            return self._stand_in.insert(rows)
        executor = self._executor(using)
        if executor is None:
            publisher = self._publisher()
            return [await publisher.publish(rows[0])] if len(rows) == 1 else await publisher.publish_all(rows)
        ids: list[UUID] = []
        for chunk in outbox.chunks(rows):
            statement, values = outbox.insert(chunk, self._statements, dedup_ttl=self.config.dedup_ttl)
            ids += outbox.published_ids(chunk, await executor.fetch(statement, values))
        return ids

    def _executor(self, using: object) -> AsyncExecutor | None:
        """What runs statements in the transaction of `using`; None for a transaction of our own."""
        return self._joined if using is None else async_executor(using)

    def _insert_sync(
        self, rows: Sequence[OutboxRow], using: object, call: str, *, timeout: float | None = None
    ) -> list[UUID]:
        if using is None:
            return self._block(lambda: self._insert_within(timeout, rows), call)
        if self._stand_in:
            return self._stand_in.insert(rows)
        executor = sync_executor(using)
        ids: list[UUID] = []
        for chunk in outbox.chunks(rows):
            statement, values = outbox.insert(chunk, self._statements, dedup_ttl=self.config.dedup_ttl)
            ids += outbox.published_ids(chunk, executor.fetch(statement, values))
        return ids

    async def _insert_within(self, timeout: float | None, rows: Sequence[OutboxRow]) -> list[UUID]:
        scope = asyncio.timeout(timeout)
        try:
            async with scope:
                return await self._insert(rows, None)
        except TimeoutError as error:
            if not scope.expired():
                raise
            raise PublishTimeout(rows[0].topic, timeout or 0.0) from error

    # ------------------------------------------------------------------------------------------------------ life

    async def close(self) -> None:
        """Close the connections that publishing and calling opened; the bus may be used again, and opens new ones."""
        await self._close_here()
        portal, self._portal = self._portal, None
        if portal:
            await asyncio.to_thread(portal.close)
        self._hooks.close()

    def close_sync(self) -> None:
        """`close` for code that blocks."""
        portal, self._portal = self._portal, None
        if portal:
            portal.close()
        self._hooks.close()

    async def __aenter__(self) -> Bus:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _make_worker(self) -> RunnableWorker:
        return make_worker(self)

    async def _connect(self) -> None:
        if not self._stand_in:
            await self._publisher().connect()
            await self.schema.ensure_loaded_from_bus()

    async def _run_statement(self, name: str, values: dict[str, object]) -> Sequence[Sequence[Any]]:
        """Run a named statement, but none while a test has the bus mocked."""
        return [] if self._stand_in else await self._publisher().execute(name, values)

    def _publisher(self) -> Publisher:
        return self._publishers.here()

    def _caller(self) -> Caller:
        return self._stand_in.caller if self._stand_in else self._callers.here()

    def _block(self, work: Callable[[], Awaitable[T]], call: str) -> T:
        _refuse_to_block(call)
        return self._through_portal(work)

    def _through_portal(self, work: Callable[[], Awaitable[T]]) -> T:
        with self._portal_lock:
            if self._portal is None or not self._portal.is_ours:
                self._portal = Portal(self._close_here)
            portal = self._portal
        return portal.call(work)

    async def _close_here(self) -> None:
        """Close what belongs to the running loop."""
        await self._callers.close_here()
        await self._publishers.close_here()


def _published(row: OutboxRow, event_id: UUID) -> EventMessage:
    message = row.message()
    message.event_id = event_id
    return message


def _refuse_to_block(call: str) -> None:
    """Raise CannotBlockHere on the thread of a running event loop."""
    if is_loop_running():
        raise CannotBlockHere(
            f"{call}_sync would block the event loop that runs on this thread; await {call}, or pass `using` a "
            "blocking connection"
        )


def make_worker(
    bus: Bus,
    *,
    only: Sequence[str] | None = None,
    skip: Sequence[str] | None = None,
    selection: Selection | None = None,
) -> Worker:
    """A worker of the bus, which is not started yet; or one that runs another `selection`.

    `only` and `skip` name listeners, procedures and tasks; default: all of them, also those declared while it runs.
    """
    from pgbus.worker.selection import Selection
    from pgbus.worker.worker import Worker

    return Worker(
        config=bus.config,
        selection=selection or Selection(bus.registry, only=only, skip=skip),
        middleware=bus.registry.middleware,
        hooks=bus.registry.hooks,
        schemas=bus.schema,
        telemetry=bus.telemetry,
        sender=bus,
        owner=bus.client,
        on_error=partial(tell_plugins, bus.plugins),
    )


def create(
    dsn: str | None = None,
    *,
    namespace: str | None = None,
    config: Config | Mapping[str, object] | None = None,
    config_file: str | Path | None = None,
    features: Iterable[str] | None = None,
    plugins: Iterable[Plugin] | None = None,
    flask: bool = False,  # noqa: ARG001 - it asks for what is always so
    **settings: Any,
) -> Bus:
    """A bus. Every setting of `Config` may be given; else it comes from `PGBUS_*`, a file or its default.

    - `config`: a Config, which has all settings; or a mapping that stands for a file, and then no file is read.
    - `config_file`: TOML, YAML or JSON; default: what `PGBUS_CONFIG` names, else `pgbus.toml`, `pgbus.yaml` or
      `pgbus.yml` in the working directory, else the table `[tool.pgbus]` of `pyproject.toml`.
    - `features`: what its workers do: run listeners (`"events"`), serve procedures (`"rpcs"`) and run what is on a
      schedule or in the background (`"tasks"`); default: the setting of that name, which is all of it.
    - `plugins`: these, and no others; default: those that are installed and enabled in the configuration.
    - `service_name`: default, for a bus that a module's own code makes: the name of the project or folder in which that
      module lies; so each service has a name of its own, and the same at each start.
    - `apis`: settings by API name, as in a file: `{"default": {"cast_values": False}, "auth": {"rpc_timeout": 1}}`.

    `flask`, of programs written for Lightbus, asks not to connect in the parent process of Flask's reloader. No bus
    connects, or starts a thread, before it is used; so it makes no difference.

    In a module that a command of `pgbus` imports, the command's options win over all of these.

    Nothing is connected yet. Raises ConfigurationError for a setting that is unknown or wrong.
    """
    settings |= {"dsn": dsn, "namespace": namespace}
    loaded = _config(config, config_file, settings)
    if home := home_of_caller(sys._getframe(1)):
        loaded = loaded.at_home(home)
    return Bus(loaded, features=features, plugins=load_plugins(loaded) if plugins is None else plugins)


def _config(config: Config | Mapping[str, object] | None, file: str | Path | None, given: dict[str, object]) -> Config:
    if isinstance(config, str | Path):
        raise ConfigurationError(f"a file is given as config_file={str(config)!r}; `config` is what it would say")
    if not isinstance(config, Config):
        return Config.load(given, file=file, table=config)
    others = [name for name, value in {**given, "config_file": file}.items() if value is not None]
    if others:
        raise ConfigurationError(f"a Config has all settings: leave out {', '.join(others)}, or give a mapping instead")
    return config.as_told()
