"""What breaks a reader, in words."""

import enum
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pydantic
import pytest

from pgbus.schema import Field, Fields, parameters_schema, type_schema
from pgbus.schema.compare import find_breaks


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class LessColour(enum.Enum):
    RED = "red"


@dataclass
class Old:
    id: int
    email: str
    note: str = ""


@dataclass
class More:
    id: int
    email: str
    extra: int
    note: str = ""


@dataclass
class Less:
    id: int


@dataclass
class Renamed:
    id: str
    email: str | None


def event(annotation: Any) -> dict[str, Any]:
    return type_schema(annotation, title="E")


def arguments(*fields: Field, is_open: bool = False) -> dict[str, Any]:
    return parameters_schema(Fields(fields, is_open=is_open), title="P")


def breaks(writer: Any, reader: Any, *, fills_defaults: bool = True) -> list[str]:
    return find_breaks(event(writer), event(reader), fills_defaults=fills_defaults)


@pytest.mark.parametrize(
    ("writer", "reader"),
    [
        (Old, Old),
        (More, Old),
        (int, float),
        (int, int | str),
        (int | None, None | int),
        (LessColour, Colour),
        (Literal["red"], Colour),
        (list[int], list[float]),
        (tuple[int, str], list[int | str]),
        (tuple[int, ...], list[int]),
        (Any, int),
        (str, Any),
        (dict[str, int], dict[str, float]),
        (Old, dict[str, Any]),
        (Old, dict[str, int | str]),
    ],
)
def test_a_reader_takes_what_it_can_hold(writer: Any, reader: Any) -> None:
    assert breaks(writer, reader) == []


@pytest.mark.parametrize(
    ("writer", "reader", "reasons"),
    [
        (Less, Old, ["`email` is needed, and is missing"]),
        (
            Renamed,
            Old,
            [
                "`id` may be a string, and is to be an integer",
                "`email` may be null, and is to be a string",
            ],
        ),
        (float, int, ["the value may be a number, and is to be an integer"]),
        (Colour, LessColour, ["the value may be 'blue', which is not taken"]),
        (str, Colour, ["the value may be any string, and is to be one of 'blue', 'red'"]),
        (list[int | str], list[int], ["`[*]` may be a string, and is to be an integer"]),
        (list[int], tuple[int, int], ["the value is to meet minItems 2, and has 0",
                                      "the value is to meet maxItems 2, and has none"]),
        (dict[str, str], dict[str, int], ["`*` may be a string, and is to be an integer"]),
        (int | str | None, int | None, ["the value may be a string, and is to be an integer or null"]),
    ],
)  # fmt: skip
def test_a_reader_is_broken_by_what_it_cannot_hold(writer: Any, reader: Any, reasons: list[str]) -> None:
    assert breaks(writer, reader) == reasons


def test_an_event_is_sent_with_its_defaults_and_a_call_without() -> None:
    @dataclass
    class Strict:
        id: int
        email: str
        note: str

    assert breaks(Old, Strict) == []
    assert breaks(Old, Strict, fills_defaults=False) == ["`note` is needed, and may be missing"]


def test_a_closed_reader_takes_no_further_field() -> None:
    old, new = arguments(Field("a", int)), arguments(Field("a", int), Field("b", int))
    assert find_breaks(new, old, fills_defaults=True) == ["`b` is sent, and is not taken"]
    assert find_breaks(new, arguments(Field("a", int), is_open=True), fills_defaults=True) == []


def test_a_writer_that_may_send_anything_breaks_a_closed_reader() -> None:
    writer = arguments(Field("a", int), is_open=True)
    assert find_breaks(writer, arguments(Field("a", int)), fills_defaults=True) == [
        "the value may have further fields, which are not taken"
    ]


def test_a_new_optional_argument_breaks_no_caller_and_a_required_one_does() -> None:
    known = arguments(Field("a", int))
    optional = arguments(Field("a", int), Field("b", int, 0, is_required=False))
    required = arguments(Field("a", int), Field("b", int))
    assert find_breaks(known, optional, fills_defaults=False) == []
    assert find_breaks(known, required, fills_defaults=False) == ["`b` is needed, and is missing"]


def test_a_class_that_holds_itself_is_compared_once() -> None:
    def tree(kind: Any) -> Any:
        @dataclass
        class Tree:
            value: kind
            below: Any = None

        Tree.__annotations__["below"] = list[Tree] | None
        Tree.__qualname__ = "Tree"
        return Tree

    assert breaks(tree(int), tree(int)) == []
    assert breaks(tree(int), tree(float)) == []
    assert "`value` may be a string, and is to be an integer" in breaks(tree(str), tree(int))


class Account(pydantic.BaseModel):
    """Who pays."""

    name: Annotated[str, pydantic.Field(min_length=1, max_length=9)]
    age: Annotated[int, pydantic.Field(ge=0)] = 0


class LongAccount(pydantic.BaseModel):
    """Who pays."""

    name: Annotated[str, pydantic.Field(min_length=1, max_length=90)]
    nick: str | None = None


class StrictAccount(Account, extra="forbid"):
    pass


def test_pydantic_models_are_compared_with_their_limits() -> None:
    assert breaks(Account, Account) == []
    assert breaks(LongAccount, Account) == ["`name` is to meet maxLength 9, and has 90"]
    assert breaks(LongAccount, StrictAccount) == [
        "`name` is to meet maxLength 9, and has 90",
        "`nick` is sent, and is not taken",
    ]


def test_a_keyword_that_cannot_be_compared_has_to_be_the_same() -> None:
    reader = {"type": "string", "not": {"const": "x"}}
    assert find_breaks({"type": "string"}, reader, fills_defaults=True) == [
        "the value is to meet 'not', which pgbus cannot compare"
    ]
    assert find_breaks({"enum": ["x"]}, reader, fills_defaults=True) == ["the value may be 'x', which is not taken"]
    assert find_breaks(reader, reader, fills_defaults=True) == []
    assert find_breaks(reader, {"type": "string"}, fills_defaults=True) == []
