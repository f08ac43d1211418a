"""Litestar's listeners as listeners of a bus, each under a name of its own, and called with what was emitted."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Unpack

from litestar.events import EventListener
from litestar.utils.sync import AsyncCallable

from pgbus.bus import Bus
from pgbus.codec.annotations import EMPTY, bare
from pgbus.codec.casting import Cast, caster
from pgbus.codec.payloads import misfit
from pgbus.contrib.litestar.transactions import DeliveryUnit, Emission, entered
from pgbus.errors import ConfigurationError, UnhandledEventError
from pgbus.handlers.contexts import Context
from pgbus.handlers.signatures import Signature, default_name, describe, is_async, role_of, type_hints, why_not_handler
from pgbus.listeners.listener import ListenerOptions, build_listener, in_service
from pgbus.messages import EventMessage
from pgbus.topics import check_pattern

# What the engine passes for the event, and the Context that every call needs; not to be mistaken for a parameter.
_ARGUMENTS = "pgbus_arguments"
_CONTEXT = "pgbus_context"
# Where a payload holds the positional arguments: no keyword is spelled like this.
POSITIONAL = "*"


class PgBusListener(EventListener):
    """Litestar's `listener` with options: those of `Bus.listener`, except `batch`; also spelled `listener`.

    `name` is the listener_name; default: `{service_name}-` and the function's qualified name.
    """

    def __init__(self, *event_ids: str, name: str | None = None, **options: Unpack[ListenerOptions]) -> None:
        super().__init__(*event_ids)
        self.name = name
        self.options = options
        self.function: Callable[..., Any] | None = None

    def __call__(self, fn: Callable[..., Any]) -> PgBusListener:
        """Decorate a function as a listener."""
        self.function = fn
        super().__call__(fn)
        return self


listener = PgBusListener


def declare_listeners(bus: Bus, listeners: Iterable[EventListener]) -> None:
    """Declare an application's listeners on the bus; those that it has already, of the same function, are left alone.

    Raises ConfigurationError for one that could not be called, and DuplicateListenerName.
    """
    for one in dict.fromkeys(listeners):
        function = function_of(one)
        options = one.options if isinstance(one, PgBusListener) else ListenerOptions()
        name = (one.name if isinstance(one, PgBusListener) else None) or in_service(
            bus.config.service_name, default_name(function)
        )
        patterns = tuple(sorted(check_pattern(event_id) for event_id in one.event_ids))
        known = bus.registry.listeners.get(name)
        if known and known.patterns == patterns and function is getattr(known.decode, "function", None):
            continue  # an application may be made more than once
        arguments = EventArguments(function)
        bus.registry.listeners.add(
            build_listener(
                arguments.call_async if arguments.signature.is_async else arguments.call_plain,
                patterns,
                signature=arguments.signature,
                decode=arguments,
                reads=lambda _: Any,
                name=name,
                **options,
            )
        )


def function_of(one: EventListener) -> Callable[..., Any]:
    """The function that was decorated, and not Litestar's wrapper around it, which keeps its errors to itself."""
    function = getattr(one, "function", None)
    if function is None and inspect.isfunction(one.fn):
        function = inspect.getclosurevars(one.fn).nonlocals.get("fn")
    if function is None:
        raise ConfigurationError(
            f"what {one!r} decorates cannot be found, as this class wraps it in its own way: decorate it with "
            "pgbus.contrib.litestar.listener"
        )
    plain: Callable[..., Any] = function.func if isinstance(function, AsyncCallable) else function
    return plain


