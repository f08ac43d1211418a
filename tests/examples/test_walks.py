"""The walks through the code name files, functions and statements that exist."""

from __future__ import annotations

import ast
import re

import pytest

from pgbus.database import sql
from tests.support import ROOT

PAGE = (ROOT / "docs" / "explanation" / "architecture.md").read_text(encoding="utf-8")
WALKS = PAGE.split("## Four walks through the code")[1]
STEPS = re.findall(r"`(pgbus/[\w/]+\.py)`\s+`([\w.]+)`(?:, or `([\w.]+)`)?", WALKS)
NAMES = [(file, name) for file, *names in STEPS for name in names if name]


def defined(file: str) -> set[str]:
    """The functions, classes and methods of a module, methods as `Class.method`."""
    found: set[str] = set()
    for node in ast.parse((ROOT / file).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            inner = (part for part in node.body if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef))
            found.update(f"{node.name}.{part.name}" for part in inner)
    return found


def test_steps_are_found() -> None:
    assert len(NAMES) > 15


@pytest.mark.parametrize(("file", "name"), NAMES)
def test_what_a_walk_names_exists(file: str, name: str) -> None:
    assert name in defined(file)


def test_the_statements_of_the_walks_exist() -> None:
    names = set(re.findall(r"`((?:claim|settle|lock|insert|post|answer|fetch|sequence)_\w+)`", WALKS))
    assert len(names) > 8
    assert names <= set(sql.load())
