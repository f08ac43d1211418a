"""Hooks: functions called before and after events and calls are sent and executed, and around a worker's life.

How a hook is called is decided when it is registered. Where nobody registered one, a moment is an `if` on its path.
"""

from __future__ import annotations

import contextvars
import enum
import functools
import inspect
import logging
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias, TypeVar, overload

import msgspec

from pgbus.aio import threads
from pgbus.aio.returned import check, finish, is_awaitable
from pgbus.errors import CannotBlockHere, ConfigurationError
from pgbus.handlers.signatures import describe, is_async, wants_bus, why_not_handler
from pgbus.telemetry import Instruments

H = TypeVar("H", bound=Callable[..., Any])
Block: TypeAlias = Callable[[Callable[[], Awaitable[object]]], object]

logger = logging.getLogger("pgbus")

# Plain hooks that run at once, at each depth (see HookThreads).
THREADS = 10

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class Place(enum.IntEnum):
    """Where a hook stands among those of its moment; in one place, the order is that of registration."""

    BEFORE_PLUGINS = 0
    PLUGIN = 1
    LAST = 2


# How many plain hooks, each in a thread, have led to where we are.
_depth: contextvars.ContextVar[int] = contextvars.ContextVar("pgbus_hook_depth", default=0)


class Hook(msgspec.Struct, frozen=True):
    """A registered function, and what it is called with: the client or the bus first, and what of `names` by name."""

    function: Callable[..., Any]
    is_async: bool
    first: str | None
    names: tuple[str, ...]
    place: Place

    def bind(self, offered: Mapping[str, object]) -> Callable[[], Any]:
        """The call, with those of the offered arguments that the function takes."""
        positional = (offered[self.first],) if self.first else ()
        named = {name: offered[name] for name in self.names}
        return lambda: self.function(*positional, **named)


class HookThreads:
    """The threads of plain hooks, started when they are needed.

    A plain hook may publish or call, and so wait for the hooks of that: those run a depth further down, in threads of
    their own, or else ten such hooks would hold all the threads while they wait for one.
    """

    def __init__(self) -> None:
        # By process and depth. Several event loops may add to it at once; `setdefault` lets one of them win.
        self._pools: dict[tuple[int, int], ThreadPoolExecutor] = {}

    async def run(self, work: Callable[[], Any]) -> Any:
        """Run a plain function in a thread."""
        depth = _depth.get()
        place = (os.getpid(), depth)  # a forked child has our pools, but not their threads
        pool = self._pools.get(place)
        if pool is None:
            pool = self._pools.setdefault(place, ThreadPoolExecutor(THREADS, thread_name_prefix="pgbus-hook"))
        token = _depth.set(depth + 1)
        try:
            running = threads.start(pool, work)
        finally:
            _depth.reset(token)
        return (await running).result()

    def close(self) -> None:
        """Let idle threads end; new ones start when a hook needs one."""
        self._pools = {}  # not shut down: a caller may still use a pool, and its threads end when none does


