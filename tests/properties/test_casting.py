"""Whatever its type, a value comes back from JSON, and from PostgreSQL, as it was."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Generic, Literal, NamedTuple, NewType, TypeAlias, TypedDict, TypeVar
from uuid import UUID

import attrs
import msgspec
import psycopg
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgbus.codec.casting import caster
from pgbus.codec.payloads import decoder, encode
from tests.support import DatabaseServer

LIMIT = 10_000_000


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Point(NamedTuple):
    x: int
    label: str = "here"


class Money:
    def __init__(self, cents: int) -> None:
        self.cents = cents

    def __to_bus__(self) -> list[int]:
        return [self.cents]

    @classmethod
    def __from_bus__(cls, value: list[int]) -> Money:
        return cls(*value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Money) and other.cents == self.cents

    def __hash__(self) -> int:
        return hash(self.cents)


class Options(TypedDict, total=False):
    size: int
    at: Point


@dataclass
class Place:
    name: str
    at: Point
    prices: list[Money] = field(default_factory=list)


@attrs.frozen
class Account:
    owner: Point | None
    balance: Money
    _secret: bytes = b""


class Order(msgspec.Struct, frozen=True):
    lines: tuple[Point, ...]
    colour: Colour = Colour.RED
    total: Decimal | None = None


class Model(pydantic.BaseModel):
    price: Decimal
    notes: list[str] = []


TEXTS = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=8)
NUMBERS = st.integers(-(2**63), 2**63 - 1)
DECIMALS = st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-(10**9), max_value=10**9)
POINTS = st.builds(Point, NUMBERS, TEXTS)
MONEY = st.builds(Money, NUMBERS)

# Types, each with its values.
LEAVES: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (str, TEXTS),
    (int, NUMBERS),
    (float, st.floats(allow_nan=False, allow_infinity=False).filter(lambda number: abs(number) < 1e15)),
    (bool, st.booleans()),
    (bytes, st.binary(max_size=8)),
    (complex, st.complex_numbers(allow_nan=False, allow_infinity=False)),
    (Decimal, DECIMALS),
    (UUID, st.uuids()),
    (Colour, st.sampled_from(Colour)),
    (Literal["a", 1], st.sampled_from(["a", 1])),
    (timedelta, st.timedeltas(timedelta(days=-1000), timedelta(days=1000))),
    (Point, POINTS),
    (Money, MONEY),
    (Options, st.builds(lambda size, at: {"size": size, "at": at}, NUMBERS, POINTS)),
    (Place, st.builds(Place, TEXTS, POINTS, st.lists(MONEY, max_size=2))),
    (Account, st.builds(Account, st.none() | POINTS, MONEY, st.binary(max_size=4))),
    (Order, st.builds(Order, st.lists(POINTS, max_size=2).map(tuple), st.sampled_from(Colour), st.none() | DECIMALS)),
    (Model, st.builds(Model, price=DECIMALS, notes=st.lists(TEXTS, max_size=2))),
]
UNHASHABLE = {"Options", "Place", "Model", "list", "dict", "set"}


def _containers(part: tuple[Any, st.SearchStrategy[Any]]) -> Iterator[tuple[Any, st.SearchStrategy[Any]]]:
    hint: Any
    hint, values = part
    yield _of(list, hint), st.lists(values, max_size=3)
    yield _of(tuple, hint, ...), st.lists(values, max_size=3).map(tuple)
    yield _of(tuple, hint, int), st.tuples(values, NUMBERS)
    yield _of(dict, str, hint), st.dictionaries(TEXTS, values, max_size=3)
    yield hint | None, st.none() | values
    if not any(name in str(hint) for name in UNHASHABLE):
        yield _of(frozenset, hint), st.frozensets(values, max_size=3)


@st.composite
def typed_values(draw: st.DrawFn) -> tuple[Any, Any]:
    """A type and one of its values."""
    part = draw(st.sampled_from(LEAVES))
    for _ in range(draw(st.integers(0, 3))):
        part = draw(st.sampled_from(list(_containers(part))))
    return part[0], draw(part[1])


def same(one: Any, other: Any) -> bool:
    return bool(one == other) and type(one) is type(other)


# What is not quite of its type, by the type: the JSON value, and what it is taken for.
TIMES = st.times().map(lambda at: at.replace(second=0, microsecond=0))
MINUTES = st.datetimes().map(lambda at: at.replace(second=0, microsecond=0))
INSTANTS = st.datetimes(timezones=st.just(UTC) | st.none())
LOOSE: list[tuple[Any, st.SearchStrategy[tuple[Any, Any]]]] = [
    (str, (NUMBERS | st.floats(allow_nan=False, allow_infinity=False)).map(lambda number: (number, str(number)))),
    (int, NUMBERS.map(lambda number: (str(number), number))),
    (float, st.floats(0, 1e9).map(lambda number: (str(number), number))),
    (bool, st.booleans().map(lambda value: (str(value).lower(), value))),
    (date, INSTANTS.map(lambda at: (at.isoformat(), at.date()))),
    (datetime, INSTANTS.map(lambda at: (at.date().isoformat(), datetime.combine(at.date(), time())))),
    (datetime, MINUTES.map(lambda at: (at.isoformat(" ", "minutes"), at))),
    (time, TIMES.map(lambda at: (f"{at:%H:%M}", at))),
]  # fmt: skip

T = TypeVar("T")


@dataclass
class Held(Generic[T]):
    it: T


class HeldByTuple(NamedTuple, Generic[T]):
    it: T


class HeldByStruct(msgspec.Struct, Generic[T]):
    it: T


@attrs.define
class HeldByAttrs(Generic[T]):
    it: T


class HeldByDict(TypedDict, Generic[T]):
    it: T


def _of(container: Any, *hints: Any) -> Any:
    return container[hints]


Maker: TypeAlias = Callable[[Any], Any]

# How a part is held: the type of the whole, the whole of JSON, and the whole as it is taken.
HOLDERS: list[tuple[Callable[[Any], Any], Maker, Maker]] = [
    (lambda hint: _of(list, hint), lambda part: [part], lambda part: [part]),
    (lambda hint: _of(tuple, hint, ...), lambda part: [part, part], lambda part: (part, part)),
    (lambda hint: _of(tuple, int, hint), lambda part: [1, part], lambda part: (1, part)),
    (lambda hint: _of(dict, str, hint), lambda part: {"a": part}, lambda part: {"a": part}),
    (lambda hint: hint | None, lambda part: part, lambda part: part),
    (lambda hint: NewType("Named", hint), lambda part: part, lambda part: part),
    *(
        (lambda hint, cls=cls: cls[hint], lambda part: {"it": part}, lambda part, cls=cls: cls(it=part))
        for cls in (Held, HeldByTuple, HeldByStruct, HeldByAttrs, HeldByDict)
    ),
]


@given(st.data(), st.sampled_from(LOOSE), st.lists(st.sampled_from(HOLDERS), max_size=3))
def test_what_is_taken_leniently_is_taken_so_wherever_it_stands(data: st.DataObject, loose: Any, holders: Any) -> None:
    hint, values = loose
    sent, taken = data.draw(values)
    for hold, hold_sent, hold_taken in holders:
        hint, sent, taken = hold(hint), hold_sent(sent), hold_taken(taken)
    assert same(caster(hint, strict=False)(sent), taken)


@given(st.lists(st.sampled_from(HOLDERS), max_size=2))
def test_none_by_default_comes_back_wherever_its_class_stands(holders: Any) -> None:
    for cls in (Implied, ImpliedByTuple, ImpliedByStruct, ImpliedByAttrs):
        hint: Any = cls
        value: Any = cls()
        for hold, _, hold_taken in holders:
            hint, value = hold(hint), hold_taken(value)
        for decoded in (decoder(hint), lambda text, hint=hint: caster(hint, strict=False)(msgspec.json.decode(text))):
            assert same(decoded(encode(value, limit=LIMIT)), value)


@dataclass
class Implied:
    age: int = None  # type: ignore[assignment] # as people write it
    at: Point = None  # type: ignore[assignment]


class ImpliedByTuple(NamedTuple):
    age: int = None  # type: ignore[assignment]
    at: Implied = None  # type: ignore[assignment]


class ImpliedByStruct(msgspec.Struct):
    age: int = None  # type: ignore[assignment]
    at: list[Point] = None  # type: ignore[assignment]


@attrs.define
class ImpliedByAttrs:
    age: int = None  # type: ignore[assignment]
    at: ImpliedByTuple = None  # type: ignore[assignment]


@given(typed_values())
def test_a_value_of_any_type_comes_back_as_it_was(typed: tuple[Any, Any]) -> None:
    hint, value = typed
    text = encode(value, limit=LIMIT)
    assert same(decoder(hint)(text), value)
    plain = msgspec.json.decode(text)
    assert same(caster(hint)(plain), value)
    assert same(caster(hint, strict=False)(plain), value)
    # It is what was sent, to the letter.
    assert encode(decoder(hint)(text), limit=LIMIT) == text or isinstance(value, frozenset) or "frozenset" in str(hint)


@given(typed_values())
def test_a_value_comes_back_from_within_what_is_not_typed(typed: tuple[Any, Any]) -> None:
    hint, value = typed
    text = encode({"deep": [{"value": value, "other": (Money(1), Point(2))}]}, limit=LIMIT)
    [inner] = msgspec.json.decode(text)["deep"]
    assert same(caster(hint)(inner["value"]), value)
    assert inner["other"] == [[1], {"x": 2, "label": "here"}]


@pytest.fixture(scope="module")
def connection(server: DatabaseServer) -> Iterator[psycopg.Connection]:
    with psycopg.connect(server.dsn, autocommit=True) as opened:
        yield opened


@given(typed=typed_values())
def test_a_value_comes_back_from_postgresql_as_it_was(connection: psycopg.Connection, typed: tuple[Any, Any]) -> None:
    hint, value = typed
    row = connection.execute("SELECT CAST(CAST(%s AS text) AS jsonb)::text", (encode(value, limit=LIMIT),)).fetchone()
    assert row is not None
    assert same(decoder(hint)(row[0]), value)


@given(
    st.recursive(
        st.none() | st.booleans() | NUMBERS | TEXTS, lambda part: st.lists(part) | st.dictionaries(TEXTS, part)
    )
)
def test_plain_values_are_written_as_msgspec_writes_them(value: Any) -> None:
    assert encode(value, limit=LIMIT) == msgspec.json.encode(value).decode()


@given(st.one_of(st.datetimes(timezones=st.just(UTC)), st.dates(), st.times()))
def test_an_instant_a_date_or_a_time_comes_back(value: Any) -> None:
    kind: Any = type(value)
    assert same(decoder(kind)(encode(value, limit=LIMIT)), value)


@given(hint=st.sampled_from([hint for hint, _ in LEAVES]), value=st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS | st.floats(allow_nan=False, allow_infinity=False),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(TEXTS, part, max_size=3),
))  # fmt: skip
def test_whatever_is_given_a_cast_either_makes_the_type_or_raises(hint: Any, value: Any) -> None:
    kind = {Options: dict}.get(hint, hint)
    for strict in (True, False):
        with suppress(Exception):  # of whatever class: constructors raise what they like
            assert_is(caster(hint, strict=strict)(value), kind)


def assert_is(made: object, kind: Any) -> None:
    if isinstance(kind, type) and not isinstance(made, kind):
        pytest.fail(f"{made!r} is no {kind}")  # no Exception, so it is not suppressed
