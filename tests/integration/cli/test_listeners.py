"""`pgbus dead` and `pgbus listeners`."""

from __future__ import annotations

import re

import pytest

from tests.integration.conftest import Invoke
from tests.support.command_line import json_lines, words
from tests.support.rows import Rows

# ---------------------------------------------------------------------------------------------------------------- dead


@pytest.fixture
async def letters(rows: Rows) -> list[int]:
    """Dead letters 1 and 2 of `mailer`, 3 of `stock`."""
    mailer, stock = await rows.listener("mailer"), await rows.listener("stock")
    for position in (1, 2, 3):
        await rows.event(position, "orders.placed" if position < 3 else "orders.paid", key="adam")
    return [await rows.dead_letter(mailer, 1), await rows.dead_letter(mailer, 2), await rows.dead_letter(stock, 3)]


async def test_dead_list_shows_letters_newest_first(invoke: Invoke, letters: list[int]) -> None:
    lines = [words(line) for line in (await invoke("dead", "list")).stdout.splitlines()]
    assert re.fullmatch(r"3 stock orders\.paid adam 10 \S+ \S+ ValueError: no", lines[1])
    assert len(lines) == 4
    found = json_lines(await invoke("dead", "list", "--json", "--listener", "mailer", "--topic", "orders.*"))
    assert [row["id"] for row in found] == [2, 1]


async def test_dead_show_prints_the_event_and_the_traceback(invoke: Invoke, letters: list[int]) -> None:
    text = words((await invoke("dead", "show", "1")).stdout)
    assert "listener mailer" in text
    assert '{ "n": 1 }' in text
    assert "Traceback: no" in text
    [found] = json_lines(await invoke("dead", "show", "1", "--json"))
    assert found["error"] == "ValueError: no"


async def test_what_a_dead_letter_blocks_is_shown(invoke: Invoke, rows: Rows) -> None:
    ledger = await rows.listener("ledger", "orders.*", lanes=4)
    for position in (1, 2, 3):
        await rows.event(position, key="eve")
    letter_id = await rows.dead_letter(ledger, 1, lane=3, blocked_key="eve")
    for position in (2, 3):
        await rows.delivery(ledger, position, lane=3, blocked_key="eve")
    text = words((await invoke("dead", "show", str(letter_id))).stdout)
    assert "blocks key eve until it is retried or discarded; 2 events of it wait" in text
    [found] = json_lines(await invoke("dead", "list", "--json"))
    assert (found["blocked_key"], found["blocked"]) == ("eve", 2)
    assert re.search(r"ledger active 2 \S+ \w+ 0 0 2 1 0", words((await invoke("status")).stdout))
    assert "ledger: blocked" in words((await invoke("events", "--key", "eve", "--before", "3")).stdout)


async def test_dead_show_of_no_letter_is_exit_code_1(invoke: Invoke) -> None:
    result = await invoke("dead", "show", "7")
    assert (result.exit_code, result.stderr) == (
        1,
        "pgbus: there is no dead letter 7; see `pgbus dead list`\n",
    )


async def test_dead_retry_and_discard_by_id_name_what_they_did_not_find(
    invoke: Invoke, letters: list[int], rows: Rows
) -> None:
    result = await invoke("dead", "retry", "1", "9")
    assert (result.exit_code, result.stdout) == (1, "retried 1 dead letter (operation 1)\n")
    assert result.stderr == "pgbus: no such dead letter: 9\n"
    result = await invoke("dead", "discard", "2", "3")
    assert (result.exit_code, result.stdout) == (0, "discarded 2 dead letters (operation 2)\n")
    assert await rows.connection.fetchval("SELECT count(*) FROM pgbus.deliveries") == 1
    assert await rows.connection.fetchval("SELECT count(*) FROM pgbus.attempts WHERE outcome = 'discarded'") == 2


async def test_dead_retry_of_all_that_match(invoke: Invoke, letters: list[int]) -> None:
    [done] = json_lines(await invoke("dead", "retry", "--yes", "--listener", "mailer", "--json"))
    assert done == {"retried": [1, 2], "operation": 1}
    assert (await invoke("dead", "discard", "--all", "--yes")).stdout.startswith("discarded 1 dead letter (operation ")
    assert (await invoke("dead", "list")).stdout == "no dead letters\n"


@pytest.mark.parametrize("arguments", [("retry",), ("discard", "--yes"), ("retry", "1", "--all")])
async def test_dead_wants_ids_or_all(invoke: Invoke, arguments: tuple[str, ...]) -> None:
    result = await invoke("dead", *arguments)
    assert result.exit_code == 2
    assert "--all" in words(result.output.replace("│", ""))


# ----------------------------------------------------------------------------------------------------------- listeners


async def test_listeners_are_listed_paused_resumed_reset_and_removed(invoke: Invoke, rows: Rows) -> None:
    await rows.event(5)
    await rows.listener("mailer", "orders.*", lanes=16)
    await rows.listener("stock", "**")
    steps = [
        (("pause", "mailer", "stock"), "paused mailer\npaused stock\n"),
        (("resume", "stock"), "resumed stock\n"),
        (("reset", "mailer", "--to", "beginning", "--yes"), "reset mailer: it gets the log from position 0 on\n"),
        (("remove", "stock", "--yes"), "removed stock\n"),
    ]
    for arguments, said in steps:
        result = await invoke("listeners", *arguments)
        assert (result.exit_code, result.stdout) == (0, said), result.output
    [left] = json_lines(await invoke("listeners", "list", "--json"))
    assert (left["listener_name"], left["state"], left["cursor"], left["ordered"]) == ("mailer", "paused", 0, True)
    assert re.search(
        r"mailer paused shop by key 0 \S+ m?s ago orders\.\*", words((await invoke("listeners", "list")).stdout)
    )
    assert "force" not in (await invoke("operations", "list")).stdout, "it was not asked for"


@pytest.mark.parametrize(
    ("place", "position"), [("now", 6), ("2", 2), ("1d", 5), ("2020-01-01", 5), ("2999-01-01T00:00+02:00", 6)]
)
async def test_listeners_reset_takes_a_place(invoke: Invoke, rows: Rows, place: str, position: int) -> None:
    await rows.event(5)
    await rows.listener("mailer")
    result = await invoke("listeners", "reset", "mailer", "--to", place, "--yes")
    assert result.stdout == f"reset mailer: it gets the log from position {position} on\n"


@pytest.mark.parametrize("place", ["99", "soon"])
async def test_listeners_reset_to_no_place_is_exit_code_2(invoke: Invoke, rows: Rows, place: str) -> None:
    await rows.listener("mailer")
    assert (await invoke("listeners", "reset", "mailer", "--to", place)).exit_code == 2


async def test_a_listener_that_runs_is_removed_by_force_only(invoke: Invoke, rows: Rows) -> None:
    await rows.listener("mailer")
    await rows.worker("worker-1", "mailer")
    result = await invoke("listeners", "remove", "mailer")
    assert result.exit_code == 1
    assert "'mailer' is run by worker-1" in result.stderr
    assert (await invoke("listeners", "remove", "mailer", "--force", "--yes")).exit_code == 0
