"""`pgbus status` and `pgbus events`."""

from __future__ import annotations

import json
import re
import signal
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from tests.integration.conftest import Invoke
from tests.support.command_line import json_lines, words
from tests.support.programs import program
from tests.support.rows import Rows

# -------------------------------------------------------------------------------------------------------------- status


async def test_status_shows_listeners_workers_and_the_leader(invoke: Invoke, rows: Rows) -> None:
    await rows.event(12_345)
    mailer = await rows.listener("mailer", "orders.*")
    await rows.delivery(mailer, 12_345)
    await rows.dead_letter(mailer, 12_345)
    await rows.worker("worker-1", "mailer", leads=True)
    result = await invoke("status")
    assert result.exit_code == 0
    text = words(result.stdout)
    assert "log ends at position 12,345" in text
    assert "leader worker-1" in text
    assert re.search(r"mailer active 1 \S+ \w+ 0 0 0 1 1 WORKER", text)
    assert re.search(r"worker-1 shop host 17 0 leads \S+ m?s 1$", text)


async def test_status_of_an_empty_bus_says_that_nobody_leads(invoke: Invoke) -> None:
    text = words((await invoke("status")).stdout)
    assert "leader none: no event enters the log until a worker runs" in text
    assert "no listeners are registered" in text


async def test_status_as_json(invoke: Invoke, rows: Rows) -> None:
    await rows.listener("mailer", "orders.*")
    await rows.worker("worker-1", leads=True)
    [found] = json_lines(await invoke("status", "--json"))
    assert found["leader"] == "worker-1"
    assert found["outbox_waiting"] == 0
    assert [(one["listener_name"], one["patterns"], one["lag_events"]) for one in found["listeners"]] == [
        ("mailer", ["orders.*"], 0)
    ]


async def test_status_watch_prints_again_and_again_until_ctrl_c(tmp_path: Path, database: str) -> None:
    async with program("status", "--watch", "0.1", "--json", cwd=tmp_path, environ={"PGBUS_DSN": database}) as child:
        assert child.stdout is not None
        for _ in range(3):
            assert json.loads(await child.stdout.readline())["log_head"] == 0
        child.send_signal(signal.SIGINT)
        assert await child.wait() == 0


# -------------------------------------------------------------------------------------------------------------- events


async def test_events_shows_what_each_listener_did(invoke: Invoke, rows: Rows) -> None:
    event_id = await rows.event(1, "orders.placed", {"price": 5}, key="adam")
    mailer, stock = await rows.listener("mailer"), await rows.listener("stock")
    await rows.attempt(mailer, 1, "retry", error="ValueError: no")
    await rows.attempt(mailer, 1, "done", attempt=2)
    await rows.delivery(stock, 1)
    lines = [words(line) for line in (await invoke("events")).stdout.splitlines()]
    assert lines[0].startswith("#1 ")
    assert lines[0].endswith(f"orders.placed {event_id} key adam")
    assert lines[1] == '{"price": 5}'
    assert re.fullmatch(r"mailer: retry, attempt 1, \S+ \S+, 250 ms, worker-1, ValueError: no", lines[2])
    assert re.fullmatch(r"mailer: done, attempt 2, \S+ \S+, 250 ms, worker-1", lines[3])
    assert lines[4] == "stock: waiting"


async def test_events_as_json_are_found_by_topic_key_id_time_and_payload(invoke: Invoke, rows: Rows) -> None:
    for position in range(1, 31):
        topic = "orders.placed" if position % 2 else "auth.user_created"
        event_id = await rows.event(position, topic, {"n": position, "tags": ["a", "b"]}, key=f"key-{position}")
    searches: list[tuple[tuple[str, ...], list[int]]] = [
        ((), list(range(30, 10, -1))),
        (("--limit", "2"), [30, 29]),
        (("--limit", "2", "--oldest-first"), [1, 2]),
        (("orders.*", "--after", "25"), [29, 27]),
        (("auth.**", "--after", "25"), [30, 28, 26]),
        (("--key", "key-7"), [7]),
        (("--id", str(event_id)), [30]),
        (("--where", "n>=28", "--where", "tags[*]=b", "--where", "n!=29"), [30, 28]),
        (("--since", "1h", "--before", "3"), [2, 1]),
        (("--until", "2020-01-01"), []),
    ]
    for arguments, expected in searches:
        found = json_lines(await invoke("events", "--json", *arguments))
        assert [row["position"] for row in found] == expected, arguments


@pytest.mark.parametrize("command", ["events", "inspect"])
async def test_who_finds_no_events_is_told_of_those_in_the_outbox(invoke: Invoke, command: str) -> None:
    assert "outbox" not in (await invoke(command)).stderr
    for said in ("1 event waits", "2 events wait"):
        await invoke("publish", "orders.placed", "{}")
        stderr = (await invoke(command)).stderr
        assert f"{said} in the outbox to enter the log; `pgbus status` shows what for\n" in stderr


async def test_events_keep_a_payload_as_it_is_stored(invoke: Invoke, rows: Rows) -> None:
    await rows.connection.execute(
        """
        INSERT INTO pgbus.events (position, event_id, topic, payload, published_at, logged_at)
        VALUES (1, gen_random_uuid(), 'a', '{"price": 1.10, "big": 123456789012345678901234567890}', now(), now())
        """
    )
    assert (
        '"payload":{"big": 123456789012345678901234567890, "price": 1.10}' in (await invoke("events", "--json")).stdout
    )


async def test_events_owed_to_an_unknown_listener_fails_with_close_matches(invoke: Invoke, rows: Rows) -> None:
    await rows.listener("mailer")
    result = await invoke("events", "--owed-to", "mail")
    assert (result.exit_code, result.stderr) == (1, "pgbus: there is no listener 'mail'; did you mean 'mailer'?\n")


@pytest.mark.parametrize("options", [(), ("--json",), ("--key", "other")])
async def test_events_of_an_unknown_id_fail(invoke: Invoke, rows: Rows, options: tuple[str, ...]) -> None:
    known = await rows.event(1, "orders.placed", key="adam")
    assert (await invoke("events", "--id", str(known))).exit_code == 0
    asked = known if options == ("--key", "other") else uuid4()
    result = await invoke("events", "--id", str(asked), *options)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"pgbus: no event {asked} in the log matches")


@pytest.mark.parametrize("text", ["2h", "in 2h", "in 120 m"])
async def test_a_relative_time_of_delivery_is_in_the_future(invoke: Invoke, rows: Rows, text: str) -> None:
    result = await invoke("publish", "orders.placed", "{}", "--deliver-at", text)
    assert result.exit_code == 0, result.output
    delay = await rows.connection.fetchval("SELECT deliver_at - now() FROM pgbus.outbox")
    assert timedelta(minutes=115) < delay <= timedelta(hours=2)


async def test_events_follow_prints_what_enters_the_log(tmp_path: Path, database: str, rows: Rows) -> None:
    await rows.event(1)
    arguments = ("events", "--follow", "--json", "--after", "0")
    async with program(*arguments, cwd=tmp_path, environ={"PGBUS_DSN": database}) as child:
        assert child.stdout is not None
        assert json.loads(await child.stdout.readline())["position"] == 1
        await rows.event(2)
        assert json.loads(await child.stdout.readline())["position"] == 2
        child.send_signal(signal.SIGINT)
        assert await child.wait() == 0