class EventArguments:
    """Decodes an event into a function's arguments, by their annotations, and calls it.

    Raises ConfigurationError for what cannot be called, or for an annotation that nothing can be decoded into.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        if reason := why_not_handler(function):
            raise ConfigurationError(f"a listener needs a function to call: {reason}")
        self.function = function
        self._name = describe(function)
        hints = type_hints(function)
        self._whole = inspect.signature(function)
        injected = _find_injected(self._whole, hints)
        rest = [one for one in self._whole.parameters.values() if one.name not in injected.values()]
        self._emitted = self._whole.replace(parameters=rest)
        self._casts = {one.name: cast for one in rest if (cast := _cast(self._name, one, hints))}
        self._context, connection = injected.get("context"), injected.get("connection")
        self.signature = Signature(
            is_async=is_async(function),
            event=_ARGUMENTS,
            event_type=None,
            context=_CONTEXT,
            connection=connection,
            wanted=role_of(hints[connection])[1] if connection else None,
        )

    def __call__(self, message: EventMessage) -> dict[str, Any]:
        """The arguments by parameter; raises UnhandledEventError that names the one that does not fit."""
        given: Any = message.payload
        if not isinstance(given, dict):
            raise UnhandledEventError(
                f"{message.topic}: the payload is not a JSON object, so it holds no arguments for {self._name}"
            )
        named = dict(given)
        positional: Sequence[Any] = named.pop(POSITIONAL, ())
        try:
            bound = self._emitted.bind(*positional, **named)
        except TypeError as error:
            raise UnhandledEventError(f"{self._name} cannot take {message.topic}: {error}") from None
        return {name: self._decoded(message, name, value) for name, value in bound.arguments.items()}

    def _decoded(self, message: EventMessage, name: str, value: Any) -> Any:
        cast = self._casts.get(name)
        if cast is None or value is None:  # None is passed on, whatever the function hopes for
            return value
        try:
            return cast(value)
        except Exception as error:  # constructors and validators run code of other people
            raise UnhandledEventError(
                f"{self._name} cannot take {message.topic}: its argument {name!r} does not fit: {misfit(error, name)}"
            ) from error

    async def call_async(self, **given: Any) -> Any:
        """Call the async function; what it emits is published before its event is settled, unless it fails."""
        context: Context = given.pop(_CONTEXT)
        bound = self._bind(given, context)
        with entered(DeliveryUnit(context)) as unit:
            value = await self.function(*bound.args, **bound.kwargs)
            for emission in unit.take():
                await context.publish(emission.payload, topic=emission.topic)
        return value

    def call_plain(self, **given: Any) -> Any:
        """The same for a plain function, in its thread."""
        context: Context = given.pop(_CONTEXT)
        bound = self._bind(given, context)
        with entered(DeliveryUnit(context)) as unit:
            value = self.function(*bound.args, **bound.kwargs)
            for emission in unit.take():
                context.publish_sync(emission.payload, topic=emission.topic)
        return value

    def _bind(self, given: dict[str, Any], context: Context) -> inspect.BoundArguments:
        arguments = given.pop(_ARGUMENTS) | given
        if self._context:
            arguments[self._context] = context
        return inspect.BoundArguments(self._whole, arguments)


def _find_injected(signature: inspect.Signature, hints: Mapping[str, Any]) -> dict[str, str]:
    """The parameters that pgbus passes, by what they want: `context` and `connection`."""
    found: dict[str, str] = {}
    for parameter in signature.parameters.values():
        role, _ = role_of(hints.get(parameter.name, EMPTY))
        if role != "event":
            found.setdefault(role, parameter.name)
    return found


def _cast(function: str, parameter: inspect.Parameter, hints: Mapping[str, Any]) -> Cast | None:
    """From JSON to what a parameter is annotated with, leniently ("1" is an int); None where it is not."""
    hint = hints.get(parameter.name, EMPTY)
    if hint is EMPTY or bare(hint) is Any:
        return None
    try:
        cast = caster(hint, strict=False)
    except (TypeError, NameError, ValueError) as error:
        raise ConfigurationError(
            f"listener {function}: events cannot be decoded into {parameter.name}: {hint!r}: {error}"
        ) from error
    match parameter.kind:
        case parameter.VAR_POSITIONAL:
            return lambda values: tuple(map(cast, values))
        case parameter.VAR_KEYWORD:
            return lambda values: {name: cast(value) for name, value in values.items()}
        case _:
            return cast


def emission(event_id: str, args: Sequence[Any], kwargs: Mapping[str, Any], *, limit: int) -> Emission:
    """Return the payload of an emitted event: its keyword arguments by name, and the positional ones under `*`.

    Encoded now, so that what becomes of the arguments later does not matter. Raises InvalidEventError for what has no
    JSON form, or is longer than `limit` bytes of that.
    """
    return Emission.of(event_id, {POSITIONAL: list(args), **kwargs} if args else dict(kwargs), limit=limit)
