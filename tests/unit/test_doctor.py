"""Judgements of the doctor on evidence that this machine cannot provide."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from pgbus.config import Config
from pgbus.database.statements.doctor import CollationDrift, Connections, Holder, Installation
from pgbus.doctor import CHECKS
from pgbus.doctor.checks import AnyGroup, listed
from pgbus.doctor.connections import GROUP as CONNECTIONS
from pgbus.doctor.connections import Reached
from pgbus.doctor.horizon import GROUP as HORIZON
from pgbus.doctor.horizon import Horizon
from pgbus.doctor.safety import GROUP as SAFETY
from pgbus.doctor.safety import Safety

HEALTHY = Safety(
    "pgbus",
    {
        "server_version_num": "180001", "server_encoding": "UTF8",
        "fsync": "on", "full_page_writes": "on", "synchronous_commit": "on",
    },
    (), (), (), (), (),
    Installation(1, 1, 1, 1, (), ()),
)  # fmt: skip
REACHED = Reached(
    Config(dsn="postgresql:///x"),
    Connections(used=3, workers=1, read_only=False, sees_all=True, encrypted=False, is_local=False),
    {"max_connections": "100", "superuser_reserved_connections": "3"},
    0.0,
)


def verdict(group: AnyGroup, evidence: object, check: str) -> str:
    return next(one.verdict for one in group.judge(evidence) if one.check == check)


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        ("130022", "fault"),
        ("140019", "warning"), ("140020", "ok"), ("150014", "warning"), ("160010", "warning"), ("170006", "warning"),
        ("180000", "warning"), ("180001", "ok"), ("190000", "ok"),
    ],
)  # fmt: skip
def test_a_server_without_the_fixes_that_listen_needs_is_found(number: str, expected: str) -> None:
    evidence = replace(HEALTHY, settings={**HEALTHY.settings, "server_version_num": number})
    assert verdict(SAFETY, evidence, "version") == expected


@pytest.mark.parametrize("name", ["fsync", "full_page_writes"])
def test_commits_that_do_not_reach_the_disk_are_a_fault(name: str) -> None:
    assert verdict(SAFETY, replace(HEALTHY, settings={**HEALTHY.settings, name: "off"}), "durability") == "fault"


def test_a_collation_of_another_version_is_a_fault() -> None:
    drift = (CollationDrift("shop", "2.36", "2.41"),)
    assert verdict(SAFETY, replace(HEALTHY, drift=drift), "collation") == "fault"
    assert verdict(SAFETY, replace(HEALTHY, drift=None), "collation") == "skipped"


def test_a_connection_across_a_network_without_tls_is_a_warning() -> None:
    assert verdict(CONNECTIONS, REACHED, "encryption") == "warning"
    for change in ({"encrypted": True}, {"is_local": True}):
        connections = replace(REACHED.connections, **change)
        assert verdict(CONNECTIONS, replace(REACHED, connections=connections), "encryption") == "ok"


@pytest.mark.parametrize(("xids", "expected"), [(10, "ok"), (1_000_000, "warning"), (10_000_000, "fault")])
def test_a_standby_that_keeps_dead_rows_is_found(xids: int, expected: str) -> None:
    holder = Holder("standby", "4711", "reports", None, xids)
    assert verdict(HORIZON, Horizon((holder,), (), sees_all=True), "standbys") == expected


def test_a_list_of_names_is_short() -> None:
    assert listed(["a", "b"]) == "a, b"
    assert listed(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"


def test_the_page_lists_every_check_with_its_meaning() -> None:
    page = (Path(__file__).parents[2] / "docs/reference/doctor.md").read_text()
    checks = page.partition("## ")[2]  # after the verdicts
    listed_checks = dict(re.findall(r"^\| `([a-z-]+)` \| (.+?) \|$", checks, re.MULTILINE))
    assert listed_checks == {check.name: check.meaning for check in CHECKS}
