"""Lihil: programs as its users write them, with another import, and handlers in other processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.support import eventually
from tests.support.programs import PROGRAM, program_environ
from tests.support.services import Services
from tests.support.waiting import PATIENCE

pytest.importorskip("lihil", reason="Lihil is not installed")

# The program of Lihil's page on its message bus, with another import, and what the page leaves out.
TODO = """
import asyncio
from typing import Annotated, Any

from lihil import Empty, LocalClient, Route, status

from pgbus.contrib.lihil import BusPlugin, BusTerminal, Event, MessageRegistry, PEventBus


class TodoCreated(Event):
    name: str
    content: str


class TodoExpired(Event):
    name: str


heard = []


async def listen_create(created: TodoCreated, ctx):
    assert created.name
    assert created.content
    heard.append("listen_create")


async def listen_twice(created: TodoCreated, _: Any, bus: PEventBus):
    heard.append("listen_twice")
    await bus.publish(TodoExpired(created.name))


async def listen_expired(expired: TodoExpired, ctx):
    heard.append(f"listen_expired {expired.name}")


registry = MessageRegistry(event_base=Event)
registry.register(listen_create, listen_twice, listen_expired)
bus_plugin = BusPlugin(BusTerminal(registry))
bus_route = Route("/bus", plugins=[bus_plugin])


@bus_route.post
async def create_todo(name: str, content: str, bus: PEventBus) -> Annotated[Empty, status.OK]:
    await bus.publish(TodoCreated(name, content))


async def main():
    client = LocalClient()
    response = await client.call_endpoint(bus_route.get_endpoint("POST"), query_params={"name": "1", "content": "2"})
    print(response.status_code, await response.body(), heard)


asyncio.run(main())
"""


async def test_the_program_of_lihils_page_runs_with_another_import(services: Services) -> None:
    directory = services.write("todo", "", todo=TODO)
    said = services.run(directory, "todo.py")
    assert said == "200 b'' ['listen_create', 'listen_twice', 'listen_expired 1']\n"
    topics = await services.connection.fetch("SELECT topic FROM pgbus.outbox ORDER BY id")
    assert [row["topic"] for row in topics] == ["__main__.TodoCreated", "__main__.TodoExpired"]


EVENTS = """
from pgbus.contrib.lihil import Event

class UserEvent(Event):
    name: str
"""

SIGN_UP = """
import asyncio
import sys
from events import UserEvent
from pgbus.contrib.lihil import BusTerminal, MessageRegistry

class UserCreated(UserEvent):
    email: str = ""

async def main():
    terminal = BusTerminal(MessageRegistry(event_base=UserEvent))
    bus = terminal.create_event_bus(terminal.graph)
    bus.emit(UserCreated(sys.argv[1], "mail"), {"request_id": "r1"})
    await bus.persisted()
    await terminal.bus.close()

asyncio.run(main())
"""

MAILER = """
import sys
from events import UserEvent
from pgbus.contrib.lihil import BusTerminal, MessageRegistry
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

async def mail(event: UserEvent, context, session: AsyncSession):
    await session.execute(text("INSERT INTO mails VALUES (:text)"), {"text": f"{event} {context}"})

registry = MessageRegistry(event_base=UserEvent)
registry.register(mail)
terminal = BusTerminal(registry)
bus = terminal.bus
"""


async def test_another_service_hears_an_unknown_subclass_once_with_its_context(
    services: Services,
) -> None:
    await services.connection.execute("CREATE TABLE mails (text text)")
    web = services.write("web", "", events=EVENTS, sign_up=SIGN_UP)
    mailer = services.write("mailer", MAILER, events=EVENTS)
    async with services.process(PROGRAM, "run", cwd=mailer) as killed:
        await services.at_work(killed)
        async with services.connection.transaction():
            await services.connection.execute("LOCK TABLE mails")  # so that it is killed within the handler
            services.run(web, "sign_up.py", "ada")
            await eventually(lambda: waits_for_mails(services), PATIENCE)
            killed.child.send_signal(signal.SIGKILL)
            await killed.ends()
    async with services.worker(mailer):
        await services.settled()
    mails = await services.connection.fetch("SELECT text FROM mails")
    assert [row["text"] for row in mails] == ["UserEvent(name='ada') {'request_id': 'r1'}"]
    assert await services.dead_errors() == []


async def waits_for_mails(services: Services) -> bool:
    query = "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = CAST('mails' AS regclass) AND NOT granted)"
    return bool(await services.connection.fetchval(query))


@pytest.mark.timeout(300)
def test_lihils_own_tests_of_its_bus_pass_with_ours(database: str, tmp_path: Path) -> None:
    """They are in its source distribution, which is downloaded; without a network this is skipped."""
    import lihil

    download = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", "-d", str(tmp_path)]
    try:
        subprocess.run([*download, f"lihil=={lihil.VERSION}"], capture_output=True, timeout=180, check=True)
    except subprocess.SubprocessError as error:
        pytest.skip(f"Lihil's source distribution cannot be downloaded: {type(error).__name__}")
    [archive] = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        source = opened.extractfile(f"lihil-{lihil.VERSION}/tests/test_plugins/test_bus.py")
        assert source
        text = source.read().decode()
    assert text.count("lihil.plugins.bus") == 1
    (tmp_path / "test_bus.py").write_text(text.replace("lihil.plugins.bus", "pgbus.contrib.lihil"))
    environ = {**program_environ({"PGBUS_DSN": database}), "PYTHONPATH": os.pathsep.join(sys.path)}
    ours = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio", "test_bus.py"],
        cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert "2 passed" in ours.stdout, ours.stdout + ours.stderr
