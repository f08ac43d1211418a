"""Every type that travels: what it is in JSON, and what comes back."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import (
    Annotated,
    Any,
    Final,
    Literal,
    Optional,
    Union,
)
from uuid import UUID

import msgspec
import pytest

from pgbus.codec.casting import caster, explain
from pgbus.codec.payloads import decoder, encode
from pgbus.errors import ConfigurationError, DeformError, InvalidEventError, UnhandledEventError
from pgbus.schema import type_schema
from pgbus.schema.validate import make_validator
from tests.support.values import (
    NOON,
    ONE,
    Account,
    Address,
    Boxed,
    Cat,
    Celsius,
    Checked,
    Colour,
    Customer,
    Dog,
    Line,
    Mixed,
    Model,
    Money,
    OneWay,
    Options,
    Order,
    Pair,
    PlainOrder,
    Point,
    Size,
    User,
    UserId,
)


def coded(value: object) -> str:
    return encode(value, limit=1_000_000)


# ----------------------------------------------------------------------------------------------------- the types of it


# A type, one of its values, and what that is in JSON.
TYPES: list[tuple[Any, Any, str]] = [
    (str, "a", '"a"'),
    (int, 3, "3"),
    (float, 1.5, "1.5"),
    (bool, True, "true"),
    (type(None), None, "null"),
    (Any, {"a": [1, None]}, '{"a":[1,null]}'),
    (object, [1], "[1]"),
    (bytes, b"a", '"YQ=="'),
    (bytearray, bytearray(b"a"), '"YQ=="'),
    (complex, 1 + 2j, '"(1+2j)"'),
    (Decimal, Decimal("1.50"), '"1.50"'),
    (UUID, ONE, '"00000000-0000-0000-0000-000000000001"'),
    (UserId, ONE, '"00000000-0000-0000-0000-000000000001"'),
    (datetime, NOON, '"2026-01-02T12:00:00Z"'),
    (date, date(2026, 1, 2), '"2026-01-02"'),
    (time, time(3, 4), '"03:04:00"'),
    (timedelta, timedelta(days=1, seconds=1.5), '"P1DT1.5S"'),
    (Colour, Colour.RED, '"red"'),
    (Size, Size.SMALL, "1"),
    (Mixed, Mixed.NUMBER, "1"),
    (Mixed, Mixed.TEXT, '"one"'),
    (Mixed, Mixed.PLACE, "[1.5,2]"),
    (Literal["a", 1], "a", '"a"'),
    (Literal[True, "x"], True, "true"),
    (Literal[Colour.RED], Colour.RED, '"red"'),
    (int | None, None, "null"),
    (complex | int | None, 3, "3"),
    (Optional[int], 3, "3"),  # noqa: UP045 - as older programs write it
    (Union[int, str], "a", '"a"'),  # noqa: UP007
    (list[int], [1], "[1]"),
    (Sequence[int], [1], "[1]"),
    (set[int], {1}, "[1]"),
    (frozenset[str], frozenset({"a"}), '["a"]'),
    (tuple[int, ...], (1, 2), "[1,2]"),
    (tuple[int, str], (1, "a"), '[1,"a"]'),
    (dict[str, int], {"a": 1}, '{"a":1}'),
    (dict[UUID, int], {ONE: 1}, '{"00000000-0000-0000-0000-000000000001":1}'),
    (dict[int, Point], {1: Point(1)}, '{"1":{"x":1,"y":7}}'),
    (Mapping[str, Money], {"a b": Money(5)}, '{"a b":"0.05"}'),
    (Point, Point(1, 2), '{"x":1,"y":2}'),
    (Pair, Pair(1, [2]), '{"left":1,"right":[2]}'),
    (Line, Line(Point(1), {"a": [Point(2, 3)]}, Line(Point(4))),
     '{"start":{"x":1,"y":7},"others":{"a":[{"x":2,"y":3}]},"next":{"start":{"x":4,"y":7},"others":{},"next":null}}'),
    (list[Point], [Point(1)], '[{"x":1,"y":7}]'),
    (set[Point], {Point(1)}, '[{"x":1,"y":7}]'),
    (frozenset[Point], frozenset({Point(1)}), '[{"x":1,"y":7}]'),
    (tuple[Point, ...], (Point(1),), '[{"x":1,"y":7}]'),
    (tuple[Point, int], (Point(1), 2), '[{"x":1,"y":7},2]'),
    (Annotated[list[Point], msgspec.Meta(max_length=2)], [Point(1)], '[{"x":1,"y":7}]'),
    (Point | int, 3, "3"),
    (Point | int | None, Point(1), '{"x":1,"y":7}'),
    (Address, Address("Rome"), '{"city":"Rome","at":null}'),
    (Address, Address("Rome", Point(1)), '{"city":"Rome","at":{"x":1,"y":7}}'),
    (User, User("Tom", Address("Rome", Point(1)), ["a"]),
     '{"name":"Tom","address":{"city":"Rome","at":{"x":1,"y":7}},"tags":["a"]}'),
    (Boxed[Point], Boxed(Point(1), [Point(2)]), '{"content":{"x":1,"y":7},"more":[{"x":2,"y":7}]}'),
    (Boxed[int], Boxed(1), '{"content":1,"more":[]}'),
    (Options, {"at": Point(1), "colour": Colour.RED}, '{"at":{"x":1,"y":7},"colour":"red"}'),
    (Order, Order(1, Point(2), Money(150)), '{"orderId":1,"deliverTo":{"x":2,"y":7},"cost":"1.50"}'),
    (PlainOrder, PlainOrder(1), '{"order_id":1}'),
    (Account, Account(Point(1), "s"), '{"owner":{"x":1,"y":7},"_secret":"s","notes":[]}'),
    (Model, Model(price=Decimal("1.5")), '{"price":"1.5","place":null}'),
    (dict[str, Model | None], {"a": Model(price=Decimal(1)), "b": None}, '{"a":{"price":"1","place":null},"b":null}'),
    (Checked, Checked(Path("/a")), '{"path":"/a"}'),
    (Cat | Dog, Dog(2), '{"type":"Dog","tricks":2}'),
    (Address | User, User("Tom", Address("Rome")),
     '{"name":"Tom","address":{"city":"Rome","at":null},"tags":[]}'),
    (Money, Money(199), '"1.99"'),
    (list[Money], [Money(1)], '["0.01"]'),
    (Money | int, 3, "3"),
    (Boxed[Money], Boxed(Money(1)), '{"content":"0.01","more":[]}'),
    (Celsius, Celsius(21.5), "21.5"),
    (dict[str, Celsius | None], {"a": Celsius(1.0), "b": None}, '{"a":1.0,"b":null}'),
    (Boxed[Celsius], Boxed(Celsius(1.0)), '{"content":1.0,"more":[]}'),
    (Customer, Customer(name="Tom", born=date(2000, 1, 2), paid=Money(1)),
     '{"name":"Tom","born":"2000-01-02","paid":"0.01"}'),
]  # fmt: skip


@pytest.mark.parametrize(("hint", "value", "text"), TYPES)
def test_a_value_is_written_and_comes_back_as_it_was(hint: Any, value: Any, text: str) -> None:
    if hint is not Checked:  # pydantic writes what it reads, but only of models
        assert coded(value) == text
    back = decoder(hint)(text)
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize(("hint", "value", "text"), TYPES)
def test_a_value_comes_back_as_a_part_of_whatever(hint: Any, value: Any, text: str) -> None:
    whole = {"a": [value, value]}
    assert decoder(dict[str, list[hint]])(f'{{"a":[{text},{text}]}}') == whole
    if hint is not Checked:
        assert coded(whole) == f'{{"a":[{text},{text}]}}'


@pytest.mark.parametrize(("hint", "value", "text"), TYPES)
def test_casting_of_decoded_values_does_the_same(hint: Any, value: Any, text: str) -> None:
    given = msgspec.json.decode(text)
    assert caster(hint)(given) == value
    assert caster(hint, strict=False)(given) == value


@pytest.mark.parametrize(("hint", "value", "text"), TYPES)
def test_what_is_written_is_what_the_schema_of_the_type_says(hint: Any, value: Any, text: str) -> None:
    validate = make_validator(type_schema(hint, title="a type"))
    assert validate(msgspec.json.decode(text)) is None


# ----------------------------------------------------------------------------------------------------- odds and ends


def test_mappings_of_any_kind_are_objects() -> None:
    assert coded(OrderedDict(a=Point(1))) == '{"a":{"x":1,"y":7}}'
    assert coded(MappingProxyType({"a": 1})) == '{"a":1}'
    assert coded(memoryview(b"a")) == '"YQ=="'


def test_what_fields_hold_takes_its_form_whatever_they_are_annotated_with() -> None:
    assert coded(Boxed[Any]([{"a": (Point(1), Money(1))}])) == '{"content":[{"a":[{"x":1,"y":7},"0.01"]}],"more":[]}'


def test_what_a_subclass_holds_in_a_field_of_its_base_takes_its_form_too() -> None:
    class Base(msgspec.Struct):
        pass

    class Derived(Base):
        at: Point

    @dataclass
    class Holder:
        part: Base

    Holder.__annotations__["part"] = Base
    assert coded(Holder(Derived(Point(1)))) == '{"part":{"at":{"x":1,"y":7}}}'


def test_the_value_itself_is_left_as_it_was() -> None:
    user, order = User("Tom", Address("Rome", Point(1))), Order(1, Point(2), Money(1))
    coded([user, order])
    assert (user.address.at, order.deliver_to, order.cost) == (Point(1), Point(2), Money(1))


def test_a_named_tuple_is_read_from_an_array_too_as_it_was_written_once() -> None:
    assert decoder(Point)("[1,2]") == Point(1, 2)
    assert decoder(list[Point])("[[1]]") == [Point(1, 7)]
    with pytest.raises(UnhandledEventError, match="at most length 2"):
        decoder(Point)("[1,2,3]")


def test_unknown_fields_are_dropped_and_missing_ones_take_their_defaults() -> None:
    assert decoder(Point)('{"x":1,"z":3}') == Point(1, 7)
    assert decoder(User)('{"name":"Tom","address":{"city":"Rome"},"later":1}') == User("Tom", Address("Rome"))
    with pytest.raises(UnhandledEventError, match="missing required field `x`"):
        decoder(Point)('{"y":1}')


def test_of_two_classes_the_one_that_knows_the_fields_is_taken() -> None:
    assert decoder(User | Address)('{"city":"Rome"}') == Address("Rome")
    assert decoder(Address | Boxed[int])('{"content":1}') == Boxed(1)


def test_a_class_with_a_to_bus_alone_arrives_as_what_that_returns() -> None:
    assert coded([OneWay()]) == '["gone"]'
    assert decoder(list[OneWay])('["gone"]') == ["gone"]
    with pytest.raises(UnhandledEventError, match="Expected `str`"):
        decoder(OneWay)("1")


def test_a_value_that_from_bus_could_not_have_cast_gets_there_as_it_is() -> None:
    with pytest.raises(UnhandledEventError):
        decoder(Customer)('{"name":"Tom"}')
    odd = decoder(Customer)('{"name":5,"born":"then","paid":"1"}')
    assert (odd.name, odd.born, odd.paid) == ("5", "then", Money(100))


@pytest.mark.parametrize(
    ("hint", "given", "expected"),
    [
        (int, "1", 1),
        (float, "1.5", 1.5),
        (str, 5, "5"),
        (bool, "false", False),
        (list[Point], [{"x": "1"}], [Point(1)]),
        (Boxed[Point], {"content": {"x": "1"}}, Boxed(Point(1))),
        (Point | int, "3", 3),
    ],
)
def test_lenient_casting_takes_texts_for_numbers(hint: Any, given: object, expected: object) -> None:
    assert caster(hint, strict=False)(given) == expected
    with pytest.raises(ValueError, match="Expected"):
        caster(hint)(given)


@pytest.mark.parametrize(
    ("hint", "given", "expected"),
    [
        (str | int, 5, 5),
        (str | None, 5, "5"),
        (str | None, "null", "null"),
        (int | None, "null", None),
        (date | None, "null", None),
        (date | str, "soon", "soon"),
        (dict[date, str], {"2026-01-02T10:00:00Z": 5}, {date(2026, 1, 2): "5"}),
        (Annotated[str, msgspec.Meta(max_length=2)], 12, "12"),
        (User | Address, {"city": 5}, Address("5")),
        (Cat | Dog, {"type": "Dog", "tricks": "3"}, Dog(3)),
        (datetime, "2026-01-02T10:00+02:00", datetime(2026, 1, 2, 8, tzinfo=UTC)),
        (time, "10:00", time(10)),
    ],
)
def test_lenient_casting_takes_look_alikes(hint: Any, given: object, expected: object) -> None:
    assert caster(hint, strict=False)(given) == expected


@pytest.mark.parametrize(
    ("hint", "given", "place"),
    [
        (str, True, ""),
        (list[str], [[]], "[0]"),
        (Annotated[str, msgspec.Meta(max_length=2)], 123, ""),
        (User, {"name": "a", "address": {"city": None}}, ".address.city"),
        (date, "soon", ""),
        (dict[date, int], {"soon": 1}, " (a key)"),
    ],
)
def test_lenient_casting_refuses_values_of_another_kind(hint: Any, given: object, place: str) -> None:
    with pytest.raises(ValueError, match=r"Expected|Invalid") as refused:
        caster(hint, strict=False)(given)
    assert explain(refused.value)[1] == place


@dataclass
class Implied:
    age: int = None  # type: ignore[assignment] # as people write it
    final: Final[int] = None  # type: ignore[assignment]
    anything: Any = None
    some: Optional[int] = None  # noqa: UP045 - said both ways
    named: UserId = None  # type: ignore[assignment]


def test_a_default_of_none_allows_none_in_a_schema_too() -> None:
    assert decoder(Implied)('{"age":null,"final":null,"named":null}') == Implied()
    check = make_validator(type_schema(Implied, title="Implied"))
    check({"age": None, "final": None, "named": None})
    with pytest.raises(UnhandledEventError, match=r"age: Expected `int \| null`, got `str`"):
        decoder(Implied)('{"age":"1"}')


# -------------------------------------------------------------------------------------------------------- what is wrong


@pytest.mark.parametrize(
    ("hint", "given", "place", "reason"),
    [
        (int, "a", "", "Expected `int`, got `str`"),
        (User, {"name": "Tom", "address": {"city": 5}}, ".address.city", "Expected `str`, got `int`"),
        (User, {"name": "Tom", "address": {"city": "a", "at": {"x": "b"}}}, ".address.at.x", "Expected `int`"),
        (User, {"name": "Tom", "address": {}}, ".address", "missing required field `city`"),
        (list[Point], [{"x": 1}, {"x": None}], "[1].x", "Expected `int`, got `null`"),
        (list[Point], [1], "[0]", "Expected `object`, got `int`"),
        (list[Point], {}, "", "Expected `array`, got `object`"),
        (tuple[Point, int], [{"x": 1}], "", "length 2, got 1"),
        (dict[str, Point], {"a b": {"x": "c"}}, "['a b'].x", "Expected `int`, got `str`"),
        (dict[int, Point], {"a": {"x": 1}}, " (a key)", "Expected `int`, got `str`"),
        (dict[int, int], {"a": 1}, " (a key)", "Expected `int`, got `str`"),
        (Boxed[Money], {"content": 3}, ".content", "no money: 3"),
        (dict[str, list[Money]], {"a": [3]}, "[...][0]", "no money: 3"),
        (dict[str, list[Model]], {"a": [{"price": "x"}]}, "[...][0].price", "should be a valid decimal"),
        (Model | int, {"price": "x"}, ".price", "should be a valid decimal"),
        (Model, {"price": "1", "place": {"x": "y"}}, ".place.x", "should be a valid integer"),
        (Checked, {"path": 3}, ".path", "not a valid path"),
        (complex, "one", "", "malformed string"),
        (complex, True, "", "Expected `str`, got `bool`"),
        (list[Mixed], ["two"], "[0]", "Expected one of"),
        (Mixed, 1.5, "", "Expected one of"),
        (Literal[True], 1, "", "Expected"),
        (Point | int, "x", "", "Expected `object`, got `str`"),
        (Annotated[list[Point], msgspec.Meta(max_length=0)], [{"x": 1}], "", "Expected `array` of length <= 0"),
        (UUID, "x", "", "Invalid UUID"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_the_way_to_the_culprit(
    hint: Any, given: object, place: str, reason: str
) -> None:
    with pytest.raises(Exception) as refused:  # noqa: PT011 - of whatever class
        caster(hint)(given)
    said, where = explain(refused.value)
    assert where == place
    assert reason in said


@pytest.mark.parametrize(
    "hint", [Path, list[Path], dict[str, Path | None], Boxed[Path], tuple[Path, Point], Point | Path]
)
def test_a_class_that_nobody_can_make_is_refused_when_it_is_declared(hint: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot be decoded into .* Path is not a dataclass"):
        decoder(hint)


class Knot:
    def __to_bus__(self) -> Knot:
        return self


class Broken:
    def __to_bus__(self) -> object:
        raise RuntimeError("out of order")


class Bare:
    def __to_bus__(self) -> object:
        return {"inner": [object()]}


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"a": [object()]}, "`a[0]` is of <class 'object'>, which has no JSON form"),
        (Pair(1, {"b": object()}), "`right.b` is of <class 'object'>"),
        ({"a": Broken()}, "`a`: out of order"),
        (Boxed(Broken()), "`content`: out of order"),
        (Boxed(Bare()), "`content.inner[0]` is of <class 'object'>"),
        (Knot(), "nests too deeply, or holds itself"),
        (Pair(float("nan"), 1), "`left` is NaN"),
        (Pair("\x00", 1), "`left` holds a NUL"),
        (Pair(datetime(2026, 1, 1), 1), "`left` is a datetime without a time zone"),  # noqa: DTZ001 - what it is about
    ],
)
def test_what_has_no_json_form_is_a_deform_error_that_says_where(value: object, where: str) -> None:
    with pytest.raises(DeformError) as refused:
        encode(value, limit=1_000, field="user")
    assert refused.value.field == "user"
    assert where in refused.value.reason
    assert isinstance(refused.value, InvalidEventError)


def test_a_list_that_holds_itself_and_a_named_tuple_is_refused() -> None:
    knot: list[object] = [Point(1)]
    knot.append(knot)
    with pytest.raises(DeformError, match="holds itself"):
        coded(knot)
    plain: list[object] = [[1]]
    plain.append(plain)
    with pytest.raises(DeformError, match="holds itself"):
        coded(plain)


def test_a_field_that_the_constructor_does_not_take_comes_back_too() -> None:
    user = User("Tom", Address("Rome", Point(1)))
    user.seen = 3
    assert decoder(User)(coded(user)) == user


def test_a_class_may_have_fields_of_itself() -> None:
    line = Line(Point(1), next=Line(Point(2), next=Line(Point(3))))
    assert decoder(Line)(coded(line)) == line
