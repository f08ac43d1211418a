"""What is published, its own class reads as it was; or it is refused, with the name of the field."""

from __future__ import annotations

import dataclasses
from dataclasses import InitVar, dataclass, field
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import attrs
import msgspec
import pydantic
import pydantic.dataclasses
import pytest

from pgbus import Api, Event, Parameter
from pgbus.codec.payloads import encode
from pgbus.config import ApiConfig
from pgbus.errors import (
    ConfigurationError,
    InvalidArguments,
    InvalidEventArguments,
    InvalidEventError,
    InvalidResult,
)
from pgbus.events import event
from pgbus.publishing.outbox import Limits, prepare_many
from pgbus.rpc.procedures import Procedure, make_procedure
from tests.support.losses import comes_back, make, published

# --------------------------------------------------------------------------------- dataclasses, Structs, attrs classes


@dataclass
class Numbered:
    a: int
    number: UUID = field(init=False)

    def __post_init__(self) -> None:
        self.number = uuid4()


@attrs.define
class NumberedByAttrs:
    a: int
    number: UUID = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.number = uuid4()


@dataclass
class Counted:
    a: int
    seen: int = field(default=0, init=False)


class Renamed(msgspec.Struct, rename="camel", omit_defaults=True, forbid_unknown_fields=True, tag=True):
    my_field: int = 3
    other: int = msgspec.field(default=4, name="one-more")


@attrs.define
class Aliased:
    _hidden: int
    shown: int = attrs.field(alias="visible", converter=int)


class Amount(NamedTuple):
    cents: int


ONE = Amount(1)


def seen(value: Counted, times: int) -> Counted:
    value.seen = times
    return value


@pytest.mark.parametrize(
    "value",
    [Numbered(1), NumberedByAttrs(1), seen(Counted(1), 4), Renamed(my_field=9, other=8), Aliased(1, "2")],
    ids=lambda value: type(value).__name__,
)
def test_what_the_constructor_does_not_take_or_calls_otherwise_comes_back(value: Any) -> None:
    event("losses.fields")(type(value))
    assert comes_back(value)


def test_a_class_that_changes_its_fields_each_time_it_is_made_is_refused() -> None:
    @event("losses.taxed")
    @dataclass
    class Taxed:
        price: int

        def __post_init__(self) -> None:
            self.price += 1

    @event("losses.taxed")
    class TaxedStruct(msgspec.Struct):
        price: int

        def __post_init__(self) -> None:
            self.price += 1

    @event("losses.made")
    @dataclass(eq=False)
    class Made:
        price: int
        by: InitVar[int] = 1

        def __post_init__(self, by: int) -> None:
            self.price += by

    @event("losses.converted")
    @attrs.frozen
    class Converted:
        parts: tuple[int, ...]
        text: str = attrs.field(default="a", converter=str)

        def __attrs_post_init__(self) -> None:
            object.__setattr__(self, "parts", (*self.parts, 1))

    for value in (Taxed(1), TaxedStruct(1), Made(1)):
        with pytest.raises(InvalidEventArguments, match="2 would be read as 3") as refused:
            published(value)
        assert refused.value.field == "price"
    with pytest.raises(InvalidEventArguments, match="parts"):
        published(Converted((1,)))
    with pytest.raises(InvalidEventArguments, match="price"):
        prepare_many([Taxed(1)], limits=Limits())


def test_a_class_that_looks_after_its_fields_and_leaves_them_is_taken() -> None:
    @event("losses.lower")
    @dataclass(eq=False)
    class Lowered:
        name: str
        amount: Amount = ONE
        tags: Any = ()
        by: InitVar[str] = "nobody"

        def __post_init__(self, by: str) -> None:
            self.name = self.name.lower()

    assert published(Lowered("TOM", tags=(1, {2}), by="me")) == '{"name":"tom","amount":{"cents":1},"tags":[1,[2]]}'


def test_a_dataclass_that_its_fields_cannot_make_is_refused_when_declared() -> None:
    @dataclass
    class Made:
        a: int
        secret: InitVar[int]

        def __post_init__(self, secret: int) -> None: ...

    with pytest.raises(ConfigurationError, match=r"Made\.secret: .*InitVar"):
        event("losses.made")(Made)


def test_a_class_that_writes_something_else_of_itself_than_it_reads_is_refused() -> None:
    @dataclasses.dataclass
    class Money:
        cents: int

        def __to_bus__(self) -> int:
            return self.cents // 100

        @classmethod
        def __from_bus__(cls, value: int) -> Money:
            return cls(value * 100)

    @event("losses.paid")
    @dataclass
    class Paid:
        money: Any

    Paid.__annotations__["money"] = Money
    assert comes_back(Paid(Money(200)))
    with pytest.raises(InvalidEventArguments, match="250 would be read as 200") as refused:
        published(Paid(Money(250)))
    assert refused.value.field == "money"


def test_a_pydantic_dataclass_that_does_not_read_its_own_names_is_refused() -> None:
    @event("losses.pydantic_dataclass")
    @pydantic.dataclasses.dataclass
    class Checked:
        name: str = pydantic.Field(alias="Name")

    with pytest.raises(InvalidEventArguments, match="Name"):
        published(Checked(Name="Tom"))


# ----------------------------------------------------------------------------------------------- arguments and results


@dataclass
class Doubled:
    number: int

    def __post_init__(self) -> None:
        self.number *= 2


def procedure(handler: Any) -> Procedure:
    return make_procedure("losses.call", handler, concurrency=None, timeout=None, settings=ApiConfig())


def test_arguments_that_would_reach_the_procedure_changed_are_refused() -> None:
    def take(one: Doubled, other: int = 1) -> None: ...

    given: dict[str, object] = {"one": Doubled(1)}
    with pytest.raises(InvalidArguments, match=r"one\.number: 2 would be read as 4") as refused:
        procedure(take).decode.check(encode(given, limit=100), given)
    assert refused.value.path == "one.number"
    procedure(take).decode.check('{"one":{"number":2}}', {"one": {"number": 2}})


def test_a_result_that_the_caller_would_not_get_as_it_is_is_refused() -> None:
    def give() -> list[Doubled]:
        return []

    with pytest.raises(InvalidResult, match=r"\[0\]\.number: 2 would be read as 4"):
        procedure(give).check('[{"number":2}]', [Doubled(1)])


def test_a_procedure_with_an_unreadable_result_type_is_refused_when_declared() -> None:
    model = make(pydantic.SecretStr)

    def give(): ...  # type: ignore[no-untyped-def] # annotated below, with what is made here

    give.__annotations__["return"] = model
    with pytest.raises(ConfigurationError, match=r"losses\.call.*\.inner: a secret"):
        procedure(give)


def test_an_argument_of_an_event_that_its_type_would_not_read_is_refused() -> None:
    class LossesApi(Api):
        happened = Event(parameters=(Parameter("one", Doubled),))

        class Meta:
            name = "losses"

    assert LossesApi.get_event("happened").arguments({"one": {"number": 1}}) == {"one": {"number": 1}}
    with pytest.raises(InvalidEventArguments, match=r"2 would be read as 4") as refused:
        LossesApi.get_event("happened").arguments({"one": Doubled(1)})
    assert isinstance(refused.value, InvalidEventError)
    assert refused.value.field == "one"
