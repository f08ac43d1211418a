"""The limits of size: no file of pgbus over 400 lines, no function over 40, no class with over 15 public methods."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pgbus

ROOT = Path(pgbus.__file__).parent
LONGEST_FILE = 400
LONGEST_FUNCTION = 40
MOST_METHODS = 15
MOST_MODULES = 11


def functions(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """The functions of a file with the number of their lines: the body without its docstring."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body
            yield node.name, (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def classes(tree: ast.Module) -> Iterator[tuple[str, list[str]]]:
    """The classes of a file with their public methods and properties; overloads and setters count once."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            methods = [one.name for one in node.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)]
            yield node.name, sorted({one for one in methods if not one.startswith("_")})


def test_no_file_function_or_class_is_too_large() -> None:
    found: dict[str, object] = {}
    for path in sorted(ROOT.rglob("*.py")):
        name, text = str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        if (lines := len(text.splitlines())) > LONGEST_FILE:
            found[name] = lines
        found |= {f"{name}: {one}": lines for one, lines in functions(tree) if lines > LONGEST_FUNCTION}
        found |= {f"{name}: {one}": methods for one, methods in classes(tree) if len(methods) > MOST_METHODS}
    assert found == {}


def test_few_modules_stand_beside_the_packages() -> None:
    modules = [path.stem for path in ROOT.glob("*.py") if path.stem != "__init__"]
    assert len(modules) <= MOST_MODULES, modules
