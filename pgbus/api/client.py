"""The bus as its API classes see it: register APIs, fire their events, listen to anybody's."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from types import ModuleType
from typing import Any

from pgbus.aio.blocking import BlockingCalls
from pgbus.api.arguments import NamedArguments
from pgbus.api.declarations import Api
from pgbus.api.hooks import HookDecorators
from pgbus.api.life import Life, RunnableWorker, refuse_to_block
from pgbus.api.registry import ApiRegistry
from pgbus.api.tasks import Tasking
from pgbus.config import Config
from pgbus.config.options import NAME, check_options, given_options
from pgbus.errors import ConfigurationError, DuplicateProcedureName, InvalidName, NothingToListenFor
from pgbus.handlers.signatures import Handler, default_name
from pgbus.listeners.listener import ListenerOptions, build_listener, in_service
from pgbus.messages import VERSION_HEADER, EventMessage, PublishOptions
from pgbus.publishing.sender import Sender
from pgbus.registry import Registry
from pgbus.rpc.calls import CallOptions, Calls
from pgbus.rpc.procedures import make_procedure
from pgbus.schema import Catalog
from pgbus.topics import is_private

# Of `bus_options`, which say by name what `Bus.call`, `Bus.publish` and `Bus.listener` are given.
CALL_OPTIONS = tuple(sorted(("returns", *CallOptions.__annotations__)))
FIRE_OPTIONS = tuple(sorted(("using", "require_transaction", *PublishOptions.__annotations__)))
LISTEN_OPTIONS = tuple(sorted(("since", *ListenerOptions.__annotations__)))
# The functions of a bus module that are called when a worker starts.
START_HOOKS = ("before_server_start", "on_start")


class OnError(enum.Enum):
    """The treatment of an event whose handler failed. Neither value stops the worker or loses the event.

    - SHUTDOWN: it is retried, as the listener's `retry` option says, and then becomes a dead letter.
    - ACKNOWLEDGE_AND_LOG: it is not retried; the error is logged, and the event becomes a dead letter at once.
    """

    SHUTDOWN = "shutdown"
    ACKNOWLEDGE_AND_LOG = "log"


class BusClient(HookDecorators, Life, Tasking):
    """`bus.client`: the operations behind the paths of a bus (`bus.auth.user_created.fire(...)`).

    Its own methods register APIs, fire, listen and call, and take the names of APIs and events as strings, so they also
    reach one whose name no path can have. Hooks are declared by HookDecorators, schedules and background tasks by
    Tasking; workers and connections are started and ended by Life. `sender` publishes all events and `calls` makes all
    calls; tests put their doubles there.
    """

    def __init__(
        self,
        *,
        bus: object,
        config: Config,
        registry: Registry,
        apis: ApiRegistry,
        schema: Catalog,
        sender: Sender,
        calls: Calls,
        blocking: BlockingCalls,
        make_worker: Callable[[], RunnableWorker],
    ) -> None:
        Life.__init__(self, sender=sender, calls=calls, blocking=blocking, make_worker=make_worker)
        Tasking.__init__(self, registry, config, bus)
        self.api_registry = apis
        self.hook_registry = registry.hooks
        self.schema = schema
        registry.hooks.belong_to(client=self, bus=bus)

    def register_api(self, api: Api) -> None:
        """Register an API: this process may fire its events, and its workers serve its public methods as procedures.

        Raises InvalidApiRegistryEntry, DuplicateProcedureName, and ConfigurationError for a method that cannot be
        called by name.
        """
        methods = self.api_registry.check(api)
        settings = self._config.api(api.meta.name)
        made = [
            make_procedure(f"{api.meta.name}.{name}", method, concurrency=None, timeout=None, settings=settings)
            for name, method in methods.items()
        ]
        for procedure in made:
            if procedure.name in self._registry.procedures:
                raise DuplicateProcedureName(procedure.name)
        self.api_registry.add(api)
        for procedure in made:
            self._registry.procedures.add(procedure)

    # ------------------------------------------------------------------------------------------------------- calling

    async def call_rpc_remote(
        self,
        api_name: str,
        name: str,
        kwargs: Mapping[str, object] | None = None,
        options: Mapping[str, object] | None = None,
    ) -> Any:
        """Call the procedure `{api_name}.{name}` on a worker that serves it, and return its result.

        `options` are those of `Bus.call`: `timeout`, `returns`, `wait`. Raises what `Bus.call` does.
        """
        return await self.calls.call(_full_name(api_name, name), kwargs, **_known(options, CALL_OPTIONS))

    def call_rpc_sync(
        self,
        api_name: str,
        name: str,
        kwargs: Mapping[str, object] | None = None,
        options: Mapping[str, object] | None = None,
    ) -> Any:
        """`call_rpc_remote` for code that blocks; raises CannotBlockHere on the thread of a running event loop."""
        procedure, calling = _full_name(api_name, name), _known(options, CALL_OPTIONS)
        refuse_to_block(blocking="call", awaitable="call_async")
        return self.calls.call_sync(procedure, kwargs, **calling)

    # ------------------------------------------------------------------------------------------------------- firing

    async def fire_event(
        self,
        api_name: str,
        name: str,
        kwargs: Mapping[str, object] | None = None,
        options: Mapping[str, object] | None = None,
    ) -> EventMessage:
        """Publish an event of a registered API under `{api_name}.{name}`, and return it with its id.

        `options` are those of `Bus.publish`: `using`, `require_transaction`, `key`, `headers`, `deliver_at`, `delay`,
        `dedup_key`, `event_id`. Raises UnknownApi, EventNotFound, InvalidName and InvalidEventArguments before anything
        is sent, and what `Bus.publish` does.
        """
        payload, publishing = self._prepare(api_name, name, kwargs or {}, options)
        return await self.sender.publish(payload, **publishing)

    def fire_event_sync(
        self,
        api_name: str,
        name: str,
        kwargs: Mapping[str, object] | None = None,
        options: Mapping[str, object] | None = None,
    ) -> EventMessage:
        """`fire_event` for code that blocks; without `using` it raises CannotBlockHere where an event loop runs.

        It raises PublishTimeout when the database takes longer than the API's `event_fire_timeout`.
        """
        payload, publishing = self._prepare(api_name, name, kwargs or {}, options)
        if publishing.get("using") is None:
            refuse_to_block(blocking="fire", awaitable="fire_async")
            publishing["timeout"] = self._config.api(api_name).event_fire_timeout
        return self.sender.publish_sync(payload, **publishing)

    def _prepare(
        self, api_name: str, name: str, kwargs: Mapping[str, object], options: Mapping[str, object] | None
    ) -> tuple[dict[str, object], dict[str, Any]]:
        topic = _full_name(api_name, name)
        api = self.api_registry.get(api_name)
        payload = api.get_event(name).arguments(kwargs, validate=self._config.api(api_name).validate_outgoing)
        publishing = _known(options, FIRE_OPTIONS)
        headers = publishing.get("headers") or {}
        if isinstance(headers, Mapping):  # else publishing says what is wrong with them
            publishing["headers"] = {VERSION_HEADER: str(api.meta.version), **headers}
        publishing["topic"] = topic
        return payload, publishing

    # ----------------------------------------------------------------------------------------------------- listening

    def listen_for_event(
        self,
        api_name: str,
        name: str,
        listener: Handler,
        listener_name: str | None = None,
        options: Mapping[str, object] | None = None,
        on_error: OnError = OnError.SHUTDOWN,
    ) -> None:
        """Listen to one event of an API; see `listen_for_events`."""
        self.listen_for_events([(api_name, name)], listener, listener_name, options, on_error)

    def listen_for_events(
        self,
        events: Sequence[tuple[str, str]],
        listener: Handler,
        listener_name: str | None = None,
        options: Mapping[str, object] | None = None,
        on_error: OnError = OnError.SHUTDOWN,
    ) -> None:
        """Call a function with the arguments of events, which are given as pairs of API and event name.

        The event name `*` means every event of the API. A running worker starts the listener at once.

        - `listener`: takes the event's arguments by name, cast to its annotations. A first positional parameter that
          the event does not have gets the EventMessage; one annotated pgbus.Context, the Context.
        - `listener_name`: the identity under which events are kept for it, within the service: in the database it is
          `{service_name}-{listener_name}`. Default: the events' and the function's names.
        - `options`: those of `Bus.listener` except `name` and `batch`; `concurrency` is 1 here unless given. `since` is
          another way to say `start`: `"$"` is now, `"0"` the beginning, a `native_id` what follows it.

        Raises InvalidEventListener, NothingToListenFor, DuplicateListenerName, InvalidName and ConfigurationError.
        """
        topics = tuple(dict.fromkeys(_full_name(api_name, name) for api_name, name in events))
        if not topics:
            raise NothingToListenFor("there is nothing to listen to: name an event")
        arguments = NamedArguments(
            listener,
            find_event=self.api_registry.event,
            settings=self._config.api,
            refuse_unknown=self.schema.checks.refuse_unknown_event,
        )
        for topic in topics:
            if event := self.api_registry.event(topic):
                arguments.check(event, topic=topic)
        self._registry.listeners.add(
            build_listener(
                arguments.call,
                topics,
                signature=arguments.signature,
                decode=arguments.decode,
                reads=arguments.reads,
                name=self._listener_name(listener_name, topics, listener),
                transaction=self._registry.transaction,
                **_listening(options, on_error),
            )
        )

    def _listener_name(self, given: str | None, topics: Sequence[str], listener: Handler) -> str:
        check_options(f"a listener of {', '.join(topics)}", {"listener_name": NAME.or_none()}, {"listener_name": given})
        name = f"{','.join(topics)}:{default_name(listener)}" if given is None else given
        return in_service(self._config.service_name, name)

    @property
    def topics(self) -> list[str]:
        """The topics and patterns of the listeners of this process."""
        return list(dict.fromkeys(pattern for listener in self._registry.listeners for pattern in listener.patterns))

    # ------------------------------------------------------------------------------------------------------ starting

    @property
    def start_hooks(self) -> Sequence[Callable[..., object]]:
        """The registered start hooks that have not run yet."""
        return tuple(self.hook_registry.before_worker_start)

    def adopt_start_hooks(self, module: ModuleType) -> None:
        """Register the functions `before_server_start` and `on_start` of a module, if it has them, as start hooks.

        They get the bus as `bus`, else the client.
        """
        for name in START_HOOKS:
            if callable(hook := getattr(module, name, None)):
                self.on_start(hook)

    async def run_start_hooks(self) -> None:
        """Call the start hooks that have not run yet, each once; raises what they raise."""
        await self.hook_registry.before_worker_start.run_once()


def _full_name(api_name: str, name: str) -> str:
    for given in (api_name, name):
        if not isinstance(given, str):
            raise InvalidName(f"{given!r} is not a name: APIs, events and procedures are named by strings")
    if not name or is_private(f"{api_name}.{name}"):
        raise InvalidName(
            f"{name!r} of API {api_name!r} names nothing: names are not empty, and no word begins with an underscore"
        )
    if not api_name:
        raise InvalidName(f"{name!r} needs the name of its API before it: bus.api.{name}")
    return f"{api_name}.{name}"


def _known(options: Mapping[str, object] | None, names: Sequence[str]) -> dict[str, Any]:
    given = given_options("options", options)
    for name in given:
        if name not in names:
            raise ConfigurationError(f"there is no option {name!r} here; there are: {', '.join(names)}")
    return dict(given)


def _listening(options: Mapping[str, object] | None, on_error: OnError) -> dict[str, Any]:
    """Return the options of `build_listener` for `bus_options` and `on_error`."""
    listening = {"concurrency": 1, **_known(options, LISTEN_OPTIONS)}
    if "since" in listening:
        listening["start"] = _start(listening.pop("since"))
    if on_error is OnError.ACKNOWLEDGE_AND_LOG:
        if "retry" in listening:
            raise ConfigurationError("OnError.ACKNOWLEDGE_AND_LOG retries no event: leave `retry` out")
        listening["retry"] = 1
    elif on_error is not OnError.SHUTDOWN:
        raise ConfigurationError(f"on_error is OnError.SHUTDOWN or OnError.ACKNOWLEDGE_AND_LOG, not {on_error!r}")
    return listening


def _start(since: object) -> object:
    match since:
        case None | "$":
            return "now"
        case "0":
            return "beginning"
        case str() if since.isdecimal():
            return int(since) + 1
        case datetime():
            return since
        case _:
            raise ConfigurationError(f"since is '$', '0', an event's native_id or an aware datetime, not {since!r}")
