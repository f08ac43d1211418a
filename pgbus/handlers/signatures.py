"""From a handler's signature to the way it is called: what it wants.

Everything is decided when a listener is defined; a handler that nothing could call is refused then.
"""

from __future__ import annotations

import functools
import inspect
import sys
import typing
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, MutableSequence, Reversible, Sequence
from typing import Any, TypeAlias

import msgspec

from pgbus.codec.annotations import EMPTY, bare
from pgbus.errors import ConfigurationError

Handler: TypeAlias = Callable[..., Any] | Callable[..., Awaitable[Any]]

# What a transactional handler may ask for, by where its annotation comes from: it is imported by the handler's module
# if it is there at all, so that pgbus need not import a driver to look.
CONNECTIONS = {
    ("asyncpg", "Connection"): "asyncpg",
    ("asyncpg.connection", "Connection"): "asyncpg",
    ("asyncpg.pool", "PoolConnectionProxy"): "asyncpg",
    ("psycopg", "AsyncConnection"): "psycopg_async",
    ("psycopg", "Connection"): "psycopg_sync",
    ("sqlalchemy.ext.asyncio.session", "AsyncSession"): "sqlalchemy_async",
    ("sqlalchemy.ext.asyncio.engine", "AsyncConnection"): "sqlalchemy_async_connection",
    ("sqlalchemy.orm.session", "Session"): "sqlalchemy_sync",
    ("sqlalchemy.engine.base", "Connection"): "sqlalchemy_sync_connection",
    ("django.db.backends.base.base", "BaseDatabaseWrapper"): "django",
}
_BLOCKING = ("psycopg_sync", "sqlalchemy_sync", "sqlalchemy_sync_connection", "django")
# What makes sessions, where an annotation names one: `Annotated[AsyncSession, make_session]`.
_MAKERS = (("sqlalchemy.ext.asyncio.session", "async_sessionmaker"), ("sqlalchemy.orm.session", "sessionmaker"))

# What a batch, which is a list, may be annotated as.
_LISTS = (list, MutableSequence, Sequence, Reversible, Collection, Iterable)


class ContextMarker:
    """Base of Context; its subclasses are recognised in annotations without a look at the engine."""


class Wanted(msgspec.Struct, frozen=True):
    """The connection or session that a transactional handler takes.

    `kind` is one of CONNECTIONS, `cls` the class in the annotation, and `maker` the user's sessionmaker, if the
    annotation names one, or what gives Django's connection.
    """

    kind: str
    cls: type
    maker: Callable[[], Any] | None = None

    @property
    def is_blocking(self) -> bool:
        """Whether it is used without `await`."""
        return self.kind in _BLOCKING


class Signature(msgspec.Struct, frozen=True):
    """How a handler is called. A field is the name of the parameter that wants the thing, or None.

    `event_type` is the annotation of the event, of one element for a batch; None without one. `wanted` is what the
    parameter `connection` takes, or, without one, what the bus begins transactions on.
    """

    is_async: bool
    event: str
    event_type: Any
    context: str | None = None
    connection: str | None = None
    wanted: Wanted | None = None


def inspect_handler(handler: Handler, *, batch: bool) -> Signature:
    """The handler's signature; raises ConfigurationError for one that pgbus cannot call."""
    if reason := why_not_handler(handler):
        raise ConfigurationError(f"a listener needs a function to call: {reason}")
    hints = type_hints(handler)
    found: dict[str, Any] = {}
    for parameter in inspect.signature(handler).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        role, value = role_of(hints.get(parameter.name, parameter.annotation))
        if role in found:
            if parameter.default is not parameter.empty:
                continue
            raise ConfigurationError(
                f"handler {describe(handler)}: pgbus does not know what to pass as {parameter.name!r}; it passes one "
                "event, a Context and a connection, the last two by annotation"
            )
        found[role] = (parameter, value)
    if "event" not in found:
        raise ConfigurationError(f"handler {describe(handler)} has no parameter that takes the event")
    parameter, annotation = found["event"]
    connection = found.get("connection")
    return Signature(
        is_async=is_async(handler),
        event=_name(handler, parameter),
        event_type=_element_type(handler, annotation) if batch else annotation,
        context=_name(handler, found["context"][0]) if "context" in found else None,
        connection=_name(handler, connection[0]) if connection else None,
        wanted=connection[1] if connection else None,
    )


def body_of(function: Handler) -> Any:
    """The function that runs in the end, within partials and objects that can be called; or a class."""
    while isinstance(function, functools.partial):
        function = function.func
    return function if inspect.isroutine(function) or isinstance(function, type) else type(function).__call__


