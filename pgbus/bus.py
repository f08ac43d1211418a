"""The bus: declare listeners, publish events. Workers (`pgbus run`) do the rest."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Unpack, overload

from pgbus.aio.blocking import BlockingCalls
from pgbus.api import ApiRegistry, BoundBus, BusClient, BusPath
from pgbus.config import Config, home_of_caller
from pgbus.config.features import check_features, read_features
from pgbus.database.adapters import AsyncUsing, SyncUsing
from pgbus.database.store import Store
from pgbus.errors import ConfigurationError
from pgbus.listeners.declaring import TakesMany, TakesOne
from pgbus.listeners.listener import Listener, ListenerOptions, make_listener
from pgbus.plugins import Plugin, in_order, load_plugins, tell_plugins
from pgbus.publishing.sender import Sender
from pgbus.publishing.verbs import PublishingVerbs
from pgbus.registry import Registry
from pgbus.rpc.calls import CallingVerbs, Calls
from pgbus.rpc.procedures import check_procedure_name, make_procedure
from pgbus.schema import Catalog
from pgbus.telemetry import Telemetry
from pgbus.topics import split_name

if TYPE_CHECKING:
    from pgbus.worker.selection import Selection
    from pgbus.worker.worker import Worker

E = TypeVar("E")
H = TypeVar("H", bound=Callable[..., Any])


class Bus(PublishingVerbs, CallingVerbs, BusPath):  # type: ignore[misc] # of a bus, `call` takes a name
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
        self.telemetry = Telemetry(self.registry.hooks.instruments)
        hooks = self.registry.hooks
        blocking = BlockingCalls(on_close=lambda: self.client.close_here())
        # The catalogue is announced on the sender's first connection, and reads by way of the sender.
        self._sender = Sender(
            config,
            hooks=hooks,
            blocking=blocking,
            on_open=lambda store: self.schema.publication.announce(store),
            on_sent=lambda: self.client.wake_workers(),
        )
        apis = ApiRegistry(taken_names=frozenset([*object.__dir__(self), "client", "schema"]))
        self.schema = Catalog(
            config=config,
            registry=self.registry,
            apis=apis,
            store=Store(self._sender, namespace=config.namespace),
            block=blocking.block,
        )
        self._calls = Calls(
            config, procedures=self.registry.procedures, schemas=self.schema.checks, hooks=hooks, blocking=blocking
        )
        self.client = BusClient(
            bus=self,
            config=config,
            registry=self.registry,
            apis=apis,
            schema=self.schema,
            sender=self._sender,
            calls=self._calls,
            blocking=blocking,
            make_worker=lambda: make_worker(self),
        )
        super().__init__(self.client, ())
        for plugin in self.plugins:
            self._add(plugin)

    def _add(self, plugin: Plugin) -> None:
        for api in plugin.apis:
            self.client.register_api(api)
        self.registry.hooks.add_plugin(plugin)
        for instrument in plugin.instruments:
            self.telemetry.instrument(instrument)

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
        """The features of its workers: any of `events`, `rpcs` and `tasks`; `bus.client.set_features` changes them."""
        return self.registry.features

    # ------------------------------------------------------------------------------------------------- listening

    @overload
    def listener(  # type: ignore[overload-overlap] # one class is also one of several
        self,
        event: type[E],
        /,
        *,
        name: str | None = None,
        batch: Literal[False] = False,
        **options: Unpack[ListenerOptions],
    ) -> TakesOne[E]: ...
    @overload
    def listener(
        self,
        *events: type | str,
        name: str | None = None,
        batch: Literal[False] = False,
        **options: Unpack[ListenerOptions],
    ) -> Callable[[H], H]: ...
    @overload
    def listener(
        self, *events: type | str, name: str | None = None, batch: Literal[True], **options: Unpack[ListenerOptions]
    ) -> TakesMany: ...
    @overload
    def listener(
        self, *events: type | str, name: str | None = None, batch: bool, **options: Unpack[ListenerOptions]
    ) -> Callable[[H], H]: ...
    def listener(
        self, *events: type | str, name: str | None = None, batch: bool = False, **options: Unpack[ListenerOptions]
    ) -> Any:
        """Decorator: call the function with every event of these classes, topics or patterns.

        Without `events`, it listens to the event class of the handler's annotation. The function may be async, or plain
        (it then runs in a thread). It gets the event decoded into its annotation: the class itself, a parent class, a
        union with either, an EventMessage, or a type for the payload's JSON.

        - `name`: the listener_name, its identity: events are kept under it, and all workers with it share the work,
          also those of other services; default: `{service_name}-` and the function's qualified name.
        - `start`: the first event of a new listener: "now" (default), "beginning", an aware datetime or a position of
          the log.
        - `concurrency`: events handled at once in one process; default 10.
        - `batch_size`: events per claim, at most 10,000; default: adaptive, about a second of work.
        - `ordered`: handle events with the same key one after the other, in the order of the log; default False.
        - `transactional`: the handler gets a connection by annotation (a connection of asyncpg, psycopg or SQLAlchemy,
          or SQLAlchemy's AsyncSession or Session), and its writes commit with the event's settlement; default False.
        - `retry`: a RetryPolicy, or a number of attempts; default 10 attempts, exponential.
        - `timeout`: seconds per attempt; default none.
        - `on_poison`: after an event of an ordered listener has become a dead letter, handle the next event of its key
          ("dead", default), or wait until an operator retries or discards the dead letter ("block").
        - `batch`: the handler takes a list of events; default False.

        To a type checker, a function that is declared for one class takes its event by position.

        Raises ConfigurationError for an invalid option or handler, and DuplicateListenerName.
        """
        if len(events) == 1 and callable(events[0]) and not isinstance(events[0], type):
            raise TypeError("write @bus.listener() with parentheses")

        def declare(handler: H) -> H:
            self.registry.listeners.add(
                make_listener(
                    handler,
                    events,
                    name=name,
                    batch=batch,
                    service_name=self.config.service_name,
                    transaction=self.registry.transaction,
                    **options,
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
        CallContext. `call_next()` calls the next middleware or the handler, and returns its result. An exception counts
        as the handler's failure; returning without `call_next()` skips the handler. The returned value is the result of
        a procedure.

        - `async def`: wraps every handler; `await call_next()`. Around a plain transactional handler, whose transaction
          is its thread's, it is outside of the transaction.
        - plain: wraps plain handlers only, in their thread and, if there is one, their transaction; `call_next()`.

        The first registered function is outermost, and plain functions are inside async ones. Raises ConfigurationError
        for a function that cannot be called like that.
        """
        self.registry.middleware.add(function)
        return function

    # --------------------------------------------------------------------------------------------------- calling

    def procedure(self, name: str, *, concurrency: int | None = None, timeout: float | None = None) -> Callable[[H], H]:
        """Decorator: serve the function to callers as the procedure `name`, which is `api.procedure`.

        The function may be async, or plain (it then runs in a thread). It gets the arguments by name, decoded into its
        annotations, and its result must fit its return annotation. A call runs at most once.

        - `concurrency`: calls that a worker runs at once; default: the setting `rpc_concurrency`.
        - `timeout`: seconds that a caller waits, and the function may run, when the call names no timeout; default:
          the caller's setting `rpc_timeout`.

        Raises ConfigurationError for an invalid option or function, and DuplicateProcedureName.
        """
        check_procedure_name(name)

        def declare(handler: H) -> H:
            settings = self.config.api(split_name(name)[0])
            self.registry.procedures.add(
                make_procedure(name, handler, concurrency=concurrency, timeout=timeout, settings=settings)
            )
            return handler

        return declare

    # ----------------------------------------------------------------------------------------------- publishing

    def bind(self, using: AsyncUsing | SyncUsing, *, require_transaction: bool | None = None) -> BoundBus:
        """Return a bus that publishes in the transaction of one connection or session.

        `using` is a connection or session as for `publish` or `publish_sync`; for `require_transaction` see there.
        Raises ConnectionUnusableError for anything else.
        """
        return BoundBus(using, client=self.client, require_transaction=require_transaction)

    # ------------------------------------------------------------------------------------------------------ life

    async def close(self) -> None:
        """Close the connections of publishing and calling; using the bus again opens new ones."""
        await self.client.close_async()

    def close_sync(self) -> None:
        """`close` for code that blocks."""
        self.client.close()

    async def __aenter__(self) -> Bus:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


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
        sender=bus.client.sender,
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
    """Create a bus. Every setting of `Config` may be an argument; else it comes from `PGBUS_*`, a file or its default.

    - `config`: a Config with all settings; or a mapping with the content of a file, and then no file is read.
    - `config_file`: TOML, YAML or JSON; default: what `PGBUS_CONFIG` names, else `pgbus.toml`, `pgbus.yaml` or
      `pgbus.yml` in the working directory, else the table `[tool.pgbus]` of `pyproject.toml`.
    - `features`: the features of its workers: listeners (`"events"`), procedures (`"rpcs"`), schedules and background
      tasks (`"tasks"`); default: the setting `features`, which is all three.
    - `plugins`: the only plugins of the bus; default: those that are installed and enabled in the configuration.
    - `service_name`: default, for a bus that is created at the top level of a module: the name of the module's project
      or folder, which is the same at each start.
    - `apis`: settings by API name, as in a file: `{"default": {"cast_values": False}, "auth": {"rpc_timeout": 1}}`.

    `flask`, of programs written for Lightbus, means not to connect in the parent process of Flask's reloader. It has no
    effect, because no bus connects, or starts a thread, before it is used.

    In a module that a command of `pgbus` imports, the command's options have priority over these arguments.

    It does not connect. Raises ConfigurationError for an unknown or invalid setting.
    """
    settings |= {"dsn": dsn, "namespace": namespace}
    loaded = _config(config, config_file, settings)
    if home := home_of_caller(sys._getframe(1)):
        loaded = loaded.at_home(home)
    return Bus(loaded, features=features, plugins=load_plugins(loaded) if plugins is None else plugins)


def _config(config: Config | Mapping[str, object] | None, file: str | Path | None, given: dict[str, object]) -> Config:
    if isinstance(config, str | Path):
        raise ConfigurationError(f"a file is given as config_file={str(config)!r}; `config` takes its content")
    if not isinstance(config, Config):
        return Config.load(given, file=file, table=config)
    others = [name for name, value in {**given, "config_file": file}.items() if value is not None]
    if others:
        raise ConfigurationError(f"a Config has all settings: leave out {', '.join(others)}, or give a mapping instead")
    return config.as_told()
