import enum
import logging
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from types import GenericAlias
from typing import Annotated, Any, Generic, Literal, NamedTuple, Optional, TypedDict, TypeVar
from uuid import UUID, uuid4

import attrs
import msgspec
import pydantic
import pytest

from pgbus.codec.payloads import decoder, encode
from pgbus.schema import Field, Fields, parameters_schema, type_schema
from pgbus.schema.fields import signature_fields
from pgbus.schema.generate import DIALECT
from pgbus.schema.validate import make_validator, to_json

T = TypeVar("T")


def schema_of(annotation: Any) -> dict[str, Any]:
    found = type_schema(annotation, title="T")
    assert (found.pop("$schema"), found.pop("title")) == (DIALECT, "T")
    return found


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class User(NamedTuple):
    username: str
    email: str | None = None


class Address(TypedDict, total=False):
    city: str


class Money:
    def __to_bus__(self) -> dict[str, Decimal]:
        return {}


class Price(pydantic.BaseModel):
    amount: Decimal
    colour: Colour = Colour.RED


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (int, {"type": "integer"}),
        (float, {"type": "number"}),
        (bool, {"type": "boolean"}),
        (str, {"type": "string"}),
        (None, {"type": "null"}),
        (Any, {}),
        (object, {}),
        (bytes, {"type": "string", "contentEncoding": "base64"}),
        (complex, {"type": "string"}),
        (UUID, {"type": "string", "format": "uuid"}),
        (Decimal, {"type": "string", "format": "decimal"}),
        (datetime, {"type": "string", "format": "date-time"}),
        (date, {"type": "string", "format": "date"}),
        (int | None, {"anyOf": [{"type": "integer"}, {"type": "null"}]}),
        (Optional[int], {"anyOf": [{"type": "integer"}, {"type": "null"}]}),  # noqa: UP045 - the old spelling
        (Literal["a", "b"], {"type": "string", "enum": ["a", "b"]}),
        (Literal["a", 1], {"enum": [1, "a"]}),
        (list[int], {"type": "array", "items": {"type": "integer"}}),
        (set[str], {"type": "array", "items": {"type": "string"}}),
        (frozenset[str], {"type": "array", "items": {"type": "string"}}),
        (tuple[int, ...], {"type": "array", "items": {"type": "integer"}}),
        (
            tuple[int, str],
            {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "minItems": 2, "maxItems": 2},
        ),
        (dict[str, int], {"type": "object", "additionalProperties": {"type": "integer"}}),
        (dict, {"type": "object"}),
        (Annotated[int, msgspec.Meta(ge=1, lt=9)], {"type": "integer", "minimum": 1, "exclusiveMaximum": 9}),
        (Money, {"type": "object", "additionalProperties": {"type": "string", "format": "decimal"}}),
    ],
)
def test_a_type_has_this_schema(annotation: Any, expected: dict[str, Any]) -> None:
    assert schema_of(annotation) == expected


def test_a_named_tuple_is_an_object() -> None:
    assert schema_of(User) == {
        "type": "object",
        "properties": {
            "username": {"type": "string"},
            "email": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
        },
        "required": ["username"],
    }


def test_classes_are_definitions_and_may_hold_themselves() -> None:
    @attrs.define
    class Part:
        name: str

    @dataclass
    class Order:
        user: User
        colour: Colour
        part: Part
        address: Address
        before: "Order | None" = None

    Order.__annotations__["before"] = Order | None
    found = schema_of(Order)
    assert found["properties"]["before"] == {"anyOf": [{"$ref": "#/$defs/Order"}, {"type": "null"}], "default": None}
    assert found["$defs"]["Colour"] == {"title": "Colour", "type": "string", "enum": ["blue", "red"]}
    assert found["$defs"]["Part"]["required"] == ["name"]
    assert "required" not in found["$defs"]["Address"]
    assert set(found["$defs"]) == {"Order", "Colour", "Part", "Address", "User"}
    assert found["required"] == ["user", "colour", "part", "address"]


def test_a_default_is_told_and_one_from_a_factory_makes_a_field_optional() -> None:
    @dataclass
    class Order:
        lines: list[int] = field(default_factory=list)
        id: UUID = field(default_factory=uuid4)

    found = schema_of(Order)
    assert "required" not in found
    assert found["properties"]["lines"]["default"] == []
    assert "default" not in found["properties"]["id"]


def test_a_struct_keeps_its_names_tag_and_closedness() -> None:
    class Event(msgspec.Struct, tag="e", rename="camel", forbid_unknown_fields=True):
        order_id: int

    assert schema_of(Event) == {
        "type": "object",
        "properties": {"type": {"type": "string", "enum": ["e"]}, "orderId": {"type": "integer"}},
        "required": ["type", "orderId"],
        "additionalProperties": False,
    }


def test_a_struct_that_omits_defaults_does_not_say_that_they_are_sent() -> None:
    class Event(msgspec.Struct, omit_defaults=True):
        note: str = ""

    assert schema_of(Event)["properties"] == {"note": {"type": "string"}}


