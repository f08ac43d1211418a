"""The drill of docs/how-to/at-3-am.md, from "something is wrong" to "all done", by dashboard and terminal."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from functools import partial
from html import unescape

import pytest

import pgbus
from pgbus.config import Config
from pgbus.contrib.dashboard import Dashboard
from pgbus.doctor import horizon
from tests.conftest import Connect
from tests.integration.conftest import Invoke
from tests.support import eventually
from tests.support.command_line import json_lines
from tests.support.dashboards import browser, change, everyone
from tests.support.workers import Inbox, open_bus, running, until_idle

ONCE = pgbus.RetryPolicy(max_attempts=1)
TO_MAIL, TO_BILL = range(300), range(300, 499)
BLOCKED, BEHIND = 499, 500
"""An order whose key is blocked by it, and a later one of the same key."""
HANGS = 501


def declare(bus: pgbus.Bus, handled: Inbox[tuple[str, int]], broken: Callable[[str, int], object]) -> None:
    """The four listeners; `broken` is what is wrong with the deployed code: it raises, or returns what to wait for."""

    async def handle(name: str, n: int) -> None:
        if (wait := broken(name, n)) is not None:
            await wait  # type: ignore[misc] # an awaitable, in the test's own hands
        handled.put((name, n))

    @bus.listener("mail.*", name="mail", retry=ONCE)
    async def mail(event: dict[str, int]) -> None:
        await handle("mail", event["n"])

    @bus.listener("bills.*", name="bill", retry=ONCE)
    async def bill(event: dict[str, int]) -> None:
        await handle("bill", event["n"])

    @bus.listener("orders.*", name="ship", ordered=True, on_poison="block", retry=ONCE)
    async def ship(event: dict[str, int]) -> None:
        await handle("ship", event["n"])

    @bus.listener("audits.*", name="audit", retry=ONCE)
    async def audit(event: dict[str, int]) -> None:
        await handle("audit", event["n"])


def as_deployed(name: str, n: int) -> object:
    match name:
        case "mail":
            raise ConnectionRefusedError(f"10.0.0.{n} port 25")
        case "bill":
            raise ValueError(f"order {n} has no address")
        case "ship" if n == BLOCKED:
            raise KeyError(f"item {n}")
        case "audit":
            return asyncio.Event().wait()  # never
    return None


async def publish_all(bus: pgbus.Bus) -> None:
    await bus.publish_many([{"n": n} for n in TO_MAIL], topic="mail.due")
    await bus.publish_many([{"n": n} for n in TO_BILL], topic="bills.due")
    await bus.publish({"n": BLOCKED}, topic="orders.placed", key="customer 7")
    await bus.publish({"n": BEHIND}, topic="orders.placed", key="customer 7")
    await bus.publish({"n": HANGS}, topic="audits.due")


async def test_three_in_the_morning(
    database: str, connect: Connect, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(horizon, "LONG", 0.0)  # a snapshot that is held for a minute, without the minute
    connection, held = await connect(database), await connect(database)
    handled: Inbox[tuple[str, int]] = Inbox()
    dashboard = Dashboard(Config(dsn=database), allow=everyone("operator"))
    async with browser(dashboard) as client, open_bus(database, grace=0.1) as bus:
        declare(bus, handled, as_deployed)
        async with running(bus):
            await held.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pgbus.events")
            await publish_all(bus)
            wrong = """
                SELECT (SELECT count(*) FROM pgbus.dead_letters) = 500
                       AND (SELECT count(*) FROM pgbus.deliveries WHERE blocked_key IS NOT NULL) = 1
                       AND (SELECT in_flight FROM pgbus.listener_lag WHERE listener_name = 'audit') = 1
            """
            await eventually(lambda: connection.fetchval(wrong), 60, message="the night did not go wrong")

            # 1. Something is wrong: what, in the words of the doctor, on a page and on the terminal.
            page = (await client.get("/doctor")).text
            assert {"dead-letters", "blocked-keys", "open-transactions"} <= set(complaints(page))
            said = await invoke("doctor", "--json")
            assert said.exit_code == 1
            assert '"blocked-keys"' in said.output

            # 2. Which listener: the one that hangs is paused, so that it takes no more.
            assert ">audit<" in (await client.get("/listeners")).text
            await change(client, "pause", "it hangs", listener="audit")

            # 3. Why: three groups.
            page = unescape((await client.get("/dead")).text)
            letters = re.findall(r'<td class="n bad" data-label="letters">([\d\u202f]+)</td>', page)
            assert sorted(letters) == ["1", "199", "300"]
            summary = json_lines(await invoke("dead", "summary", "--json"))
            assert [(one["listener_name"], one["letters"]) for one in summary] == [
                ("mail", 300), ("bill", 199), ("ship", 1),
            ]  # fmt: skip

        # 4. The mended code is deployed, and the transaction ended that keeps the snapshot.
        assert await connection.fetchval("SELECT pg_terminate_backend($1, 5000)", held.get_server_pid())
    async with browser(dashboard) as client, open_bus(database) as bus:
        declare(bus, handled, lambda _name, _n: None)
        async with running(bus):
            for sample in summary[:2]:
                probe = await change(client, "retry", "a probe", ids=str(sample["sample"]))
                await eventually(partial(is_done, client, probe), 60)
                group = {"listener": sample["listener_name"], "error": sample["error"]}
                await change(client, "retry", "the probe is done", **group)
            retried = await invoke(
                "dead", "retry", str(summary[2]["sample"]), "--reason", "item added", "--person", "bob"
            )
            assert retried.exit_code == 0, retried.output
            await change(client, "resume", "the new version does not hang", listener="audit")
            await dashboard.state.carrier.finish()

            # 5. All done: nothing is owed, nothing is dead, and the doctor has no complaint of ours left.
            await until_idle(connection, timeout=60)
            assert "There are no dead letters" in (await client.get("/dead")).text
            left = set(complaints((await client.get("/doctor")).text))
            assert left.isdisjoint({"blocked-keys", "paused-listeners", "unstaffed-listeners"})
        everything = {
            *(("mail", n) for n in TO_MAIL), *(("bill", n) for n in TO_BILL),
            ("ship", BLOCKED), ("ship", BEHIND), ("audit", HANGS),
        }  # fmt: skip
        assert sorted(handled.items) == sorted(everything)
        assert [n for name, n in handled.items if name == "ship"] == [BLOCKED, BEHIND]
        await check_trail(invoke, (await client.get("/operations.json")).json())


def complaints(page: str) -> list[str]:
    """The checks of the doctor's page that found something."""
    return re.findall(r'<span class="state (?:fault|warning)">\w+</span></td><th scope="row">([\w-]+)</th>', page)


async def is_done(client: object, address: str) -> bool:
    page = (await client.get(address)).text  # type: ignore[attr-defined] # of httpx2
    return "Retry the group" in page


async def check_trail(invoke: Invoke, exported: list[dict[str, object]]) -> None:
    """Who did what and why, the same in the dashboard's export and on the terminal."""
    told = [(one["verb"], one["person"], one["reason"], one["touched"], one["state"]) for one in reversed(exported)]
    assert told == [
        ("pause", "ann", "it hangs", 1, "done"),
        ("retry", "ann", "a probe", 1, "done"),
        ("retry", "ann", "the probe is done", 299, "done"),
        ("retry", "ann", "a probe", 1, "done"),
        ("retry", "ann", "the probe is done", 198, "done"),
        ("retry", "bob", "item added", 1, "done"),
        ("resume", "ann", "the new version does not hang", 1, "done"),
    ]
    listed = json_lines(await invoke("operations", "list", "--json"))
    assert [one["id"] for one in listed] == [one["id"] for one in exported]
