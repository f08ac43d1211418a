"""Every figure with a unit in the documents names its source: a setting, a constant, a test, a benchmark, a report."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import NamedTuple

import pytest

from pgbus.config.settings import Config
from tests.support import ROOT

DOCS = ROOT / "docs"
PROMISES = (DOCS / "reference" / "promises.md").read_text(encoding="utf-8")
# Decisions are dated records of what was measured then. The report of chaos, and the pages that say where their figures
# are from in their first paragraph, are sources themselves.
SOURCES = {"promises.md", "reliability.md", "comparison.md"}
PAGES = [path for path in sorted(DOCS.rglob("*.md")) if path.parent.name != "decisions" and path.name not in SOURCES]

UNITS = {
    "µs": 1e-6, "us": 1e-6, "microseconds": 1e-6, "ms": 1e-3, "milliseconds": 1e-3, "s": 1, "second": 1, "seconds": 1,
    "min": 60, "minute": 60, "minutes": 60, "hour": 3600, "hours": 3600, "days": 86_400, "bytes": 1, "kb": 1e3,
    "KB": 1e3, "KiB": 1 << 10, "MB": 1e6, "MiB": 1 << 20, "GB": 1e9, "GiB": 1 << 30, "%": 0.01, "times": 1,
    "events/s": 1, "calls/s": 1, "events per second": 1, "calls per second": 1,
}  # fmt: skip
_WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
WORDS = {word: number for number, word in enumerate(_WORDS, start=1)} | {
    "about a": 1,
    "within a": 1,
    "half a": 0.5,
    "twenty": 20,
    "thirty": 30,
}
_NUMBER = rf"(?<![\w.,:/-])(?P<number>\d[\d,]*(?:\.\d+)? ?|(?:{'|'.join(WORDS)}) )"
FIGURE = re.compile(rf"{_NUMBER}(?P<unit>{'|'.join(sorted(UNITS, key=len, reverse=True))})(?!\w)")


class Figure(NamedTuple):
    """A number with its unit, as it is written and in seconds, bytes or parts."""

    written: str
    value: float


def figures(text: str) -> list[Figure]:
    found = []
    for match in FIGURE.finditer(" ".join(text.split())):
        number = WORDS.get(match["number"].strip()) or float(match["number"].replace(",", ""))
        found.append(Figure(match[0], round(number * UNITS[match["unit"]], 9)))
    return found


def paragraphs(page: Path) -> list[str]:
    """The prose: paragraphs, items of lists, rows of tables; without blocks, shown output, and code within the line."""
    text = re.sub(r"^( *)```.*?^\1```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^    .*$", "", text, flags=re.MULTILINE)
    return re.split(r"\n\n|\n(?=- |\* |\d+\. |\|)", text)


# --------------------------------------------------------------------------------------- constants, named on a page


class Limit(NamedTuple):
    """A row of the table of limits: a figure of a page, and the words of a file in which it stands."""

    figure: Figure
    page: str
    file: str
    words: str


_ROW = re.compile(r"^\| ([^|]+) \| [^|]+ \| \[[\w-]+\]\(([^)]+)\) \| `([^`]+)`: `([^`]+)` \|$", re.MULTILINE)
_NUMBERS = re.compile(r"\d[\d_.]*(?: \* \d[\d_.]*)*")
LIMITS = [
    Limit(figures(written)[0], (DOCS / "reference" / page).resolve().relative_to(DOCS).as_posix(), file, words)
    for written, page, file, words in _ROW.findall(PROMISES.split("## Limits and intervals\n")[1].split("\n## ")[0])
]


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: f"{limit.page}: {limit.figure.written}")
def test_a_limit_is_that_of_the_code(limit: Limit) -> None:
    assert limit.words in (ROOT / limit.file).read_text(encoding="utf-8")
    numbers = [math.prod(float(one) for one in found.split("*")) for found in _NUMBERS.findall(limit.words)]
    assert limit.figure.value in [*numbers, *(figure.value for figure in figures(limit.words))]
    said = [figure.value for paragraph in paragraphs(DOCS / limit.page) for figure in figures(paragraph)]
    assert limit.figure.value in said


# ------------------------------------------------------------------------------------------- every figure has a source

DEFAULTS = {field.name: field.default for field in dataclasses.fields(Config)}
_SOURCE = re.compile(r"(?:promises|reliability|RESULTS|SCALE)\.md|`(?:tests|benchmarks)/|\]\(https://")
LENGTH_OF_THE_TUTORIAL = {("tutorial/first-service.md", 1200.0), ("index.md", 1200.0)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_every_figure_names_its_source(page: Path) -> None:
    """It is a setting's default, a limit of the table, or in a paragraph that links to a test, benchmark or report."""
    place = page.relative_to(DOCS).as_posix()
    limits = {limit.figure.value for limit in LIMITS if limit.page == place}
    missing = []
    for paragraph in paragraphs(page):
        if _SOURCE.search(paragraph):
            continue
        code = re.findall(r"`([^`]*)`", paragraph)
        ages = (age[0] for age in re.finditer(r"\b\d+[smhd]\b", " ".join(code)))
        known = {*limits, *(DEFAULTS.get(word) for word in code), *(seconds(age) for age in ages)}
        prose = re.sub(r"`[^`]*`", "", paragraph)
        missing += [
            one for one in figures(prose) if one.value not in known and (place, one.value) not in LENGTH_OF_THE_TUTORIAL
        ]
    assert [figure.written for figure in missing if not is_shown(page, figure)] == []


def seconds(age: str) -> float:
    """The seconds of an age, as the command line takes it."""
    return float(age[:-1]) * {"s": 1, "m": 60, "h": 3600, "d": 86_400}[age[-1]]


def is_shown(page: Path, figure: Figure) -> bool:
    """Whether a block of the page, which tests run, has the same figure."""
    return any(
        figure.written in block for block in re.findall(r"```.*?```", page.read_text(encoding="utf-8"), re.DOTALL)
    )


def test_a_figure_without_a_source_is_found() -> None:
    written = "It takes 3.5 ms, or two seconds; 20% of 4 MB at 1,200 events/s, and one second more, tens of times."
    assert [figure.value for figure in figures(written)] == [0.0035, 2, 0.2, 4e6, 1200, 1]
