"""The bus that a test gets: a new one or the application's own, on a database of the test's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import cast

from pgbus.bus import Bus
from pgbus.bus_module import get_bus, import_bus_module
from pgbus.testing.attempts import Attempt
from pgbus.testing.delivery import PATIENCE, deliver_now, deliver_now_sync


class BusUnderTest(Bus):
    """A bus whose listeners run when the test says so."""

    async def deliver_now(
        self, *, using: object = None, raise_errors: bool = True, timeout: float = PATIENCE
    ) -> list[Attempt]:
        """`pgbus.testing.deliver_now` for this bus."""
        return await deliver_now(self, using=using, raise_errors=raise_errors, timeout=timeout)

    def deliver_now_sync(
        self, *, using: object = None, raise_errors: bool = True, timeout: float = PATIENCE
    ) -> list[Attempt]:
        """`pgbus.testing.deliver_now_sync` for this bus."""
        return deliver_now_sync(self, using=using, raise_errors=raise_errors, timeout=timeout)


@contextmanager
def pointed_at(dsn: str, bus: Bus) -> Iterator[BusUnderTest]:
    """The bus, connected to another database, and a BusUnderTest, for as long as this lasts."""
    bus.close_sync()
    config, kind = bus.config, type(bus)
    bus.config = replace(config, dsn=dsn, direct_dsn=None)
    bus.schema.forget()
    bus.__class__ = cast("type[BusUnderTest]", type(kind.__name__, (BusUnderTest, kind), {}))
    try:
        yield cast("BusUnderTest", bus)
    finally:
        bus.close_sync()
        bus.config = config
        bus.schema.forget()
        bus.__class__ = kind


def application_bus(name: str) -> Bus:
    """The bus of `MODULE:ATTRIBUTE`, which is to call the start functions of its module; raises what `get_bus` does."""
    bus = get_bus(name)
    bus.client.adopt_start_hooks(import_bus_module(name))
    return bus
