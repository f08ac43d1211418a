"""A short chaos run, for every change; `make chaos` plays all faults."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.chaos.campaign import run
from tests.chaos.faults import all_faults
from tests.chaos.report import as_markdown

SHORT = (
    "the leader is killed",
    "the server is stopped, immediate",
    "sessions are terminated at random",
    "answers are torn in the middle",
    "the pooler is restarted",
)


@pytest.mark.timeout(600)  # dozens of processes start, on a machine that may be busy
async def test_a_short_chaos_run_breaks_no_law(tmp_path: Path) -> None:
    """Recoveries are in its report; here they only have to be, for a busy machine keeps no time."""
    faults = [one for one in all_faults() if one.name in SHORT]
    seed = int(os.environ.get("PGBUS_CHAOS_SEED", "0"))
    result = await run(faults, seed=seed, directory=tmp_path, seconds=0, rate=8)
    told = as_markdown(result)
    assert result.verdict.broken == {}, told
    assert [one.fault.name for one in result.episodes if one.recovery is None or one.findings] == [], told
    assert result.verdict.committed > 100
    assert result.verdict.calls.get("answered"), told


def test_every_fault_has_a_name_of_its_own() -> None:
    names = [one.name for one in all_faults()]
    assert len(set(names)) == len(names)
    assert set(SHORT) <= set(names)