def why_not_handler(function: Any) -> str | None:
    """Why a call of it would run nothing, if so."""
    if not callable(function):
        return f"{function!r} is not a function"
    body = body_of(function)
    if isinstance(body, type):
        return f"{describe(function)} is a class, and a call only creates an instance; pass the instance"
    if inspect.isgeneratorfunction(body) or inspect.isasyncgenfunction(body):
        return f"{describe(function)} is a generator function, and a call runs none of it; do the work without `yield`"
    return None


def describe(handler: Handler) -> str:
    """The handler's qualified name, for messages and as the default listener_name."""
    target: Any = handler
    while isinstance(target, functools.partial):
        target = target.func
    if not hasattr(target, "__qualname__"):
        target = type(target)
    return f"{target.__module__}.{target.__qualname__}".replace(".<locals>", "")


def _name(handler: Handler, parameter: inspect.Parameter) -> str:
    if parameter.kind is parameter.POSITIONAL_ONLY:
        raise ConfigurationError(f"handler {describe(handler)}: {parameter.name!r} is positional-only; drop the '/'")
    return parameter.name


def is_async(handler: Handler) -> bool:
    """Whether calling it makes a coroutine."""
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(body_of(handler))


def type_hints(handler: Handler) -> Mapping[str, Any]:
    """Its annotations, resolved; raises ConfigurationError for one that cannot be."""
    try:
        return typing.get_type_hints(body_of(handler), include_extras=True)
    except NameError as error:
        raise ConfigurationError(
            f"handler {describe(handler)}: an annotation cannot be resolved ({error}); import the name at run time, "
            "not under TYPE_CHECKING, because pgbus decodes events by annotation"
        ) from error


def resolved_signature(handler: Handler) -> inspect.Signature:
    """Return the signature with annotations resolved to types; raises ConfigurationError as `type_hints` does."""
    hints = type_hints(handler)
    signature = inspect.signature(handler)
    return signature.replace(
        parameters=[
            parameter.replace(annotation=hints.get(name, EMPTY)) for name, parameter in signature.parameters.items()
        ],
        return_annotation=hints.get("return", EMPTY),
    )


def role_of(annotation: Any) -> tuple[str, Any]:
    """Return the role of a parameter, by its annotation: `event`, `context` or `connection`; and its type, or
    Wanted.
    """
    hint = bare(annotation)
    plain = typing.get_origin(hint) or hint
    if isinstance(plain, type):
        if issubclass(plain, ContextMarker):
            return "context", None
        for base in plain.__mro__:
            if kind := CONNECTIONS.get((base.__module__, base.__qualname__)):
                return "connection", Wanted(kind, plain, _maker(annotation))
    return "event", None if annotation is inspect.Parameter.empty else annotation


def _maker(annotation: Any) -> Callable[[], Any] | None:
    """The sessionmaker in `Annotated[AsyncSession, make_session]`."""
    return next((extra for extra in getattr(annotation, "__metadata__", ()) if _is_maker(type(extra))), None)


def _is_maker(cls: type) -> bool:
    return any((base.__module__, base.__qualname__) in _MAKERS for base in cls.__mro__)


def wants_bus(parameter: inspect.Parameter, *, bus: object, client: object) -> bool:
    """Whether a parameter that gets the bus or its client wants the bus: by annotation, else by its name."""
    annotation = parameter.annotation
    if isinstance(annotation, str):
        word = annotation.split(".")[-1]
        if word in ("Bus", "BusPath", "BusClient"):
            return word != "BusClient"
    elif isinstance(annotation, type) and annotation is not object:
        if isinstance(client, annotation):
            return False
        if isinstance(bus, annotation):
            return True
    return parameter.name == "bus" and parameter.default in (EMPTY, None)


def _element_type(handler: Handler, annotation: Any) -> Any:
    hint = bare(annotation)
    origin, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
    if annotation is None or hint is Any:
        return None
    if origin in _LISTS:
        return arguments[0] if arguments else None
    raise ConfigurationError(f"handler {describe(handler)} takes a batch: annotate its events as list[...]")


def default_name(handler: Handler) -> str:
    """The listener_name of a handler that was given none: stable as long as module and function keep their names."""
    name = describe(handler)
    if name.startswith("__main__."):
        # The same module under `python module.py` and under `pgbus run module` must mean the same listener.
        spec = getattr(sys.modules["__main__"], "__spec__", None)
        if spec is not None:
            name = f"{spec.name.removesuffix('.__main__')}{name.removeprefix('__main__')}"
    return name