class Moment:
    """One of the things that hooks are for, and the hooks that were registered for it, in the order of their calls.

    `arguments` are the names of the arguments offered, besides the client and the bus.
    """

    def __init__(
        self, name: str, arguments: Sequence[str], *, owners: Mapping[str, object], hook_threads: HookThreads
    ) -> None:
        self.name = name
        self._arguments = ("client", *arguments)
        self._always = owners
        self._threads = hook_threads
        self.hooks: list[Hook] = []
        """The hooks, in the order of their calls; asked before each event and call, where a list is quicker than we."""

    def __bool__(self) -> bool:
        return bool(self.hooks)

    def __iter__(self) -> Iterator[Callable[..., Any]]:
        return iter([hook.function for hook in self.hooks])

    @overload
    def register(self, hook: None = None, *, before_plugins: bool = False) -> Callable[[H], H]: ...
    @overload
    def register(self, hook: H, *, before_plugins: bool = False) -> H: ...
    def register(self, hook: H | None = None, *, before_plugins: bool = False) -> H | Callable[[H], H]:
        """Have a function called at this moment; without one, a decorator that does. It may be async, or plain.

        It gets those of the moment's arguments, by name, that it has parameters for. Registered twice, it is called
        once. `before_plugins`: before the plugins' hooks, and not after them.
        Raises ConfigurationError for what cannot be called with that.
        """
        place = Place.BEFORE_PLUGINS if before_plugins else Place.LAST

        def register(function: H) -> H:
            self.add(function, place=place)
            return function

        return register if hook is None else register(hook)

    def add(self, function: Callable[..., Any], *, place: Place) -> None:
        """Register a hook before or after the plugins; see `register`."""
        if any(hook.function == function for hook in self.hooks):
            return
        hook = self._inspect(function, place)
        # A new list, because another task may iterate over the old one.
        self.hooks = sorted([*self.hooks, hook], key=lambda one: one.place)

    # ------------------------------------------------------------------------------------------------------- calling

    async def run(self, **messages: object) -> None:
        """Call the hooks, one after the other: plain ones in threads. What one raises comes through."""
        offered = {**self._always, **messages}
        for hook in self.hooks:
            await self._call(hook, offered)

    async def run_once(self, *, plugins: bool = True) -> None:
        """Call the hooks, also those that one of them registers, and forget each before its call.

        Without `plugins`, theirs are left.
        """
        while waiting := [hook for hook in self.hooks if plugins or hook.place is not Place.PLUGIN]:
            self.hooks = [hook for hook in self.hooks if hook is not waiting[0]]
            await self._call(waiting[0], self._always)

    async def run_all(self, **messages: object) -> None:
        """Call the hooks, each of them whatever the others raise, which is logged."""
        offered = {**self._always, **messages}
        for hook in self.hooks:
            try:
                await self._call(hook, offered)
            except (Exception, SystemExit):
                logger.exception("the %s hook %s failed", self.name, describe(hook.function))

    def run_here(self, block: Block, **messages: object) -> None:
        """Call the hooks in this thread, which may block: plain ones here, async ones through `block`."""
        offered = {**self._always, **messages}
        for hook in self.hooks:
            result = hook.bind(offered)()
            if is_awaitable(result):
                block(functools.partial(self._finish, hook, result))
            else:
                check(result, self._what(hook), may_be_function=True)

    def check_here(self, sending: str) -> None:
        """Raise CannotBlockHere if `run_here` could not run an async hook, as this thread runs an event loop."""
        for hook in self.hooks:
            if hook.is_async and threads.is_loop_running():
                raise CannotBlockHere(
                    f"{sending}_sync would have to wait for the async {self.name} hook {describe(hook.function)} on "
                    f"the thread of a running event loop: await {sending}, or make the hook a plain function"
                )

    async def _call(self, hook: Hook, offered: Mapping[str, object]) -> None:
        call = hook.bind(offered)
        result = call() if hook.is_async else await self._threads.run(call)
        if result is not None:
            await self._finish(hook, result)

    async def _finish(self, hook: Hook, result: Any) -> None:
        # It may return a function: a lambda that registers something does.
        await finish(result, self._what(hook), may_be_function=True)

    def _what(self, hook: Hook) -> str:
        return f"the {self.name} hook {describe(hook.function)}"

    # ---------------------------------------------------------------------------------------------------- inspecting

    def _inspect(self, function: Callable[..., Any], place: Place) -> Hook:
        if reason := why_not_handler(function):
            raise ConfigurationError(f"{self.name} needs a function to call: {reason}")
        try:
            parameters = list(inspect.signature(function).parameters.values())
        except ValueError as error:
            raise ConfigurationError(f"{self.name}: {error}; wrap it in a function of your own") from None
        first = self._first(parameters)
        named = parameters[1:] if first and parameters[0].kind in _POSITIONAL else parameters
        return Hook(
            function=function,
            is_async=is_async(function),
            first=first,
            names=self._names(function, named, taken=(first,) if first else ()),
            place=place,
        )

    def _first(self, parameters: Sequence[inspect.Parameter]) -> str | None:
        """Return the argument for a first parameter of any name, if nothing else is offered."""
        if self._arguments != ("client",) or not parameters:
            return None
        first = parameters[0]
        if first.kind not in (*_POSITIONAL, first.VAR_POSITIONAL):
            return None
        if wants_bus(first, bus=self._always["bus"], client=self._always["client"]):
            return "bus"
        return "client" if first.default is first.empty or first.name == "client" else None

    def _names(
        self, function: Callable[..., Any], parameters: Sequence[inspect.Parameter], *, taken: Sequence[str]
    ) -> tuple[str, ...]:
        offered = [name for name in self._arguments if name not in taken]
        # A default that is a bus is meant: it may be another one.
        takes_bus = any(one.name == "bus" and one.default in (one.empty, None) for one in parameters)
        by_name = [*offered, "bus"] if takes_bus else offered
        for one in parameters:
            is_given = one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY) and one.name in by_name
            if not is_given and one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD):
                raise ConfigurationError(
                    f"the {self.name} hook {describe(function)} has a parameter {one.name!r} that nothing is passed "
                    f"for; a hook gets, by name, what it has parameters for of: {', '.join(self._arguments)}, bus"
                )
        if any(one.kind is one.VAR_KEYWORD for one in parameters):
            return tuple(by_name)
        return tuple(one.name for one in parameters if one.kind not in _NOT_BY_NAME and one.name in by_name)


