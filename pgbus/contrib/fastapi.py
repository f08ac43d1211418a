"""FastAPI: a dependency that gives an endpoint the bus, bound to the session that the endpoint itself writes with.

What it shares with Starlette, the lifespan and the middleware, is in `pgbus.contrib.starlette`, and may be imported
from here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, get_args, get_origin

from fastapi.params import Depends

from pgbus.api import BoundBus
from pgbus.bus import Bus
from pgbus.contrib.starlette import PgBusMiddleware, lifespan
from pgbus.errors import ConfigurationError

__all__ = ["PgBusMiddleware", "bound_bus", "lifespan"]


def bound_bus(bus: Bus, session: Any) -> Callable[..., Awaitable[BoundBus]]:
    """A dependency that gives `bus.bind(session)`, of the same session that the request's other dependencies get.

    `session`: the annotation that endpoints take their session by, async or blocking, as in
    `SessionDep = Annotated[AsyncSession, Depends(get_session, scope="function")]`. FastAPI gives one session to all
    that name it by the same function and scope; and what `dependency_overrides` puts in the function's place.

    Raises ConfigurationError for what is not `Annotated` with a `Depends`.
    """
    if get_origin(session) is not Annotated or not any(isinstance(part, Depends) for part in get_args(session)[1:]):
        raise ConfigurationError(
            f"bound_bus takes the annotation of the session, Annotated[AsyncSession, Depends(get_session)], not "
            f"{session!r}"
        )

    async def bind(session: Any) -> BoundBus:  # async: FastAPI runs plain dependencies in a thread
        return bus.bind(session)

    bind.__annotations__["session"] = session
    return bind
