"""The page of promises names tests and benchmarks that exist, for every guarantee of the README."""

from __future__ import annotations

import re

import pytest

from tests.support import ROOT

PAGE = (ROOT / "docs" / "reference" / "promises.md").read_text(encoding="utf-8")
SEARCHED = (ROOT / "docs" / "explanation" / "searched-and-not-found.md").read_text(encoding="utf-8")
CHECKS = sorted(set(re.findall(r"`((?:tests|benchmarks)/[\w/]+\.py)::(\w+)`", PAGE + SEARCHED)))
TABLES = re.sub(
    r"^## Limits and intervals\n.*?(?=^## )", "", PAGE, flags=re.MULTILINE | re.DOTALL
)  # tests/unit/test_figures.py
ROWS = [line for line in TABLES.splitlines() if line.startswith("| ") and not line.endswith(" checked by |")]


def test_checks_are_found() -> None:
    assert len(CHECKS) > 60


@pytest.mark.parametrize(("file", "name"), CHECKS)
def test_a_check_that_is_named_exists(file: str, name: str) -> None:
    assert re.search(rf"^(?:async )?def {name}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)


def test_every_row_names_a_check() -> None:
    assert [row for row in ROWS if "::" not in row and "whole suite" not in row and "measured by" not in row] == []


def test_every_guarantee_of_the_readme_is_there() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    guarantees = re.findall(r"^\| \*\*([\w ]+)\*\* \|", readme, re.MULTILINE)
    assert len(guarantees) == 7
    assert [name for name in guarantees if f"**{name}**" not in PAGE] == []


def test_every_figure_of_the_readme_names_its_benchmark() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    table = readme.split("| what | measured | by |\n|---|---|---|\n")[1].split("\n\n")[0]
    for row in table.splitlines():
        [benchmark] = re.findall(r"\| `(benchmarks/\w+\.py)` \|$", row)
        assert (ROOT / benchmark).exists()


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200
