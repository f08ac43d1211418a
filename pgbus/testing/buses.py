"""The buses that a test gets: new ones or the application's own, on a database of the test's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import cast

from pgbus.bus import Bus
from pgbus.bus_module import get_bus, import_bus_module
from pgbus.config import Config
from pgbus.testing.attempts import Attempt
from pgbus.testing.calls import CallerHere
from pgbus.testing.delivery import PATIENCE, deliver_now, deliver_now_sync


class BusUnderTest(Bus):
    """A bus for tests: its listeners run in `deliver_now`, and its calls run procedures of the test's buses in this
    process.
    """

    under_test: Sequence[Bus] = ()
    """All the buses of the test, this one included."""

    async def deliver_now(
        self, *, using: object = None, raise_errors: bool = True, timeout: float = PATIENCE
    ) -> list[Attempt]:
        """`pgbus.testing.deliver_now` for all the buses of the test; `timeout` is in seconds."""
        return await deliver_now(*self.under_test, using=using, raise_errors=raise_errors, timeout=timeout)

    def deliver_now_sync(
        self, *, using: object = None, raise_errors: bool = True, timeout: float = PATIENCE
    ) -> list[Attempt]:
        """`pgbus.testing.deliver_now_sync` for all the buses of the test; `timeout` is in seconds."""
        return deliver_now_sync(*self.under_test, using=using, raise_errors=raise_errors, timeout=timeout)


@contextmanager
def pointed_at(dsn: str, *buses: Bus) -> Iterator[Sequence[BusUnderTest]]:
    """The buses, connected to another database, and each a BusUnderTest, for as long as this lasts."""
    with ExitStack() as stack:
        yield [stack.enter_context(_pointed_at(dsn, bus, buses)) for bus in buses]


@contextmanager
def _pointed_at(dsn: str, bus: Bus, buses: Sequence[Bus]) -> Iterator[BusUnderTest]:
    bus.close_sync()
    config, kind = bus.config, type(bus)
    point_at(bus, dsn)
    names = {"under_test": buses}
    bus.__class__ = cast("type[BusUnderTest]", type(kind.__name__, (BusUnderTest, kind), names))
    try:
        with bus.client.calls.doubled_by(lambda caller: CallerHere(bus, buses=buses, elsewhere=caller)):
            yield cast("BusUnderTest", bus)
    finally:
        bus.close_sync()
        _configure(bus, config)
        bus.schema.forget()
        bus.__class__ = kind


def point_at(bus: Bus, dsn: str) -> None:
    """Have the bus use another database from now on; nothing may be open in the one that it uses."""
    _configure(bus, replace(bus.config, dsn=dsn, direct_dsn=None))
    bus.schema.forget()


def _configure(bus: Bus, config: Config) -> None:
    bus.config = bus.client.sender.config = bus.client.calls.config = config


def application_bus(name: str) -> Bus:
    """The bus of `MODULE:ATTRIBUTE`, which is to call the start functions of its module; raises what `get_bus` does."""
    bus = get_bus(name)
    bus.client.adopt_start_hooks(import_bus_module(name))
    return bus
