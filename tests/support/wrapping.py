"""Types of middleware, and what its tests wait for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pgbus
from pgbus.telemetry import Settled
from tests.support.workers import Watch

Next = Callable[[], Awaitable[Any]]
PlainNext = Callable[[], Any]
AnyContext = pgbus.Context | pgbus.CallContext


async def settled(watch: Watch, *, dead: bool = False) -> None:
    await watch.until(lambda _: any(one.dead if dead else one.done for one in watch.of(Settled)))
