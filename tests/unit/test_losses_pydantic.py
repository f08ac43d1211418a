"""What is published, its own pydantic model reads as it was; or it is refused, with the name of the field."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID, uuid4

import pydantic
import pydantic.dataclasses
import pytest

from pgbus import Parameter
from pgbus.codec import models
from pgbus.codec.payloads import decoder, encode
from pgbus.errors import (
    ConfigurationError,
    DeformError,
)
from pgbus.events import event
from tests.support.losses import comes_back, make, published


class Colour(enum.Enum):
    RED = "red"


class Line(pydantic.BaseModel):
    sku: str
    price: Decimal = Decimal(1)


class Part(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    width: int

    @pydantic.computed_field  # type: ignore[prop-decorator] # as pydantic says to write it
    @property
    def area(self) -> int:
        return self.width * self.width


@event("losses.model")
class ModelEvent(pydantic.BaseModel):
    id: UUID = UUID(int=1)
    lines: list[Line] = []
    part: Part | None = None
    colour: Colour = Colour.RED
    settings: pydantic.Json[Any] = pydantic.Field(default="{}", validate_default=True)
    user_name: str = pydantic.Field(default="", alias="userName")
    note: str = pydantic.Field(default="", exclude=True)
    either: int | str = 1
    anything: Any = None


# -------------------------------------------------------------------------------------------------- pydantic, read back


@pytest.mark.parametrize(
    "value",
    [
        ModelEvent(),
        ModelEvent(lines=[Line(sku="a")], part=Part(width=3)),
        ModelEvent(settings='{"a": [1, null]}'),
        ModelEvent(userName="Tom"),
        ModelEvent(either="1"),
        ModelEvent(anything={"a": [1]}),
    ],
)
def test_a_model_with_computed_fields_json_and_aliases_comes_back(value: ModelEvent) -> None:
    assert comes_back(value)


def test_computed_fields_are_not_sent_as_their_class_computes_them_again() -> None:
    assert encode(Part(width=3), limit=100) == '{"width":3}'


def test_a_field_that_is_excluded_and_has_a_default_is_left_at_that() -> None:
    assert decoder(ModelEvent)(published(ModelEvent(note="mine"))).note == ""


def test_a_field_of_any_type_comes_back_as_json() -> None:
    assert decoder(ModelEvent)(published(ModelEvent(anything=UUID(int=1)))).anything == str(UUID(int=1))


def test_a_serializer_that_the_model_reads_back_is_taken() -> None:
    @event("losses.secret")
    class Login(pydantic.BaseModel):
        password: pydantic.SecretStr

        @pydantic.field_serializer("password", when_used="json")
        def tell(self, value: pydantic.SecretStr) -> str:
            return value.get_secret_value()

    assert comes_back(Login(password=pydantic.SecretStr("hunter2")))


def test_what_a_model_keeps_for_itself_is_not_looked_at() -> None:
    @event("losses.private")
    class Private(pydantic.BaseModel):
        name: str
        _seen: int = pydantic.PrivateAttr(default_factory=lambda: uuid4().int)

    assert published(Private(name="Tom")) == '{"name":"Tom"}'


def test_a_model_that_may_hold_one_of_a_derived_class_reads_its_own_fields() -> None:
    class Derived(Line):
        size: int = 1

        @pydantic.field_validator("size")
        @classmethod
        def keep(cls, value: int) -> int:
            return value

    @event("losses.holder")
    class Holder(pydantic.BaseModel):
        line: Line
        pair: tuple[Annotated[int, pydantic.Field(gt=0)], Line]

    assert published(Holder(line=Derived(sku="a"), pair=(1, Derived(sku="b"))))


# ------------------------------------------------------------------------------------------- pydantic, refused by class


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (make(int, pydantic.Field(exclude=True)), "excludes it"),
        (make(int, pydantic.Field(validation_alias="in", serialization_alias="out")), "'out', and reads it as 'in'"),
        (make(int, pydantic.Field(validation_alias="in")), "'inner', and reads it as 'in'"),
        (make(int, pydantic.Field(3, serialization_alias="out")), "'out', and reads it as 'inner'"),
        (make(int, pydantic.Field(validation_alias=pydantic.AliasPath("a", 0))), "reads it as a path"),
        (make(int, pydantic.Field(alias="in", serialization_alias="out"), by_name=True), "'in' or 'inner'"),
        (make(pydantic.SecretStr), "asterisks"),
        (make(dict[str, list[pydantic.SecretBytes]]), "asterisks"),
    ],
)
def test_a_model_that_could_never_be_read_back_is_refused_when_it_is_declared(model: Any, reason: str) -> None:
    class Outer(pydantic.BaseModel):
        name: str
        more: list[model]

    class Plain(pydantic.BaseModel):
        name: str

    @dataclass
    class Around:
        more: model | None

    for cls, place in ((model, "inner"), (Outer, "more.inner")):
        with pytest.raises(ConfigurationError, match=rf"losses\.refused.*\.{place}: .*{reason}"):
            event("losses.refused")(cls)
    Around.__annotations__["more"] = model | None
    with pytest.raises(ConfigurationError, match=rf"Around\.inner: .*{reason}"):
        event("losses.refused")(Around)
    with pytest.raises(ConfigurationError, match=reason):
        Parameter("one", Outer)


def test_without_a_declaration_too_it_is_refused_when_it_is_published() -> None:
    hidden = make(pydantic.SecretStr)(inner="hunter2")
    with pytest.raises(DeformError, match=r"`a\[0\].inner`: a secret is sent as asterisks"):
        encode({"a": [hidden]}, limit=100, field="arguments")


@pytest.mark.parametrize(
    "field",
    [
        pydantic.Field(validation_alias=pydantic.AliasChoices("in", "inner")),
        pydantic.Field(alias="in"),
        pydantic.Field(3, exclude=True),
    ],
)
def test_aliases_that_are_read_as_they_are_written_are_taken(field: Any) -> None:
    model = event("losses.aliases")(make(int, field))
    assert comes_back(model.model_construct(inner=3))


# ---------------------------------------------------------------------------------------- pydantic, refused by instance


def test_a_serializer_that_the_model_cannot_read_is_refused_by_field_name() -> None:
    @event("losses.one_way")
    class OneWay(pydantic.BaseModel):
        price: Annotated[Decimal, pydantic.PlainSerializer(lambda value: f"EUR {value}")]

    class Outer(pydantic.BaseModel):
        items: list[OneWay]

    with pytest.raises(DeformError, match=r"`price`: its class could not read it back: Input should be"):
        published(OneWay(price=Decimal(1)))
    with pytest.raises(DeformError, match=r"`a.items\[0\].price`"):
        encode({"a": Outer(items=[OneWay(price=Decimal(1))])}, limit=100)


def test_a_field_that_pydantic_cannot_write_is_named() -> None:
    class Inner(pydantic.BaseModel):
        name: str
        data: bytes

    class Outer(pydantic.BaseModel):
        inner: Inner

    with pytest.raises(DeformError, match=r"`inner\.data`: .*invalid utf-8"):
        encode(Outer(inner=Inner(name="a", data=b"\xff")), limit=100)


def test_a_serializer_or_a_validator_that_changes_the_value_is_refused() -> None:
    @event("losses.rounded")
    class Rounded(pydantic.BaseModel):
        price: float

        @pydantic.field_serializer("price")
        def round(self, value: float) -> float:
            return round(value)

    @event("losses.taxed")
    class Taxed(pydantic.BaseModel):
        price: int

        @pydantic.field_validator("price")
        @classmethod
        def tax(cls, value: int) -> int:
            return value + 1

    assert comes_back(Rounded(price=1.0))
    with pytest.raises(DeformError, match=r"`price`: 1.5 would be read as 2.0"):
        published(Rounded(price=1.5))
    with pytest.raises(DeformError, match=r"`price`: 2 would be read as 3"):
        published(Taxed(price=1))


def test_a_secret_where_nothing_is_annotated_is_refused() -> None:
    with pytest.raises(DeformError, match=r"`anything.a`: a secret is sent as asterisks"):
        published(ModelEvent(anything={"a": pydantic.SecretStr("hunter2")}))


@pytest.mark.filterwarnings("error")
def test_a_field_that_was_assigned_what_it_does_not_take_is_refused() -> None:
    @event("losses.assigned")
    class Assigned(pydantic.BaseModel):
        number: int
        few: list[int] = []
        name: str = "a"
        at_most_3: Annotated[int, pydantic.Field(le=3)] = 1

    assert models._verdict(Assigned).is_plain is False
    for change in ({"number": "x"}, {"few": [None]}, {"name": 5}, {"at_most_3": 4}):
        changed = Assigned(number=1).model_copy(update=change)
        with pytest.raises(DeformError, match=f"`{next(iter(change))}"):
            published(changed)
    plain = Line(sku="a").model_copy(update={"price": "cheap"})
    assert models._verdict(Line).is_plain
    with pytest.raises(DeformError, match=r"`\[0\].price`"):
        encode([plain], limit=100)
    assert encode(Line(sku="a").model_copy(update={"price": 3}), limit=100) == '{"sku":"a","price":3}'
