"""Calling Lihil's handlers: what each parameter gets, resolved in a scope of ididi's graph."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, TypeAlias, get_args, get_origin

from ididi import AsyncScope, Graph, Resolver
from ididi._node import resolve_meta
from lihil.plugins.bus import EventBus
from sqlalchemy.ext.asyncio import AsyncSession

from pgbus.contrib.lihil.registry import Handler, MessageContext
from pgbus.handlers.signatures import is_async, resolved_signature

Listener: TypeAlias = Callable[[Any, Any], Awaitable[None]]


@asynccontextmanager
async def listeners_in_scope(
    resolver: Resolver, handlers: Sequence[Handler], *, session: AsyncSession, bus: EventBus[Any]
) -> AsyncIterator[list[Listener]]:
    """The handlers as functions of an event and its context, whose dependencies live as long as this does.

    What the caller's scope has resolved already is shared; what takes an AsyncSession gets `session`.
    """
    async with resolver.ascope() as scope:
        # Into this scope's own cache: registering it would make it the session of the whole graph, for all requests.
        scope._resolved_singletons[AsyncSession] = session
        yield [_bound(handler, scope, bus) for handler in handlers]


def make_session_known(graph: Graph) -> None:
    """Have ididi take AsyncSession for a dependency like others; any factory of the user's for it comes first."""
    if AsyncSession not in graph.nodes:
        graph.node(AsyncSession, reuse=True, ignore=tuple(inspect.signature(AsyncSession).parameters))


def request_scope() -> AsyncScope | None:
    """The scope of the request that is being served, if its endpoint has one."""
    from ididi.graph import _SCOPE_CONTEXT

    scope = _SCOPE_CONTEXT.get(None)
    return scope if isinstance(scope, AsyncScope) else None


def resolved_session(scope: AsyncScope) -> AsyncSession | None:
    """The session that a scope has opened for its reusable dependencies."""
    # Not by its class: of a generator that is annotated AsyncIterator[AsyncSession], ididi takes that for the class.
    return next((one for one in scope._resolved_singletons.values() if isinstance(one, AsyncSession)), None)


def check_handler(handler: Handler) -> None:
    """Raise ConfigurationError for annotations that cannot be resolved."""
    _wants(handler.function, is_method=handler.owner is not None)


def _bound(handler: Handler, scope: AsyncScope, bus: EventBus[Any]) -> Listener:
    async def call(event: Any, context: Any) -> None:
        given: dict[str, Any] = {"event": event, "context": context, "bus": bus}
        arguments: dict[str, Any] = {}
        for want in _wants(handler.function, is_method=handler.owner is not None):
            if want.role in given:
                arguments[want.name] = given[want.role]
            else:
                kind = handler.owner if want.role == "owner" else want.annotation
                arguments[want.name] = await _resolve(kind, scope)
        if is_async(handler.function):
            await handler.function(**arguments)
        else:
            await asyncio.to_thread(handler.function, **arguments)

    return call


@dataclass(frozen=True, slots=True)
class Want:
    """A parameter, and what it gets: `event`, `context`, `bus`, the `owner` of a method; else a dependency."""

    name: str
    role: str
    annotation: Any


@lru_cache(maxsize=1024)
def _wants(function: Callable[..., Any], *, is_method: bool = False) -> tuple[Want, ...]:
    wants = []
    parameters = list(resolved_signature(function).parameters.values())
    roles = ["owner", "event", "context"] if is_method else ["event", "context"]
    for place, parameter in enumerate(parameters):
        role = roles[place] if place < len(roles) else ""
        annotation = parameter.annotation
        if _is_bus(annotation):
            role = "bus"
        elif role in ("", "context"):
            is_dependency = resolve_meta(annotation) is not None or _origin(annotation) is AsyncSession
            if _origin(annotation) is MessageContext:
                role = "context"
            elif is_dependency:
                role = ""
            elif role == "" and parameter.default is not parameter.empty:
                continue
        wants.append(Want(parameter.name, role, annotation))
    return tuple(wants)


async def _resolve(annotation: Any, scope: AsyncScope) -> Any:
    if _origin(annotation) is AsyncSession:  # whatever factory is named for it
        return scope._resolved_singletons[AsyncSession]
    if meta := resolve_meta(annotation):
        return await scope.resolve(scope.include_node(meta.factory, reuse=meta.reuse).dependent)
    return await scope.resolve(_bare(annotation))


def _is_bus(annotation: Any) -> bool:
    origin = _origin(annotation)
    return isinstance(origin, type) and issubclass(origin, EventBus)


def _bare(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _origin(annotation: Any) -> Any:
    bare = _bare(annotation)
    return get_origin(bare) or bare
