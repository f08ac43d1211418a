"""Types whose values travel, of every kind and library."""

from __future__ import annotations

import collections
import enum
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import (
    Any,
    Generic,
    NamedTuple,
    NewType,
    NotRequired,
    TypedDict,
    TypeVar,
)
from uuid import UUID

import attrs
import msgspec
import pydantic
import pydantic.dataclasses

T = TypeVar("T")


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Size(enum.IntEnum):
    SMALL = 1


class Mixed(enum.Enum):
    TEXT = "one"
    NUMBER = 1
    YES = True
    PLACE = (1.5, 2)


class Point(NamedTuple):
    x: int
    y: int = 7


class Line(NamedTuple):
    """Holds itself, in a way: named tuples within named tuples, and in containers."""

    start: Point
    others: dict[str, list[Point]] = {}  # noqa: RUF012 - a default of a named tuple
    next: Line | None = None


Pair = collections.namedtuple("Pair", "left right")


@dataclass(frozen=True)
class Address:
    city: str
    at: Point | None = None


@dataclass
class User:
    name: str
    address: Address
    tags: list[str] = field(default_factory=list)
    seen: int = field(default=0, init=False)


@dataclass
class Boxed(Generic[T]):
    content: T
    more: list[T] = field(default_factory=list)


class Money:
    """Not known to msgspec or pydantic; it says itself what it is on the bus."""

    def __init__(self, cents: int) -> None:
        self.cents = cents

    def __to_bus__(self) -> str:
        return f"{self.cents / 100:.2f}"

    @classmethod
    def __from_bus__(cls, value: str) -> Money:
        if not isinstance(value, str):
            raise TypeError(f"no money: {value!r}")
        return cls(round(float(value) * 100))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Money) and other.cents == self.cents

    def __hash__(self) -> int:
        return hash(self.cents)


@dataclass
class Celsius:
    """A dataclass, which msgspec would write as an object, were it not for its methods."""

    degrees: float

    def __to_bus__(self) -> float:
        return self.degrees

    @classmethod
    def __from_bus__(cls, value: float) -> Celsius:
        return cls(value)


class Customer:
    """As on the Lightbus page: annotations, and the values in an object cast to them beforehand."""

    name: str
    born: date
    paid: Money

    def __init__(self, *, name: str, born: date, paid: Money) -> None:
        self.name = name
        self.born = born
        self.paid = paid

    def __to_bus__(self) -> dict[str, object]:
        return {"name": self.name, "born": self.born, "paid": self.paid}

    @classmethod
    def __from_bus__(cls, value: dict[str, Any]) -> Customer:
        return cls(**value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Customer) and vars(other) == vars(self)

    __hash__ = None  # type: ignore[assignment]


class OneWay:
    """Goes out as a text, which is what arrives."""

    def __to_bus__(self) -> str:
        return "gone"


class Options(TypedDict):
    at: Point
    colour: NotRequired[Colour]


class Order(msgspec.Struct, rename="camel"):
    order_id: int
    deliver_to: Point
    cost: Money | None = None


class PlainOrder(msgspec.Struct):
    order_id: int


@attrs.define
class Account:
    owner: Point
    _secret: str
    notes: list[str] = attrs.field(factory=list)


class Model(pydantic.BaseModel):
    price: Decimal
    place: Point | None = None


@pydantic.dataclasses.dataclass
class Checked:
    path: Path


class Cat(msgspec.Struct, tag=True):
    lives: int


class Dog(msgspec.Struct, tag=True):
    tricks: int


UserId = NewType("UserId", UUID)
ONE = UUID(int=1)
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
