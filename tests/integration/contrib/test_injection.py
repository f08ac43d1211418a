"""Handlers get what they need from the containers of Dishka and svcs, one for each attempt."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import asyncpg
import dishka
import pytest
import svcs
from dishka import FromDishka, Provider, Scope, make_async_container, make_container

import pgbus
from pgbus.contrib.dishka import inject, setup_dishka
from pgbus.contrib.svcs import services, setup_svcs
from pgbus.errors import ConfigurationError
from tests.conftest import Connect
from tests.support.workers import QUICK_RETRY, open_bus, running, until_idle


class Mailer:
    """A service that knows for which attempt it was made."""

    def __init__(self, context: Any) -> None:
        self.context = context


class Log(list[str]):
    """What happened, in order."""


def provider_of(log: Log) -> Provider:
    class Services(Provider):
        scope = Scope.REQUEST
        context = dishka.from_context(pgbus.Context)
        call_context = dishka.from_context(pgbus.CallContext)

        @dishka.provide
        def mailer(self, context: pgbus.Context) -> Iterator[Mailer]:
            log.append(f"made {context.attempt}")
            yield Mailer(context)
            log.append(f"closed {context.attempt}")

    return Services()


def registry_of(log: Log) -> svcs.Registry:
    async def make_mailer(container: svcs.Container) -> AsyncIterator[Mailer]:
        context = await container.aget(pgbus.Context)
        log.append(f"made {context.attempt}")
        yield Mailer(context)
        log.append(f"closed {context.attempt}")

    registry = svcs.Registry()
    registry.register_factory(Mailer, make_mailer)
    return registry


def with_dishka(bus: pgbus.Bus, log: Log) -> Callable[..., Any]:
    setup_dishka(make_async_container(provider_of(log)), bus)

    @inject
    async def handle(event: dict[str, int], context: pgbus.Context, mailer: FromDishka[Mailer]) -> None:
        assert mailer.context is context
        log.append("handled")
        if context.attempt == 1:
            raise ValueError

    return handle


def with_dishka_in_threads(bus: pgbus.Bus, log: Log) -> Callable[..., Any]:
    setup_dishka(make_container(provider_of(log)), bus)

    @inject
    def handle(event: dict[str, int], mailer: FromDishka[Mailer], context: pgbus.Context) -> None:
        assert mailer.context is context
        log.append("handled")
        if context.attempt == 1:
            raise ValueError

    return handle


def with_svcs(bus: pgbus.Bus, log: Log) -> Callable[..., Any]:
    setup_svcs(registry_of(log), bus)

    async def handle(event: dict[str, int], context: pgbus.Context) -> None:
        assert (await services().aget(Mailer)).context is context
        log.append("handled")
        if context.attempt == 1:
            raise ValueError

    return handle


@pytest.mark.parametrize("setup", [with_dishka, with_dishka_in_threads, with_svcs])
async def test_each_attempt_has_a_container_which_is_closed_after_it(
    setup: Callable[[pgbus.Bus, Log], Callable[..., Any]], database: str, connect: Connect
) -> None:
    log = Log()
    async with open_bus(database) as bus:
        bus.listener("a.b", name="handle", retry=QUICK_RETRY)(setup(bus, log))
        async with running(bus):
            await bus.publish({"n": 1}, topic="a.b")
            await until_idle(await connect(database))
    assert log == ["made 1", "handled", "closed 1", "made 2", "handled", "closed 2"]


async def test_what_is_injected_writes_in_the_handlers_transaction(database: str, connect: Connect) -> None:
    connection = await connect(database)
    await connection.execute("CREATE TABLE ledger (n integer)")
    async with open_bus(database) as bus:
        setup_dishka(make_async_container(provider_of(Log())), bus)

        @bus.listener("a.b", name="handle", transactional=True)
        @inject
        async def handle(event: dict[str, int], own: asyncpg.Connection, mailer: FromDishka[Mailer]) -> None:
            await mailer.context.connection.execute("INSERT INTO ledger VALUES ($1)", event["n"])

        async with running(bus):
            await bus.publish({"n": 1}, topic="a.b")
            await until_idle(connection)
    assert await connection.fetchval("SELECT (SELECT xmin FROM ledger) = (SELECT xmin FROM pgbus.history)")


async def test_a_procedure_has_a_container_too(database: str) -> None:
    registry = svcs.Registry()
    registry.register_value(str, "injected")
    async with open_bus(database) as bus:
        setup_svcs(registry, bus)

        @bus.procedure("a.ask")
        async def ask() -> str:
            context = services().get(pgbus.CallContext)
            assert isinstance(context, pgbus.CallContext)
            return services().get(str)

        async with running(bus):
            assert await bus.call("a.ask") == "injected"


async def test_a_handler_without_a_container_is_told_what_to_call() -> None:
    @inject
    async def handle(event: dict[str, int], mailer: FromDishka[Mailer]) -> None: ...

    with pytest.raises(ConfigurationError, match="setup_dishka with an AsyncContainer"):
        await handle({})  # type: ignore[call-arg] # the container gives the rest
    with pytest.raises(ConfigurationError, match="setup_svcs"):
        services()