def test_a_pydantic_model_speaks_for_itself_within_other_classes() -> None:
    class Tree(pydantic.BaseModel):
        price: Price
        children: "list[Tree]" = []

    Tree.model_rebuild(_types_namespace={"Tree": Tree})

    @dataclass
    class Order:
        price: Price
        tree: Tree

    found = schema_of(Order)
    assert found["properties"]["tree"] == {"$ref": "#/$defs/Tree"}
    assert found["$defs"]["Tree"]["properties"]["children"]["items"] == {"$ref": "#/$defs/Tree"}
    assert found["$defs"]["Price"]["required"] == ["amount"]


def test_two_classes_of_one_name_are_two_definitions() -> None:
    def make(kind: Any) -> Any:
        @dataclass
        class Part:
            value: kind

        return Part

    left, right = make(int), make(str)
    right.__qualname__ = "Other.Part"
    found = schema_of(GenericAlias(tuple, (left, right)))
    assert [one["properties"]["value"] for one in found["$defs"].values()] == [{"type": "integer"}, {"type": "string"}]


def test_nothing_is_said_of_an_unknown_class_and_a_warning_is(caplog: pytest.LogCaptureFixture) -> None:
    class Thing:
        pass

    with caplog.at_level(logging.WARNING):
        assert schema_of(Thing) == {}
    assert "`__to_bus__`" in caplog.text


def test_a_docstring_is_no_part_of_the_shape() -> None:
    @dataclass
    class Order:
        """What was ordered."""

        id: int

    class Model(pydantic.BaseModel):
        """What was ordered."""

        id: Annotated[int, pydantic.Field(description="Ours.")]

    assert "description" not in schema_of(Order)
    assert "description" not in schema_of(Model)
    assert schema_of(Model)["properties"]["id"]["description"] == "Ours."


def test_parameters_are_a_closed_object_with_defaults() -> None:
    fields = Fields(
        [
            Field("username"),
            Field("user", User),
            Field("is_admin", bool, False, is_required=False),
        ]
    )
    assert parameters_schema(fields, title="Event auth.user_created parameters") == {
        "$schema": DIALECT,
        "title": "Event auth.user_created parameters",
        "type": "object",
        "properties": {
            "username": {},
            "user": {"$ref": "#/$defs/User"},
            "is_admin": {"type": "boolean", "default": False},
        },
        "required": ["username", "user"],
        "additionalProperties": False,
        "$defs": {"User": schema_of(User) | {"title": "User"}},
    }


def test_a_function_gives_its_named_parameters() -> None:
    def check(a: int, *args: int, b: str = "x", **others: object) -> bool:
        return True

    found = parameters_schema(signature_fields(check, {"a": int, "b": str, "return": bool}), title="T")
    assert found["properties"] == {"a": {"type": "integer"}, "b": {"type": "string", "default": "x"}}
    assert found["required"] == ["a"]
    assert found["additionalProperties"] is True


@dataclass
class Circle:
    radius: float


@dataclass
class Square:
    side: float


@dataclass
class Page(Generic[T]):
    items: list[T]
    next: int | None = None


def test_a_union_of_classes_is_any_of_them() -> None:
    found = schema_of(Circle | Square | None)
    assert found["anyOf"] == [{"$ref": "#/$defs/Circle"}, {"$ref": "#/$defs/Square"}, {"type": "null"}]


def test_a_generic_class_has_a_definition_for_each_argument() -> None:
    found = schema_of(tuple[Page[int], Page[str]])
    assert set(found["$defs"]) == {"Page_int", "Page_str"}
    assert found["$defs"]["Page_int"]["properties"]["items"] == {"type": "array", "items": {"type": "integer"}}


class Sent:
    def __to_bus__(self) -> dict[str, int]:
        return {"n": 1}


SOME_DAY = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (User, User("a")),
        (list[User], [User("a", "b")]),
        (dict[str, User], {"x": User("a")}),
        (tuple[int, ...], (1, 2)),
        (tuple[int, str], (1, "a")),
        (frozenset[int], frozenset({1})),
        (Page[User], Page([User("a")])),
        (Circle | Square, Square(2.0)),
        (Colour, Colour.RED),
        (dict[Colour, int], {Colour.RED: 1}),
        (Sent, Sent()),
        (list[Sent | None], [Sent(), None]),
        (Price, Price(amount=Decimal("1.5"))),
        (Address, {"city": "Rome"}),
        (dict[int, str], {1: "a"}),
        (datetime | None, SOME_DAY),
        (bytes, b"abc"),
        (complex, 1j),
        (Decimal, Decimal("1.50")),
        (UUID, uuid4()),
        (Literal[1, "x"], "x"),
    ],
)
def test_what_is_sent_of_a_type_fits_its_schema(annotation: Any, value: object) -> None:
    schema = type_schema(annotation, title="T")
    assert make_validator(schema)(to_json(value, field="value")) is None
    assert decoder(annotation)(encode(value, limit=1000)) is not None
