"""Changes of a type, each with its verdict: the table of docs/reference/schema-changes.md.

`python -m tests.unit.test_schema_changes` writes the page anew.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, TypedDict
from uuid import UUID

import msgspec
import pytest

from pgbus.schema import type_schema
from pgbus.schema.compare import find_breaks
from tests.support import ROOT

PAGE = ROOT / "docs" / "reference" / "schema-changes.md"
FITS = ""


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class OneColour(enum.Enum):
    RED = "red"


class Point(NamedTuple):
    x: int
    y: int


class Spot(NamedTuple):
    x: int
    y: int
    z: int = 0


class Text(TypedDict):
    body: str


class LongText(TypedDict):
    body: str
    title: str


class Closed(msgspec.Struct, forbid_unknown_fields=True):
    number: int


class ClosedMore(msgspec.Struct, forbid_unknown_fields=True):
    number: int
    note: str = ""


class Tagged(msgspec.Struct, tag="a"):
    number: int


class Retagged(msgspec.Struct, tag="b"):
    number: int


class Renamed(msgspec.Struct, rename={"number": "n"}):
    number: int


class Plain(msgspec.Struct):
    number: int


@dataclass
class One:
    number: int


@dataclass
class OneOptional:
    number: int | None


@dataclass
class OneDefault:
    number: int = 0


@dataclass
class OneOptionalDefault:
    number: int | None = None


@dataclass
class OneFactory:
    number: list[int] = field(default_factory=list)


@dataclass
class OneList:
    number: list[int]


@dataclass
class Two:
    number: int
    note: str


@dataclass
class TwoDefault:
    number: int
    note: str = ""


@dataclass
class TwoOtherDefault:
    number: int
    note: str = "none"


@dataclass
class TwoOptional:
    number: int
    note: str | None


@dataclass
class Other:
    amount: int


@dataclass
class Nothing:
    pass


@dataclass
class Outer:
    inner: One


@dataclass
class OuterTwo:
    inner: Two


@dataclass
class OuterOptional:
    inner: One | None


Short = Annotated[str, msgspec.Meta(max_length=10)]
Shorter = Annotated[str, msgspec.Meta(max_length=5)]
NotEmpty = Annotated[str, msgspec.Meta(min_length=1)]
Digits = Annotated[str, msgspec.Meta(pattern="^[0-9]+$")]
Positive = Annotated[int, msgspec.Meta(ge=0)]
Percent = Annotated[int, msgspec.Meta(ge=0, le=100)]
Few = Annotated[list[int], msgspec.Meta(max_length=3)]

# What changes, the old type, the new one, and whether readers of the old type take what the new one writes (of an event
# or a result), and readers of the new type what the old one wrote (of the arguments of a call).
CHANGES: list[tuple[str, Any, Any, bool, bool]] = [
    ("nothing", Two, Two, True, True),
    ("a class is renamed", One, Plain, True, True),
    ("a field is added", One, Two, True, False),
    ("a field with a default is added", One, TwoDefault, True, True),
    ("a field that may be None is added", One, TwoOptional, True, False),
    ("a field is removed", Two, One, False, True),
    ("a field with a default is removed", TwoDefault, One, True, True),
    ("the only field is removed", One, Nothing, False, True),
    ("a field is renamed", One, Other, False, False),
    ("a field gets another name in JSON", Plain, Renamed, False, False),
    ("a field gets a default", One, OneDefault, True, True),
    ("a field loses its default", OneDefault, One, True, False),
    ("a default changes", TwoDefault, TwoOtherDefault, True, True),
    ("a field gets a default factory", OneList, OneFactory, True, True),
    ("a field may be None", One, OneOptional, False, True),
    ("a field may no longer be None", OneOptional, One, True, False),
    ("a field may be None, and is by default", One, OneOptionalDefault, False, True),
    ("a field of a nested class is added", Outer, OuterTwo, True, False),
    ("a field of a nested class is removed", OuterTwo, Outer, False, True),
    ("a nested class may be None", Outer, OuterOptional, False, True),
    ("a closed class gets a field with a default", Closed, ClosedMore, False, True),
    ("a class is closed", Plain, Closed, True, True),
    ("a class is opened", Closed, Plain, True, True),
    ("a tag changes", Tagged, Retagged, False, False),
    ("a tag is added", Plain, Tagged, True, False),
    ("a tag is removed", Tagged, Plain, False, True),
    ("a TypedDict gets a key", Text, LongText, True, False),
    ("a NamedTuple gets an item with a default", Point, Spot, True, True),
    ("a class becomes a dict", One, dict[str, Any], False, True),
    ("a dict becomes a class", dict[str, Any], One, True, False),
    ("the values of a dict become wider", dict[str, int], dict[str, float], False, True),
    ("the values of a dict become narrower", dict[str, float], dict[str, int], True, False),
    ("int becomes float", int, float, False, True),
    ("float becomes int", float, int, True, False),
    ("int becomes str", int, str, False, False),
    ("int becomes bool", int, bool, False, False),
    ("bool becomes int", bool, int, False, False),
    ("str becomes datetime", str, datetime, True, False),
    ("datetime becomes str", datetime, str, False, True),
    ("date becomes datetime", date, datetime, False, False),
    ("str becomes UUID", str, UUID, True, False),
    ("UUID becomes str", UUID, str, False, True),
    ("Decimal becomes str", Decimal, str, False, True),
    ("int becomes int or str", int, int | str, False, True),
    ("int or str becomes int", int | str, int, True, False),
    ("the members of a union change places", int | None, None | int, True, True),
    ("an annotation is removed", int, Any, True, True),
    ("an annotation is added", Any, int, True, True),
    ("an Enum gets a member", OneColour, Colour, False, True),
    ("an Enum loses a member", Colour, OneColour, True, False),
    ("an Enum becomes str", Colour, str, False, True),
    ("str becomes an Enum", str, Colour, True, False),
    ("an Enum becomes a Literal of its values", Colour, Literal["red", "blue"], True, True),
    ("a Literal gets a value", Literal["red"], Literal["red", "blue"], False, True),
    ("int becomes a list of int", int, list[int], False, False),
    ("the items of a list become wider", list[int], list[float], False, True),
    ("the items of a list become narrower", list[float], list[int], True, False),
    ("a list becomes a tuple of two", list[int], tuple[int, int], True, False),
    ("a tuple of two becomes a list", tuple[int, int], list[int], False, True),
    ("a tuple becomes longer", tuple[int, int], tuple[int, int, int], False, False),
    ("a list becomes a set", list[int], set[int], True, True),
    ("a string gets a greatest length", str, Short, True, False),
    ("a greatest length becomes smaller", Short, Shorter, True, False),
    ("a greatest length is given up", Short, str, False, True),
    ("a string must not be empty", str, NotEmpty, True, False),
    ("a string gets a pattern", str, Digits, True, False),
    ("a number gets a least value", int, Positive, True, False),
    ("a number gets a greatest value", Positive, Percent, True, False),
    ("limits of a number are given up", Percent, int, False, True),
    ("a list gets a greatest length", list[int], Few, True, False),
]


def reasons(change: tuple[str, Any, Any, bool, bool]) -> tuple[list[str], list[str]]:
    """What breaks readers of events and results, and what breaks callers."""
    _, old, new, _, _ = change
    before, after = type_schema(old, title="T"), type_schema(new, title="T")
    return (
        find_breaks(after, before, fills_defaults=True),
        find_breaks(before, after, fills_defaults=False),
    )


@pytest.mark.parametrize("change", CHANGES, ids=[one[0] for one in CHANGES])
def test_a_change_has_this_verdict(change: tuple[str, Any, Any, bool, bool]) -> None:
    event, arguments = reasons(change)
    assert (not event, not arguments) == change[3:], (event, arguments)


def test_there_are_enough_changes_and_no_name_twice() -> None:
    assert len({one[0] for one in CHANGES}) == len(CHANGES) >= 60


def test_the_page_shows_these_verdicts() -> None:
    assert PAGE.read_text() == page()


def page() -> str:
    lines = [f"| {change[0]} | " + " | ".join(_cell(found) for found in reasons(change)) + " |" for change in CHANGES]
    return HEAD + "\n".join(lines) + "\n"


def _cell(found: list[str]) -> str:
    return "**breaks**: " + "; ".join(one.replace("|", "\\|") for one in found) if found else "compatible"


HEAD = """# Changes of a schema

What `pgbus schema check` says of a change of a type, as a payload or a part of one. The rules are in
[schemas](../explanation/schemas.md#what-is-compatible). `tests/unit/test_schema_changes.py` makes this page of its
cases, and checks each.

- *Event, result*: the new code writes, and the listeners or callers that there are read with the old type.
- *Arguments*: callers write what they know, and the new code reads.

| change | event, result | arguments |
|---|---|---|
"""


if __name__ == "__main__":
    PAGE.write_text(page())
