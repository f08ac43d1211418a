"""The page of states names the statement of every change of state, and each of them exists."""

from __future__ import annotations

import re

from pgbus.database import sql
from tests.support import ROOT

PAGE = (ROOT / "docs" / "explanation" / "states.md").read_text(encoding="utf-8")
STATEMENTS = sql.load()

_ARROW = re.compile(r"^ +\S+ --> \S+: (.*)$", re.MULTILINE)
_NAME = re.compile(r"\b[a-z]+(?:_[a-z]+)+\b")
_NO_STATEMENT = {"also_run_immediately", "next_run_at"}
_STATES = "deliveries|dead_letters|rpc_requests|rpc_responses|schedules|schedule_runs"
_CHANGE = re.compile(rf"(?:INSERT INTO|UPDATE|DELETE FROM) pgbus\.(?:{_STATES})\b")


def test_every_arrow_names_statements_that_exist() -> None:
    arrows = _ARROW.findall(PAGE)
    assert len(arrows) > 40
    for arrow in arrows:
        names = set(_NAME.findall(arrow)) - _NO_STATEMENT
        assert names, arrow
        assert names <= set(STATEMENTS), arrow


def test_every_statement_that_changes_a_state_is_on_the_page() -> None:
    changes = {name for name, statement in STATEMENTS.items() if _CHANGE.search(statement.text)}
    assert len(changes) > 25
    assert sorted(name for name in changes if name not in PAGE) == []
