"""The table of types says what is so."""

from __future__ import annotations

import re
import sys
import types
from typing import Any

import msgspec
import pytest

from pgbus.codec.casting import caster
from pgbus.codec.payloads import decoder, encode
from tests.examples.documents import blocks
from tests.support import ROOT

PAGE = ROOT / "docs" / "reference" / "types.md"
_ROW = re.compile(r"^\| (.*?) \| `(.*)` \| `(.*)` \|$", re.MULTILINE)
_LENIENT_ROW = re.compile(r"^\| `(.*)` \| `(.*)` \| `(.*)` \| .*\|$", re.MULTILINE)
ROWS = [(of, value, text) for of, value, text in _ROW.findall(PAGE.read_text(encoding="utf-8"))]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What the page's code defines."""
    module = types.ModuleType("types_page")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for block in blocks(PAGE, "python"):
        exec(compile(block.text, str(PAGE), "exec"), module.__dict__)
    return module.__dict__


def test_the_table_is_found() -> None:
    assert len(ROWS) > 20


@pytest.mark.parametrize(("value", "text"), [(value, text) for _, value, text in ROWS])
def test_a_value_is_written_as_the_page_says_and_comes_back(names: dict[str, object], value: str, text: str) -> None:
    made = eval(value, names)
    assert encode(made, limit=1_000) == text
    kind: Any = type(made)
    back = decoder(kind)(text)
    assert back == made
    assert type(back) is kind


def test_what_is_taken_leniently_is_taken_as_the_page_says(names: dict[str, object]) -> None:
    rows = _LENIENT_ROW.findall(PAGE.read_text(encoding="utf-8"))
    assert len(rows) > 5
    for hint, text, made in rows:
        cast = caster(eval(hint.replace("\\", ""), names), strict=False)
        assert repr(cast(msgspec.json.decode(text))) == repr(eval(made, names))
