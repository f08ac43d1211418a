"""pytest's fixtures for those who use pgbus.

`pgbus_bus` is a bus on a database of the test's own, and `pgbus_dsn` its DSN; `pgbus_crash_points` kills handlers.

A module outside of the package, because pytest imports it in every run: a fixture imports pgbus when a test uses it.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pgbus import Bus
    from pgbus.testing import BusUnderTest, CrashPoints
    from pgbus.testing.databases import DatabaseServer


def pytest_addoption(parser: pytest.Parser) -> None:
    """`pgbus_bus`: which bus the fixture of that name is."""
    parser.addini(
        "pgbus_bus",
        "the application's bus, as MODULE:ATTRIBUTE, or those of several services; default: a new bus for each test",
        type="args",
    )


@pytest.fixture(scope="session")
def pgbus_server() -> Iterator[DatabaseServer]:
    """The server that the databases are on; tests are skipped where there is none to be found."""
    from pgbus.errors import ConfigurationError
    from pgbus.testing.databases import find_server

    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(find_server())
        except ConfigurationError as error:
            pytest.skip(f"pgbus: {error}")
        yield server


@pytest.fixture(scope="session")
def pgbus_applications(pytestconfig: pytest.Config) -> Sequence[Bus]:
    """The buses of the application's services that the ini option `pgbus_bus` names; none without it."""
    from pgbus.testing.buses import application_bus

    return [application_bus(name) for name in pytestconfig.getini("pgbus_bus")]


@pytest.fixture(scope="session")
def pgbus_prepare() -> Callable[[str], Any] | None:
    """Override it to return a function, async or plain, that makes the application's tables; it is given a DSN."""
    return None


@pytest.fixture(scope="session")
def pgbus_template(
    pgbus_server: DatabaseServer,
    pgbus_applications: Sequence[Bus],
    pgbus_prepare: Callable[[str], Any] | None,
) -> Iterator[str]:
    """Name of the database that those of the tests are clones of: with pgbus's tables, and the application's."""
    from pgbus import Config
    from pgbus.testing.databases import upgraded

    configs = [bus.config for bus in pgbus_applications] or [Config.load()]
    with upgraded(pgbus_server, *{config.namespace for config in configs}, prepare=pgbus_prepare) as name:
        yield name


@pytest.fixture
def pgbus_dsn(pgbus_server: DatabaseServer, pgbus_template: str) -> Iterator[str]:
    """DSN of the database of this test, a new one."""
    with pgbus_server.temporary_database(template=pgbus_template) as dsn:
        yield dsn


@pytest.fixture
def pgbus_bus(pgbus_dsn: str, pgbus_applications: Sequence[Bus]) -> Iterator[BusUnderTest]:
    """The bus on the database of this test; of several services, all use it, and this is the bus of the first.

    `pgbus_bus.deliver_now()` runs the listeners of all of them, and a call runs what one of them serves.
    """
    from pgbus import create
    from pgbus.testing.buses import pointed_at

    with pointed_at(pgbus_dsn, *(pgbus_applications or [create()])) as buses:
        yield buses[0]


@pytest.fixture
def pgbus_crash_points(pgbus_bus: BusUnderTest, pgbus_server: DatabaseServer, pgbus_template: str) -> CrashPoints:
    """Crash tests of the listeners of `pgbus_bus`: `pgbus_crash_points.run(listener_name, event)` returns a report."""
    from pgbus.testing import CrashPoints

    return CrashPoints(pgbus_bus.under_test, server=pgbus_server, template=pgbus_template)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Close, in the event loop of an async test, what the buses have opened there."""
    bus = getattr(item, "funcargs", {}).get("pgbus_bus")
    if bus is None or not isinstance(item, pytest.Function) or not inspect.iscoroutinefunction(item.obj):
        return
    from pgbus.testing import BusUnderTest

    if isinstance(bus, BusUnderTest):
        item.obj = _closing(item.obj, bus.under_test)


def _closing(test: Callable[..., Any], buses: Sequence[Bus]) -> Callable[..., Any]:
    @functools.wraps(test)
    async def run(*args: Any, **kwargs: Any) -> None:
        async with contextlib.AsyncExitStack() as stack:
            for bus in buses:
                await stack.enter_async_context(bus)
            await test(*args, **kwargs)

    return run
