"""Lihil: publishing, and which handlers get what; what the page of its message bus promises."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncSession

import pgbus
from pgbus.events import topic_of
from tests.support.waiting import PATIENCE
from tests.support.workers import Inbox, running, until_idle

pytest.importorskip("lihil", reason="Lihil is not installed")
httpx = pytest.importorskip("httpx2", reason="httpx2 is not installed")

from lihil import use  # noqa: E402 - may be skipped

from pgbus.contrib.lihil import (  # noqa: E402
    BusTerminal,
    Event,
    EventBus,
    MessageContext,
    MessageRegistry,
    PEventBus,
    UnregisteredMessageError,
)
from tests.support.lihil_users import (  # noqa: E402
    Repo,
    Sessions,
    UserCreated,
    UserDeleted,
    UserEvent,
    UserGreeted,
    counts,
    insert_user,
    terminal_of,
)

# ------------------------------------------------------------------------------------------------------------- publish


async def test_publish_runs_local_handlers_in_order_and_no_worker_repeats_them(
    bus: pgbus.Bus, connection: asyncpg.Connection
) -> None:
    seen: list[str] = []

    async def first(created: UserCreated, ctx) -> None:  # type: ignore[no-untyped-def]
        seen.append(f"first {created.name}")

    def second(created: UserEvent, _: Any) -> None:
        seen.append(f"second {created.name}")

    terminal = terminal_of(bus, first, second)
    await terminal.create_event_bus(terminal.graph).publish(UserCreated("ada"))
    assert seen == ["first ada", "second ada"]
    async with running(bus):
        await until_idle(connection)
    assert seen == ["first ada", "second ada"]
    assert await connection.fetchval("SELECT count(*) FROM pgbus.attempts WHERE outcome = 'done'") == 2


async def test_the_first_error_rolls_back_the_event_and_skips_later_handlers(
    bus: pgbus.Bus, connection: asyncpg.Connection, sessions: Sessions
) -> None:
    seen: list[str] = []

    async def write(created: UserCreated, _: Any, session: AsyncSession) -> None:
        await insert_user(session, created.name)

    async def fail(created: UserCreated, _: Any) -> None:
        raise RuntimeError("no")

    async def never(created: UserCreated, _: Any) -> None:
        seen.append(created.name)

    terminal = terminal_of(bus, write, fail, never)
    with pytest.raises(RuntimeError, match="no"):
        await terminal.create_event_bus(terminal.graph).publish(UserCreated("ada"))
    assert (seen, await counts(connection)) == ([], (0, 0))
    async with sessions.begin() as session:  # goes on after the error, and commits what is its own
        await insert_user(session, "eve")
        with pytest.raises(RuntimeError, match="no"):
            await terminal.create_event_bus(terminal.graph, session=session).publish(UserCreated("ada"))
    assert await counts(connection) == (1, 0)


async def test_durable_publishing_leaves_the_handlers_to_a_worker(
    bus: pgbus.Bus, connection: asyncpg.Connection
) -> None:
    heard: Inbox[UserEvent] = Inbox()

    async def hear(event: UserEvent, context: MessageContext, session: AsyncSession) -> None:
        await insert_user(session, context["by"])
        heard.put(event)

    terminal = terminal_of(bus, hear, durable=True)
    events = terminal.create_event_bus(terminal.graph)
    await events.publish(UserCreated("ada", "ada@example.com"), context={"by": "eve"})
    assert heard.items == []
    async with running(bus):
        assert await heard.take(1) == [UserCreated("ada", "ada@example.com")]
        await until_idle(connection)
    await events.publish(UserCreated("bob"), context={"by": "adam"}, durable=False)
    assert heard.items[1:] == [UserCreated("bob")]
    assert await counts(connection) == (2, 2)


async def test_an_event_without_a_local_handler_is_refused_unless_allowed(bus: pgbus.Bus) -> None:
    strict, open_ = terminal_of(bus), terminal_of(bus, allow_unrouted=True)
    with pytest.raises(UnregisteredMessageError):
        await strict.create_event_bus(strict.graph).publish(UserGreeted("ada"))
    await open_.create_event_bus(open_.graph).publish(UserGreeted("ada"))
    with pytest.raises(pgbus.InvalidEventError, match="context"):
        await open_.create_event_bus(open_.graph).publish(UserGreeted("ada"), context={"x": object()})


async def test_a_strategy_may_run_handlers_at_once(bus: pgbus.Bus) -> None:
    async def all_at_once(event: Any, context: Any, listeners: Any) -> None:
        await asyncio.gather(*(listener(event, context) for listener in listeners))

    both = asyncio.Barrier(2)

    async def one(event: UserCreated, _: Any) -> None:
        await both.wait()

    async def other(event: UserCreated, _: Any) -> None:
        await both.wait()

    terminal = terminal_of(bus, one, other, publisher=all_at_once)
    async with asyncio.timeout(PATIENCE):
        await terminal.create_event_bus(terminal.graph).publish(UserCreated("ada"))


# ---------------------------------------------------------------------------------------------------------- hierarchy


async def test_a_handler_of_a_parent_hears_subclasses_that_are_defined_later(
    bus: pgbus.Bus, connection: asyncpg.Connection
) -> None:
    heard: Inbox[UserEvent] = Inbox()

    async def hear(event: UserEvent, _: Any) -> None:
        heard.put(event)

    async def both(event: UserCreated | UserDeleted, _: Any) -> None:
        heard.put(event)

    terminal = terminal_of(bus, hear, both)

    class UserRenamed(UserEvent):
        to: str = ""

    events = terminal.create_event_bus(terminal.graph)
    for event in (UserCreated("ada"), UserDeleted("bob"), UserRenamed("eve", "eva")):
        await events.publish(event)
    assert heard.items == [
        UserCreated("ada"), UserCreated("ada"), UserDeleted("bob"), UserDeleted("bob"), UserRenamed("eve", "eva")
    ]  # fmt: skip
    heard.items.clear()
    events.emit(UserRenamed("kim"))
    await events.persisted()
    async with running(bus):
        assert await heard.take(1) == [UserRenamed("kim")]


async def test_a_subclass_that_only_another_service_knows_comes_as_the_parent(
    bus: pgbus.Bus, connection: asyncpg.Connection
) -> None:
    heard: Inbox[UserEvent] = Inbox()

    async def hear(event: UserEvent, _: Any) -> None:
        heard.put(event)

    terminal_of(bus, hear)
    parent = topic_of(UserEvent)
    await connection.execute(
        """INSERT INTO pgbus.outbox (topic, ancestors, payload)
           VALUES ('elsewhere.UserPromoted', $1, '{"name": "ada", "rank": 3}')""",
        [parent],
    )
    async with running(bus):
        assert await heard.take(1) == [UserEvent("ada")]


async def test_a_handler_registered_twice_and_lihils_own_registry_are_refused(bus: pgbus.Bus) -> None:
    from lihil.plugins.bus import MessageRegistry as Stock

    async def hear(event: UserEvent, _: Any) -> None: ...

    with pytest.raises(pgbus.DuplicateListenerName):
        terminal_of(bus, hear, hear)
    stock: Any = Stock(event_base=Event)
    with pytest.raises(pgbus.ConfigurationError, match="import MessageRegistry from"):
        BusTerminal(stock, bus=bus)


# -------------------------------------------------------------------------------------------------------- dependencies


steps: list[str] = []


async def get_log() -> AsyncIterator[list[str]]:
    try:
        yield steps
    except Exception as error:
        steps.append(f"failed: {error}")
        raise
    finally:
        steps.append("closed")


class Mailer:
    def __init__(self, repo: Repo) -> None:
        self.repo = repo

    async def greet(self, event: UserCreated, context: MessageContext) -> None:
        await self.repo.add(f"greeted {event.name}")


async def test_handlers_get_dependencies_resources_and_instances_of_their_class(
    bus: pgbus.Bus, connection: asyncpg.Connection
) -> None:
    async def hear(event: UserCreated, _: Any, repo: Repo, log: Annotated[list[str], use(get_log)]) -> None:
        log.append("open")
        await repo.add(event.name)
        if event.name == "nobody":
            raise ValueError("who")

    steps.clear()
    terminal = terminal_of(bus, hear, Mailer)
    events = terminal.create_event_bus(terminal.graph)
    await events.publish(UserCreated("ada"))
    assert steps == ["open", "closed"]
    with pytest.raises(ValueError, match="who"):
        await events.publish(UserCreated("nobody"))
    assert steps[2:] == ["open", "failed: who", "closed"]
    await events.publish(UserCreated("eve"), durable=True)
    async with running(bus):
        await until_idle(connection)
    names = [row[0] for row in await connection.fetch("SELECT name FROM users")]
    assert sorted(names) == ["ada", "eve", "greeted ada", "greeted eve"]


async def test_a_handler_publishes_in_its_transaction_with_its_event_as_the_cause(
    bus: pgbus.Bus, connection: asyncpg.Connection
) -> None:
    heard: Inbox[str] = Inbox()
    failures = ["first attempt"]

    async def hear(event: UserCreated, _: Any, events: PEventBus) -> None:
        assert isinstance(events, EventBus)
        await events.publish(UserGreeted(event.name), context={"from": "hear"})
        events.emit(UserDeleted(event.name))
        if failures:
            raise RuntimeError(failures.pop())

    async def greeted(event: UserGreeted, context: MessageContext) -> None:
        heard.put(f"greeted {event.name} {context['from']}")

    async def deleted(event: UserDeleted, _: Any) -> None:
        heard.put(f"deleted {event.name}")

    terminal = terminal_of(bus, hear, greeted, deleted)
    with pytest.raises(RuntimeError):
        await terminal.create_event_bus(terminal.graph).publish(UserCreated("ada"))
    assert await counts(connection) == (0, 0)
    failures.append("first attempt of the worker")
    heard.items.clear()
    await terminal.create_event_bus(terminal.graph).publish(UserCreated("eve"), durable=True)
    async with running(bus):
        await heard.take(3)
        await until_idle(connection)
    assert sorted(heard.items) == ["deleted eve", "greeted eve hear", "greeted eve hear"]  # the first was undone
    rows = await connection.fetch("SELECT topic, event_id, headers FROM pgbus.events ORDER BY position")
    [parent, *children] = rows
    assert len(children) == 2
    assert {json.loads(child["headers"])["causation_id"] for child in children} == {str(parent["event_id"])}


def test_an_event_base_whose_instances_have_no_fields_is_refused() -> None:
    registry: MessageRegistry[str] = MessageRegistry(event_base=str)

    async def hear(event: str, _: Any) -> None: ...

    with pytest.raises(pgbus.ConfigurationError, match="is not a dataclass, Struct"):
        registry.register(hear)
