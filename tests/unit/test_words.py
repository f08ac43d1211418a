"""Plain technical English in documents, docstrings, comments, messages and help texts: words that stay away."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = ("pgbus", "benchmarks", "examples", "migrations")
PROGRAMS = sorted([*(file for folder in CODE for file in (ROOT / folder).rglob("*.py")), ROOT / "pytest_pgbus.py"])
STATEMENTS = sorted(file for folder in CODE for file in (ROOT / folder).rglob("*.sql"))
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])

# A word or form, and the words to write in its place.
INSTEAD = {
    r"who(m)?ever": "name the actor: the caller, any worker, a reader",
    r"anew": "again",
    r"beside": "next to, in addition to, besides, compared with",
    r"so (many|much|long)": "a number, this many, N seconds",
    r"of old": "old, before",
    r"keeps? house": "does maintenance",
    r"in bites": "in small batches",
    r"eldest": "oldest",
    r"(at|in) hand": "loaded, claimed, current",
    r"comes? along": "is installed, is included",
    r"played dead": "raised SuddenDeathException",
    r"for ever": "forever",
    r"(were|be|had) it": "if it is, including",
    r"tells? of|told (of|at)|(is|are|was|were|as) told": "reports, shows, see",
    r"a text|texts": "a string, strings",
    r"(?<!there )(is|are|was|were|be) no (?!longer|more than)": "is not a",
    r"without a word": "without an error, and nothing says so",
    r"in a hurry": "immediate, at once",
    r"(does|do) harm": "misbehaves",
    r"whence|thereof|thereby|lest|hither": "from which, of it, so that",
}
FORBIDDEN = re.compile("|".join(rf"\b(?:{form})\b" if form[-1] != ")" else rf"\b(?:{form})" for form in INSTEAD), re.I)

# Allowed, each with its reason.
ALLOWED = {
    "help texts": "Click's word for the description of a command",
    "told apart": "to distinguish",
}
SHORTEST_DOCSTRING = 5  # words


def _found(text: str) -> list[str]:
    """The forbidden words in a text, in which code between backticks does not count."""
    plain = re.sub(r"`[^`]*`", "`", " ".join(text.split()))
    for allowed in ALLOWED:
        plain = plain.replace(allowed, "")
    return [found.group() for found in FORBIDDEN.finditer(plain)]


def _instead(word: str) -> str:
    """The words to write in place of a forbidden one."""
    return next(instead for form, instead in INSTEAD.items() if re.match(form, word, re.I))


def _prose(file: Path) -> Iterator[tuple[int, str]]:
    """The comments of a program as blocks, and its strings that have more than one word."""
    block: list[str] = []
    last = 0
    for token in tokenize.generate_tokens(io.StringIO(file.read_text(encoding="utf-8")).readline):
        line = token.start[0]
        if token.type == tokenize.COMMENT:
            if block and line != last + 1:
                yield last, " ".join(block)
                block = []
            block.append(token.string.lstrip("#"))
            last = line
        elif token.type == tokenize.STRING and " " in token.string:
            yield line, token.string
    yield last, " ".join(block)


def _report(file: Path, line: int, words: list[str]) -> str:
    reasons = (f"{word.strip()!r} (write: {_instead(word)})" for word in words)
    return f"{file.relative_to(ROOT)}:{line}: {', '.join(reasons)}"


def test_the_prose_of_programs_is_plain() -> None:
    found = [_report(file, line, words) for file in PROGRAMS for line, text in _prose(file) if (words := _found(text))]
    assert found == []


def test_the_comments_of_statements_are_plain() -> None:
    found = []
    for file in STATEMENTS:
        text = file.read_text(encoding="utf-8")
        comments = " ".join(line.partition("--")[2] for line in text.splitlines())
        strings = " ".join(re.findall(r"(?:IS|EXCEPTION|HINT =) '(.*)'", text))
        if words := _found(comments) + _found(strings):
            found.append(_report(file, 0, words))
    assert found == []


def test_pages_are_plain() -> None:
    found = []
    for file in PAGES:
        prose = re.sub(r"^```.*?^```", "", file.read_text(encoding="utf-8"), flags=re.M | re.S)
        found += [_report(file, 0, words) for part in prose.split("\n\n") if (words := _found(part))]
    assert found == []


def test_a_docstring_says_what_its_object_is() -> None:
    """It does not begin with "What ...", and has more than four words."""
    empty = []
    for file in PROGRAMS:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node)
                if text and (text.startswith("What ") or len(text.split()) < SHORTEST_DOCSTRING):
                    empty.append(f"{file.relative_to(ROOT)}: {getattr(node, 'name', 'module')}: {text}")
    assert empty == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("for whoever calls it", ["whoever"]),
        ("it is no topic", ["is no "]),
        ("there is no topic", []),
        ("it is no longer a topic", []),
        ("the option `beside`", []),
        ("a text of 5 characters", ["a text"]),
        ("the engine is told of it", ["is told"]),
        ("the leader keeps house", ["keeps house"]),
    ],
)
def test_the_check_finds_the_words(text: str, words: list[str]) -> None:
    assert _found(text) == words