_NOT_BY_NAME = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class Hooks:
    """The hooks of one bus, by moment; each moment's name is an attribute. And its instruments, around the same."""

    def __init__(self) -> None:
        self.instruments = Instruments()
        self._threads = HookThreads()
        self._owners: dict[str, object] = {"client": None, "bus": None}

        def moment(name: str, *arguments: str) -> Moment:
            return Moment(name, arguments, owners=self._owners, hook_threads=self._threads)

        self.before_worker_start = moment("before_worker_start")
        self.after_worker_stopped = moment("after_worker_stopped")
        self.before_event_sent = moment("before_event_sent", "event_message")
        self.after_event_sent = moment("after_event_sent", "event_message")
        self.before_event_execution = moment("before_event_execution", "event_message")
        self.after_event_execution = moment("after_event_execution", "event_message")
        self.before_rpc_call = moment("before_rpc_call", "rpc_message")
        self.after_rpc_call = moment("after_rpc_call", "rpc_message", "result_message")
        self.before_rpc_execution = moment("before_rpc_execution", "rpc_message")
        self.after_rpc_execution = moment("after_rpc_execution", "rpc_message", "result_message")
        self.moments: Mapping[str, Moment] = {
            name: value for name, value in vars(self).items() if isinstance(value, Moment)
        }

    def belong_to(self, *, client: object, bus: object) -> None:
        """Pass these to hooks as `client` and `bus`; called once, before the first hook is registered."""
        self._owners.update(client=client, bus=bus)

    @property
    def on_sending(self) -> bool:
        """Whether anything is to be called when an event is sent."""
        return bool(self.before_event_sent.hooks or self.after_event_sent.hooks or self.instruments.all)

    @property
    def on_calling(self) -> bool:
        """Whether anything is to be called when a call is made."""
        return bool(self.before_rpc_call.hooks or self.after_rpc_call.hooks or self.instruments.all)

    @property
    def on_serving(self) -> bool:
        """Whether anything is to be called when a call is executed."""
        return bool(self.before_rpc_execution.hooks or self.after_rpc_execution.hooks)

    def add_plugin(self, plugin: object) -> None:
        """Register those of a plugin's methods that are named like a moment; plugins added earlier go first."""
        for name, moment in self.moments.items():
            if (method := getattr(plugin, name, None)) is not None:
                moment.add(method, place=Place.PLUGIN)

    def close(self) -> None:
        """Let the threads of plain hooks end."""
        self._threads.close()
