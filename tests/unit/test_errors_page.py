"""The page of errors has a row for every public error, and none for others."""

from __future__ import annotations

import re

from pgbus import errors
from tests.support import ROOT

PAGE = (ROOT / "docs" / "reference" / "errors.md").read_text(encoding="utf-8")

ROWS = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
PUBLIC = {
    name
    for name, value in vars(errors).items()
    if isinstance(value, type) and issubclass(value, Exception) and value.__name__ == name
}


def test_every_public_error_has_one_row() -> None:
    assert sorted({*PUBLIC} - {*ROWS}) == ["PgbusError"]
    assert sorted({*ROWS} - {*PUBLIC}) == []
    assert len(ROWS) == len({*ROWS})


def tree(parent: type[errors.PgbusError], classes: set[type[errors.PgbusError]], depth: int = 1) -> list[str]:
    """The class and those below it, indented; each stands below its nearest public base."""
    below = [one for one in classes if next(base for base in one.__mro__[1:] if base in {*classes, object}) is parent]
    return [
        "    " * depth + parent.__name__,
        *(line for one in sorted(below, key=lambda one: one.__name__) for line in tree(one, classes, depth + 1)),
    ]


def test_the_page_draws_the_tree_of_errors() -> None:
    classes = {getattr(errors, name) for name in PUBLIC}
    assert "\n".join(tree(errors.PgbusError, {one for one in classes if issubclass(one, errors.PgbusError)})) in PAGE
