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
