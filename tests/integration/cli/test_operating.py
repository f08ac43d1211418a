"""Groups and filters of dead letters, what a cut list says, a leader that hangs, and `pgbus top`."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from uuid import UUID

import pytest

from tests.integration.conftest import Invoke
from tests.support.command_line import EVENT, OPERATIONS, json_lines, words
from tests.support.rows import Rows
from tests.support.terminal import terminal

ID = "01a21022-eef6-776e-a51a-6b2d4ec50d24"


@pytest.fixture
async def letters(rows: Rows) -> None:
    """Five dead letters of two listeners, of three kinds of errors."""
    mailer, stock = await rows.listener("mailer", "**"), await rows.listener("stock")
    errors = [
        (mailer, "KeyError: 'order 1'"), (mailer, "KeyError: 'order 2'"),
        (mailer, f"NotFound: {ID} at 0x7f, line 3.14\nand more"), (stock, "KeyError: 'order 7'"),
        (stock, "KeyError: 'order 8'"),
    ]  # fmt: skip
    for position, (listener, error) in enumerate(errors, 1):
        await rows.event(position, key=f"k{position}")
        await rows.dead_letter(listener, position, error=error)
        await rows.attempt(listener, position, "dead", error=error)


# ---------------------------------------------------------------------------------------------------------------- dead


async def test_dead_letters_are_grouped_by_listener_and_kind_of_error(invoke: Invoke, letters: None) -> None:
    found = json_lines(await invoke("dead", "summary", "--json"))
    assert [(one["letters"], one["listener_name"], one["error"], one["sample"]) for one in found] == [
        (2, "mailer", "KeyError: '*'", 2),
        (2, "stock", "KeyError: '*'", 5),
        (1, "mailer", "NotFound: * at *, line *", 3),
    ]
    assert found[0]["first_at"] <= found[0]["last_at"]
    text = words((await invoke("dead", "summary", "--listener", "stock")).stdout)
    assert re.search(r"2 stock KeyError: '\*' \d \S+ \w+ ago \S+ \w+ ago 0 pgbus dead show 5$", text)
    assert (await invoke("dead", "summary", "--key", "nobody")).stdout == "no dead letters\n"


@pytest.mark.parametrize(
    ("arguments", "ids"),
    [
        ("--error keyerror", [5, 4, 2, 1]),
        ("--error KeyError:\u00a0'*'", [5, 4, 2, 1]),
        ("--error NotFound:\u00a0*\u00a0at\u00a0*,\u00a0line\u00a0*", [3]),
        ("--error order\u00a07", [4]),
        ("--key k2", [2]),
        ("--key k2 --error 7", []),
        ("--until 2h", []),
        ("--since 2h --listener stock", [5, 4]),
    ],
)
async def test_dead_letters_are_selected_by_key_error_and_time(
    invoke: Invoke, letters: None, arguments: str, ids: list[int]
) -> None:
    given = [one.replace("\u00a0", " ") for one in arguments.split(" ")]
    assert [one["id"] for one in json_lines(await invoke("dead", "list", "--json", *given))] == ids


async def test_a_group_is_retried_by_its_kind(invoke: Invoke, letters: None) -> None:
    result = await invoke(
        "dead", "retry", "--all", "--error", "KeyError: '*'", "--listener", "mailer", "--json", "--yes"
    )
    assert json.loads(result.stdout) == {"retried": [1, 2], "operation": 1}


async def test_a_list_that_is_cut_says_how_many_there_are(invoke: Invoke, letters: None) -> None:
    result = await invoke("dead", "list", "--limit", "2")
    assert result.stderr == "2 of 5 dead letters; --limit N shows more\n"
    assert len(result.stdout.splitlines()) == 3
    assert (await invoke("dead", "list", "--limit", "5")).stderr == ""
    assert (await invoke("events", "--limit", "2")).stderr == "the newest 2 events; --limit N shows more\n"
    assert (await invoke("events", "--limit", "1")).stderr == "the newest 1 event; --limit N shows more\n"
    assert (await invoke("events", "--limit", "5")).stderr == ""


@pytest.mark.parametrize(("error", "positions"), [("order 7", [4]), ("keyerror", [5, 4, 2, 1]), ("nothing", [])])
async def test_events_are_found_by_the_error_of_an_attempt(
    invoke: Invoke, letters: None, error: str, positions: list[int]
) -> None:
    found = json_lines(await invoke("events", "--error", error, "--json"))
    assert [one["position"] for one in found] == positions
    result = await invoke("inspect", "--error", error, "--json")
    assert [int(json.loads(line)["native_id"]) for line in result.stdout.splitlines()] == positions


# ------------------------------------------------------------------------------------------ what waits for its attempt


@pytest.fixture
async def waiting(rows: Rows) -> int:
    """Three events that a listener failed at, and tries again tomorrow."""
    mailer: int = await rows.listener("mailer", "**")
    for position, error in enumerate(("KeyError: 1", "KeyError: 2", "OSError: away"), 1):
        await rows.event(position)
        await rows.delivery(mailer, position, attempt=2)
        await rows.connection.execute(
            "UPDATE pgbus.deliveries SET last_error = $1, available_at = now() + interval '1 day' WHERE first = $2",
            error, position,
        )  # fmt: skip
    return mailer


async def test_what_waits_in_back_off_is_tried_now_or_given_up(invoke: Invoke, rows: Rows, waiting: int) -> None:
    due = "SELECT array_agg(first ORDER BY first) FROM pgbus.deliveries WHERE available_at <= now()"
    assert "matches 2 waiting events" in (await invoke("dead", "retry-now", "--error", "KeyError", "--dry-run")).stdout
    assert await rows.connection.fetchval(due) is None
    assert (await invoke("dead", "retry-now", "--error", "KeyError")).exit_code == 2  # nobody to ask
    given = ("--yes", "--reason", "back again", "--person", "ann")
    result = await invoke("dead", "retry-now", "--error", "KeyError", *given)
    assert result.stdout == "due now: 2 events (operation 1)\n"
    assert await rows.connection.fetchval(due) == [1, 2]
    [done] = json_lines(await invoke("dead", "give-up", "--error", "OSError", "--listener", "mailer", *given, "--json"))
    assert done == {"touched": 1, "operation": 2}
    assert await rows.connection.fetchval("SELECT array_agg(position) FROM pgbus.dead_letters") == [3]
    trail = await rows.connection.fetch("SELECT verb, person, reason, touched FROM pgbus.operations ORDER BY id")
    assert [tuple(row) for row in trail] == [
        ("retry_now", "ann", "back again", 2),
        ("give_up", "ann", "back again", 1),
    ]


@pytest.mark.parametrize("command", ["retry-now", "give-up"])
async def test_what_waits_is_selected_or_all_of_it(invoke: Invoke, command: str) -> None:
    assert (await invoke("dead", command, "--yes")).exit_code == 2
    result = await invoke("dead", command, "--listener", "nobody", "--yes")
    assert result.exit_code != 0
    assert "nobody" in result.stderr


# ----------------------------------------------------------------------------------------------------------- operations


@pytest.fixture
async def everything(rows: Rows, letters: None) -> None:
    """A dead letter, what waits, and a schedule: for each command there is something to change."""
    mailer = await rows.connection.fetchval("SELECT id FROM pgbus.listeners WHERE listener_name = 'mailer'")
    await rows.event(6, key="k6")
    await rows.delivery(mailer, 6, attempt=2)
    await rows.connection.execute("UPDATE pgbus.events SET event_id = $1 WHERE position = 6", UUID(EVENT))
    await rows.connection.execute(
        """UPDATE pgbus.deliveries SET last_error = 'KeyError: 6', available_at = now() + interval '1 day';
           INSERT INTO pgbus.schedules (schedule_name, rule) VALUES ('nightly', 'every 60 s'),
                                                                  ('hourly', 'every 60 s')"""
    )


@pytest.mark.usefixtures("everything")
@pytest.mark.parametrize("name", OPERATIONS)
async def test_a_dry_run_shows_a_table_and_changes_nothing(invoke: Invoke, rows: Rows, name: str) -> None:
    arguments, said = OPERATIONS[name]
    result = await invoke(*name.split(), *arguments, "--dry-run", "--yes", columns=80)
    assert result.exit_code == 0, result.output
    assert [words(line) for line in result.stdout.splitlines()[: len(said)]] == said
    assert max(map(len, result.stdout.splitlines())) <= 80
    [found] = json_lines(await invoke(*name.split(), *arguments, "--dry-run", "--json"))
    assert found["matched"] >= len(found["sample"]) > 0
    assert await rows.connection.fetchval("SELECT count(*) FROM pgbus.operations") == 0


@pytest.mark.usefixtures("everything")
@pytest.mark.parametrize("name", OPERATIONS)
async def test_every_change_is_recorded_with_who_and_why(invoke: Invoke, rows: Rows, name: str) -> None:
    arguments, _ = OPERATIONS[name]
    result = await invoke(*name.split(), *arguments, "--yes", "--reason", "the fix is out", "--person", "ann")
    assert result.exit_code == 0, result.output
    trail = await rows.connection.fetch("SELECT DISTINCT person, reason, state FROM pgbus.operations")
    assert [tuple(row) for row in trail] == [("ann", "the fix is out", "done")]


@pytest.mark.usefixtures("everything")
async def test_an_event_is_published_again_with_another_payload(invoke: Invoke, rows: Rows) -> None:
    result = await invoke("republish", EVENT, "-", "--reason", "a typo", text='{"n": 8}')
    new = await rows.connection.fetchrow("SELECT event_id, payload, headers ->> 'causation_id' FROM pgbus.outbox")
    assert new is not None
    assert (result.stdout, json.loads(new[1]), new[2]) == (f"{new[0]}\n", {"n": 8}, EVENT)
    [done] = json_lines(await invoke("republish", EVENT, "{}", "--json"))
    assert (done["republished"], done["operation"]) == (EVENT, 2)
    result = await invoke("republish", str(UUID(int=2)), "{}", "--dry-run")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "there is no event" in result.stderr


@pytest.mark.parametrize(("kind", "names"), [("listeners", ("mailer", "mailr")), ("schedules", ("nightly", "nitely"))])
async def test_nothing_is_changed_where_one_of_the_names_is_wrong(
    invoke: Invoke, rows: Rows, everything: None, kind: str, names: tuple[str, str]
) -> None:
    for options in ((), ("--dry-run",)):
        result = await invoke(kind, "pause", *names, *options)
        assert (result.exit_code, result.stdout) == (1, "")
        assert f"did you mean {names[0]!r}" in result.stderr
    assert await rows.connection.fetchval("SELECT count(*) FROM pgbus.operations") == 0


# -------------------------------------------------------------------------------------------------------------- tables


@pytest.mark.parametrize("columns", [40, 80, 120])
async def test_no_table_is_wider_than_the_terminal(invoke: Invoke, letters: None, rows: Rows, columns: int) -> None:
    await rows.worker("a-worker-with-a-name-as-long-as-kubernetes-gives-them-7d9f8c-x2x4z", "mailer", leads=True)
    await rows.connection.execute("INSERT INTO pgbus.schedules (schedule_name, rule) VALUES ('n', 'every 60 s')")
    for command in ("status", "top", "dead list", "dead summary", "listeners list", "schedules list", "config"):
        lines = (await invoke(*command.split(), columns=columns)).stdout.splitlines()
        assert max(map(len, lines)) <= columns, command


# -------------------------------------------------------------------------------------------------------------- leaders


async def test_a_leader_that_does_not_report_is_said_to_hang(invoke: Invoke, rows: Rows) -> None:
    await rows.worker("worker-1", leads=True)
    await rows.connection.execute("UPDATE pgbus.workers SET last_seen_at = now() - interval '3 minutes'")
    text = words((await invoke("status")).stdout)
    assert "leader worker-1 hangs: silent for 3 min, and no event enters the log; end process 17 on host" in text
    assert "silent for 3 min" in text.partition("WORKER")[2]
    assert "until a worker runs" not in text


async def test_a_worker_that_hangs_and_led_is_named_where_nobody_leads(invoke: Invoke, rows: Rows) -> None:
    await rows.worker("worker-1")
    assert "leader none: a worker that runs leads within seconds" in words((await invoke("status")).stdout)
    await rows.connection.execute("UPDATE pgbus.workers SET last_seen_at = now() - interval '3 minutes'")
    text = words((await invoke("status")).stdout)
    assert "leader none: worker-1 hangs: silent for 3 min; end process 17 on host, and start it again" in text
    [leader] = [one for one in json_lines(await invoke("doctor", "--json"), 1) if one["check"] == "leader"]
    assert (leader["verdict"], leader["remedy"]) == ("fault", "end process 17 on host, and start it again")


async def test_a_bus_that_sleeps_on_events_that_wait_is_not_said_to_be_well(invoke: Invoke, rows: Rows) -> None:
    await rows.worker("worker-1")
    await rows.connection.execute("SELECT setval('pgbus.wake_slots', 2, false)")
    assert "none: the bus sleeps, as nothing is owed" in words((await invoke("status")).stdout)
    await rows.connection.execute(
        "INSERT INTO pgbus.outbox (topic, published_at) VALUES ('a.b', now() - interval '3 minutes')"
    )
    assert "what waits does not wake its workers; start them again" in words((await invoke("status")).stdout)
    [leader] = [one for one in json_lines(await invoke("doctor", "--json"), 1) if one["check"] == "leader"]
    assert (leader["verdict"], leader["remedy"]) == ("fault", "restart the workers")


async def test_a_leader_with_events_that_wait_is_not_said_to_be_well(invoke: Invoke, rows: Rows) -> None:
    await rows.worker("worker-1", leads=True)
    await rows.connection.execute(
        "INSERT INTO pgbus.outbox (topic, published_at) VALUES ('a.b', now() - interval '3 minutes')"
    )
    text = words((await invoke("status")).stdout)
    assert "events wait all the same: `pgbus doctor` may say what holds them up" in text


async def test_a_session_that_leads_without_a_worker_is_named(invoke: Invoke, rows: Rows) -> None:
    await rows.connection.execute("SELECT pg_advisory_lock(hashtext('pgbus.leader'), 1)")
    pid = await rows.connection.fetchval("SELECT pg_backend_pid()")
    text = words((await invoke("status")).stdout)
    assert f"end it with SELECT pg_terminate_backend({pid})" in text
    assert "until a worker runs" not in text


# ------------------------------------------------------------------------------------------------------------------ top


async def test_top_prints_rates_and_running_calls_once_in_a_pipe(invoke: Invoke, rows: Rows) -> None:
    await rows.event(1)
    mailer = await rows.listener("mailer")
    for outcome in ("done", "done", "retry"):
        await rows.attempt(mailer, 1, outcome, error="no" if outcome == "retry" else None)
    await rows.worker("worker-1", "mailer")
    running = [{"kind": "procedure", "name": "shop.buy", "age": 7.0, "id": ID}]
    await rows.connection.execute("UPDATE pgbus.workers SET running = $1", json.dumps(running))
    [found] = json_lines(await invoke("top", "--json", "--window", "100"))
    [one] = found["listeners"]
    assert (one["rate"], one["failure_rate"], one["p95"]) == (0.02, 0.01, 0.25)
    assert [(one["kind"], one["name"], one["id"]) for one in found["running"]] == [("procedure", "shop.buy", ID)]
    text = words((await invoke("top", "--once", "--window", "100")).stdout)
    assert "mailer active 0.02 0.01 250 ms" in text
    assert "procedure shop.buy" in text


async def test_top_is_a_screen_that_keys_change(tmp_path: Path, database: str, letters: None) -> None:
    command = (sys.executable, "-m", "pgbus.cli", "top", "--interval", "60")
    async with terminal(*command, cwd=tmp_path, environ={"PGBUS_DSN": database}, columns=80, lines=24) as screen:
        await screen.shows(r"^mailer +0 +0.05 +250 ms")
        screen.type("\x1b[B\r")
        await screen.shows(r"^workers none: its events wait")
        await screen.shows(r"KeyError: '\*'")  # further down, and it comes in pieces
        screen.type("\x1b")
        await screen.shows("s sort: name")
        screen.type("sw")
        await screen.shows("s sort: rate  w window: 5 min")
        screen.type("q")
        assert await screen.ends() == 0
