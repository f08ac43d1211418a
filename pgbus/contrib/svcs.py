"""svcs: a container of services for each attempt of a handler."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import svcs

from pgbus.bus import Bus
from pgbus.errors import ConfigurationError

_services: ContextVar[svcs.Container] = ContextVar("pgbus services")


def setup_svcs(registry: svcs.Registry, bus: Bus) -> None:
    """Open a container of the registry around each attempt of a listener's handler, and each call of a procedure.

    Factories may ask it for the `pgbus.Context` or `pgbus.CallContext`, whose `connection` is the open one in a
    transactional async handler. It is closed, with what it has made, when the handler has ended.
    """

    async def around(context: object, call_next: Callable[[], Awaitable[Any]]) -> Any:
        async with svcs.Container(registry) as container:
            container.register_local_value(type(context), context)
            token = _services.set(container)
            try:
                return await call_next()
            finally:
                _services.reset(token)

    bus.middleware(around)


def services() -> svcs.Container:
    """The container of this attempt: ask it by `aget`, or in a plain handler by `get`.

    Raises ConfigurationError outside of a handler, and on a bus without `setup_svcs`.
    """
    try:
        return _services.get()
    except LookupError:
        raise ConfigurationError(
            "there is no container of svcs here: call setup_svcs(registry, bus), and ask within a handler"
        ) from None
