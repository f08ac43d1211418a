"""The type of a parameter, and the fields of a class."""

from __future__ import annotations

import collections
import dataclasses
import enum
import inspect
from typing import (
    Annotated,
    Any,
    ClassVar,
    Final,
    Generic,
    NamedTuple,
    NewType,
    NotRequired,
    Required,
    TypedDict,
    TypeVar,
)

import attrs
import msgspec
import pytest

from pgbus import Parameter
from pgbus.codec.annotations import EMPTY, bare, declared_type, shape_of

T = TypeVar("T")


class Colour(enum.Enum):
    RED = "red"


class Point(NamedTuple):
    x: int
    y: Annotated[int, "across"] = 1


@dataclasses.dataclass
class Page(Generic[T]):
    items: list[T]
    first: T | None = None
    made: int = dataclasses.field(init=False, default=0)
    kind: ClassVar[str] = "page"


@attrs.define
class Account:
    _secret: str
    notes: list[str] = attrs.field(factory=list)


class Order(msgspec.Struct, rename="camel"):
    order_id: int
    notes: list[str] = []


class Options(TypedDict, total=False):
    name: Required[str]
    size: NotRequired[int]
    hue: str


@pytest.mark.parametrize(
    ("annotation", "default", "expected"),
    [
        (str, EMPTY, str),
        (str, "a", str),
        (str, None, str | None),
        (int | None, None, int | None),
        (EMPTY, EMPTY, Any),
        (EMPTY, None, Any),
        (EMPTY, False, bool),
        (EMPTY, 1.5, float),
        (EMPTY, Colour.RED, Colour),
        (EMPTY, object(), Any),
    ],
)
def test_the_type_of_a_parameter_is_its_annotation_else_that_of_its_default(
    annotation: Any, default: Any, expected: Any
) -> None:
    kind = inspect.Parameter.KEYWORD_ONLY
    assert declared_type(inspect.Parameter("value", kind, annotation=annotation, default=default)) == expected
    if default is EMPTY or expected is not Any:
        assert declared_type(Parameter("value", annotation, default=default)) == expected


def test_what_makes_no_difference_to_a_value_is_taken_off() -> None:
    assert bare(NewType("Id", Annotated[int, "a number"])) is int
    assert bare(Required[str]) is str
    assert bare(Final[int]) is int
    assert bare(T) is Any
    assert bare(None) is type(None)
    constrained = Annotated[int, msgspec.Meta(gt=0)]
    assert bare(constrained) == constrained


@pytest.mark.parametrize(
    ("hint", "kind", "fields"),
    [
        (Point, "named tuple", [("x", int, True), ("y", Annotated[int, "across"], False)]),
        (collections.namedtuple("Pair", "a b"), "named tuple", [("a", Any, True), ("b", Any, True)]),
        (Page[int], "dataclass", [("items", list[int], True), ("first", int | None, False), ("made", int, False)]),
        (Account, "attrs class", [("_secret", str, True), ("notes", list[str], False)]),
        (Order, "Struct", [("orderId", int, True), ("notes", list[str], False)]),
        (Options, "TypedDict", [("name", Required[str], True), ("size", NotRequired[int], False), ("hue", str, False)]),
    ],
)
def test_the_fields_of_every_kind_of_class_are_known(hint: Any, kind: str, fields: list[tuple[str, Any, bool]]) -> None:
    shape = shape_of(hint)
    assert shape is not None
    assert shape.kind == kind
    assert [(field.key, field.hint, field.is_required) for field in shape.fields] == fields


@pytest.mark.parametrize("hint", [int, list[int], Any, int | str, Colour])
def test_what_has_no_fields_has_no_shape(hint: Any) -> None:
    assert shape_of(hint) is None
