"""The race's harness and the table of the benchmarks, without a server."""

from __future__ import annotations

import asyncio
import json
import sys
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from benchmarks.figures import Figure, at_least, at_most, table
from benchmarks.plots import Bar, Line, bars, lines
from benchmarks.race.__main__ import plan
from benchmarks.race.peers_table import PEERS, WORKLOADS
from benchmarks.race.process import PeerError, PeerProcess, started
from benchmarks.race.results import SHEETS, Results, markdown, plots
from benchmarks.race.workloads import RUNS
from tests.support import ROOT

ECHO = """
import json, sys
for line in sys.stdin:
    command = json.loads(line)
    if command["do"] == "end":
        break
    print("no JSON" if command["do"] == "log" else json.dumps(
        {"error": "ValueError: refused"} if command["do"] == "fail" else {"got": command}), flush=True)
"""


@pytest.fixture
async def echo(tmp_path: Path) -> AsyncIterator[PeerProcess]:
    command = [sys.executable, "-c", ECHO]
    async with started(command, [], environ={}, directory=tmp_path, log=str(tmp_path / "log")) as one:
        yield one


async def test_a_command_is_a_line_of_json_and_so_is_its_answer(echo: PeerProcess) -> None:
    assert await echo.ask("bulk", count=3) == {"got": {"do": "bulk", "count": 3}}


@pytest.mark.parametrize(("do", "why"), [("fail", "refused"), ("log", "not an answer"), ("end", "has ended")])
async def test_a_program_that_fails_ends_or_talks_is_an_error_with_the_reason(
    echo: PeerProcess, do: str, why: str
) -> None:
    with pytest.raises(PeerError, match=why):
        await echo.ask(do)


async def test_a_program_that_does_not_answer_is_an_error() -> None:
    reader = asyncio.StreamReader()

    class Silent:
        stdin = type("Stdin", (), {"write": lambda self, line: None})()
        stdout = reader

    with pytest.raises(PeerError, match="no answer"):
        await PeerProcess(Silent()).ask("left", timeout=0.01)  # type: ignore[arg-type]


def test_the_plan_takes_all_peers_and_workloads_unless_some_are_named() -> None:
    everything, written = plan([])
    assert (everything.peers, everything.workloads, written) == (list(PEERS), list(WORKLOADS), True)
    some, written = plan(["--peers", "pgbus,pgmq", "--workloads", "W3", "--events", "100", "--print"])
    assert (some.peers, some.workloads, some.events, written) == (["pgbus", "pgmq"], ["W3"], 100, False)


@pytest.mark.parametrize("given", [["--peers", "kafka"], ["--workloads", "W99"]])
def test_an_unknown_peer_or_workload_is_refused_with_those_that_there_are(
    given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        plan(given)
    assert "there are" in capsys.readouterr().err


def test_every_peer_has_a_program_and_every_workload_a_run_and_a_sheet() -> None:
    programs = ROOT / "benchmarks" / "race" / "peers"
    missing = [
        name for name, entry in PEERS.items() if not (programs / f"{name}{'.mjs' if entry.npm else '.py'}").exists()
    ]
    assert missing == []
    assert {one for group in RUNS for one in group} == set(WORKLOADS) == set(SHEETS)


def test_results_show_medians_with_their_spread_and_who_was_skipped() -> None:
    results = Results(skipped={"pgmq": "no | network"}, versions={"pgbus": {"pgbus": "1.0"}})
    for p50 in (3.0, 2.0, 4.0):
        results.add("pgbus", {"W5": {"p50": p50, "p99": 9.0}})
    results.failures.append("pass 2, pgbus, W5: 3 handled of 4")
    page = markdown(results, heading="Measured.", how=["    make race"])
    assert "| pgbus | 3.00 (2.00 to 4.00) | 9.00 (9.00 to 9.00) |" in page
    assert "| PGMQ | not run | | no / network |" in page
    assert "pass 2, pgbus, W5: 3 handled of 4" in page
    assert "make race" in page
    assert list(plots(results)) == ["race-w5.svg"]


def test_plots_are_the_same_for_the_same_figures_and_are_xml() -> None:
    shown = [Bar("pgbus <1>", 3.0, 2.0, 4.0, "3.0"), Bar("zero", 0.0, 0.0, 0.0, "0")]
    curves = [Line("events", [(1, 0.5), (10, 5.0), (64, 0.0)])]
    for drawn in (bars("W5", "ms", shown), lines("Publishers", "publishers", "us", curves)):
        assert ET.fromstring(drawn).tag.endswith("svg")
    assert bars("W5", "ms", shown) == bars("W5", "ms", shown)


def test_the_table_has_goals_baselines_and_whether_a_goal_is_reached() -> None:
    drawn = table(
        [
            Figure("W10", "publishers", [0.4, 0.6, 0.2], baseline="plain", goal=at_least(0.5)),
            Figure("", "memory", [0.0]),
            Figure("W3", "cpu", [21.4], "us", digits=1, goal=at_most(22), note="worker 9"),
        ]
    ).splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in drawn[2:]]
    assert cells == [
        ["W3", "cpu", "21.4 us", "", "<= 22", "yes", "worker 9"],
        ["W10", "publishers", "0.40 (0.20 to 0.60)", "plain", ">= 0.5", "no", ""],
        ["", "memory", "0.00", "", "", "", ""],
    ]
    assert len({len(line) for line in drawn}) == 1


def test_a_payload_is_an_order_of_200_bytes() -> None:
    from benchmarks.race.peer import payload

    assert 190 <= len(json.dumps(payload(1))) <= 240
