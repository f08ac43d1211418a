"""The documents' code blocks, by page."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

from tests.support import ROOT

PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"(?:#|--) ([\w./]+)\n")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block; `file` is the name that its first line gives it."""

    language: str
    text: str

    @property
    def file(self) -> str | None:
        named = _FILE.match(self.text)
        return named[1] if named else None


def blocks(page: Path, language: str) -> list[Block]:
    found = (Block(*match.groups()) for match in _BLOCK.finditer(page.read_text(encoding="utf-8")))
    return [block for block in found if block.language == language]


def languages(page: Path) -> set[str]:
    """The languages of the page's blocks, also of those that are indented; an empty one if a block names none."""
    fences = re.findall(r"^ *```(\w*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return set(fences[::2])


def write_files(page: Path, directory: Path) -> None:
    """Write the page's blocks that name a file."""
    for language in ("python", "sql", "ini"):
        for block in blocks(page, language):
            if block.file:
                (directory / block.file).write_text(block.text, encoding="utf-8")


def commands(page: Path) -> list[list[str]]:
    """The indented lines that call pgbus, as arguments, without prompts, variables and comments."""
    lines = re.findall(r"^    (?:pgbus )(.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return [_split(line) for line in lines]


def _split(line: str) -> list[str]:
    import shlex

    return shlex.split(re.split(r"\s(?:#|>|&&)\s", line + " ")[0])


def indented_programs(page: Path) -> list[str]:
    """The indented blocks that are Python, not fenced because they are parts of files that the page does not show."""
    text = re.sub(r"^( *)```.*?^\1```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    found = re.findall(r"(?:^\n)(?=    )((?:^(?:    .*)?\n)+)", text, re.MULTILINE)
    first = re.compile(
        r"    (?:# \w+/.*\.py|from |import |@|def |async def |class |[A-Z]+ = [\[{]|[a-z_.]+(?:\[.*\])?(?:\(| = ))"
    )
    return [textwrap.dedent(block) for block in found if first.match(block) and "= shop.bus:bus" not in block]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def shown(page: Path, first: str) -> list[str]:
    """The lines of the output that the page shows from the line on that contains `first`, until the indent ends."""
    lines = page.read_text(encoding="utf-8").splitlines()
    (begin,) = (number for number, line in enumerate(lines) if line.startswith("    ") and first in line)
    end = next(number for number, line in enumerate([*lines, "end"]) if number > begin and line[:4].strip())
    return [line for line in lines[begin:end] if line.strip()]


def outline(line: str) -> str:
    """A line of output without what differs from run to run: numbers, ids, times, padding, the worker's name."""
    plain = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "ID", line)
    plain = re.sub(r"\S+Z, [\d.]+ \S+, [^\s,]+", "WHEN, HOW LONG, WHO", plain)
    plain = re.sub(r"\d+(?:[.,]\d+)*", "0", plain)
    return re.sub(r"[\s|]+", " ", plain).strip()
