"""Event classes, and payloads to JSON text and back."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypedDict, TypeVar
from uuid import UUID

import attrs
import msgspec
import pydantic
import pydantic.dataclasses
import pytest

from pgbus.codec.payloads import decoder, encode
from pgbus.errors import ConfigurationError, InvalidEventError, UnhandledEventError
from pgbus.events import ancestors_of, event, topic_of

NAIVE = datetime(2026, 1, 2, 3, 4, 5)  # noqa: DTZ001 - what it is about
AWARE = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

T = TypeVar("T")


@event("pets.born")
@dataclass
class PetBorn:
    name: str
    born_at: datetime | None = None
    weight: float | None = None
    more: Any = None


@event("cats.born")
@dataclass(slots=True)
class CatBorn(PetBorn):
    lives: int = 9


class StructEvent(msgspec.Struct):
    name: str
    born_at: datetime | None = None
    weight: float | None = None
    more: Any = None


@attrs.define
class AttrsEvent:
    name: str
    born_at: datetime | None = None
    weight: float | None = None
    more: Any = None


class ModelEvent(pydantic.BaseModel):
    name: str
    born_at: datetime | None = None
    weight: float | None = None
    more: Any = None


@pydantic.dataclasses.dataclass
class PydanticDataclassEvent:
    name: str
    born_at: datetime | None = None
    weight: float | None = None
    more: Any = None


KINDS = [PetBorn, CatBorn, StructEvent, AttrsEvent, ModelEvent, PydanticDataclassEvent]


def coded(value: object) -> str:
    return encode(value, limit=1_000_000)


def refusal(value: object) -> str:
    with pytest.raises(InvalidEventError) as refused:
        coded(value)
    assert refused.value.field == "payload"
    return refused.value.reason


# -------------------------------------------------------------------------------------------------------- event classes


def test_a_topic_belongs_to_the_class_that_was_decorated() -> None:
    class Kitten(CatBorn):
        pass

    assert topic_of(PetBorn) == "pets.born"
    assert topic_of(CatBorn) == "cats.born"
    assert topic_of(Kitten) is None
    assert topic_of(dict) is None


def test_ancestors_are_the_topics_of_parents_nearest_first() -> None:
    @event("kittens.born")
    @dataclass
    class Kitten(CatBorn):
        pass

    assert ancestors_of(PetBorn) == ()
    assert ancestors_of(CatBorn) == ("pets.born",)
    assert ancestors_of(Kitten) == ("cats.born", "pets.born")
    assert ancestors_of(dict) == ()


def test_ancestors_of_two_parents_come_once() -> None:
    @event("a")
    class A(msgspec.Struct):
        pass

    @event("b")
    class B(A):
        pass

    @event("c")
    class C(A):
        pass

    @event("d")
    class D(B, C):
        pass

    @event("a")
    class Again(D):
        pass

    assert ancestors_of(D) == ("b", "c", "a")
    assert ancestors_of(Again) == ("d", "b", "c")


@pytest.mark.parametrize("cls", KINDS)
def test_every_kind_of_class_can_be_an_event(cls: type) -> None:
    class Plain(cls):  # type: ignore[misc] # a parameter
        pass

    declared: type = event("kind.tried")(attrs.define(Plain) if cls is AttrsEvent else Plain)
    assert topic_of(declared) == "kind.tried"
    assert decoder(declared)(coded(declared(name="Tom"))) == declared(name="Tom")


def test_a_topic_is_checked_where_the_class_is_defined() -> None:
    with pytest.raises(ConfigurationError, match="is not a topic"):
        event("pets born")
    with pytest.raises(ConfigurationError, match=r"@event\(\"orders\.placed\"\)"):
        event(PetBorn)  # type: ignore[arg-type] # @event without its topic


def test_a_class_without_fields_is_refused_with_the_order_of_decorators() -> None:
    class Plain:
        name: str

    class PlainAttrs(AttrsEvent):
        age: int

    for cls in (Plain, PlainAttrs):
        with pytest.raises(ConfigurationError, match="above that decorator"):
            event("pets.born")(cls)
    with pytest.raises(ConfigurationError):
        event("pets.born")(lambda: None)  # type: ignore[arg-type] # no class


# ------------------------------------------------------------------------------------------------------------- encoding


@pytest.mark.parametrize("cls", KINDS)
def test_an_event_is_encoded_and_decoded(cls: type) -> None:
    value = cls(name="Zoë \N{CAT FACE}", born_at=AWARE, weight=4.5, more={"a": [1, None, True]})
    text = coded(value)
    assert msgspec.json.decode(text)["born_at"] == "2026-01-02T03:04:05Z"
    assert decoder(cls)(text) == value


def test_plain_values_are_encoded() -> None:
    class Color(enum.Enum):
        RED = "red"

    class Point(NamedTuple):
        x: int
        y: int

    class Typed(TypedDict):
        name: str

    assert coded({"a": [1, 2.5, None, True, "x"]}) == '{"a":[1,2.5,null,true,"x"]}'
    assert coded(Typed(name="Tom")) == '{"name":"Tom"}'
    assert coded(Point(1, 2)) == '{"x":1,"y":2}'
    assert coded({1}) == "[1]"
    assert coded([Color.RED, UUID(int=1), Decimal("1.50"), date(2026, 1, 2), time(3, 4), timedelta(1), b"a"]) == (
        '["red","00000000-0000-0000-0000-000000000001","1.50","2026-01-02","03:04:00","P1D","YQ=="]'
    )
    assert coded({1: "a", UUID(int=1): "b"}) == '{"1":"a","00000000-0000-0000-0000-000000000001":"b"}'
    assert coded(10**40) == "1" + "0" * 40


def test_subclasses_of_plain_values_are_encoded_as_those() -> None:
    class Text(str):
        __slots__ = ()

    class Number(float):
        pass

    class Count(int):
        pass

    class Instant(datetime):
        pass

    instant = Instant(2026, 1, 2, tzinfo=UTC)
    assert coded([Text("a"), Number(1.5), Count(3), instant]) == '["a",1.5,3,"2026-01-02T00:00:00+00:00"]'
    assert "time zone" in refusal([Instant(2026, 1, 2)])
    assert "NaN" in refusal([Number("nan")])


def test_a_pydantic_model_may_be_a_part() -> None:
    value = PetBorn("Tom", more=[ModelEvent(name="Kit")])
    assert msgspec.json.decode(coded(value))["more"][0]["name"] == "Kit"


def test_a_pydantic_model_is_written_by_the_names_that_it_reads() -> None:
    class Aliased(pydantic.BaseModel):
        user_name: str = pydantic.Field(alias="userName")

    value = Aliased(userName="Tom")
    assert coded(value) == '{"userName":"Tom"}'
    assert decoder(Aliased)(coded(value)) == value


@pytest.mark.parametrize("cls", KINDS)
@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_json_cannot_say_is_refused(cls: type, number: float) -> None:
    assert "`weight` is NaN or infinite" in refusal(cls(name="Tom", weight=number))
    assert "`more.deep[1]` is NaN or infinite" in refusal(cls(name="Tom", more={"deep": [None, number]}))


def test_a_number_that_json_cannot_say_is_found_beside_what_only_json_knows() -> None:
    assert "`b` is NaN" in refusal({"a": 10**40, "b": math.nan})
    assert coded({"a": 10**40, "b": None}) == '{"a":1' + "0" * 40 + ',"b":null}'


@pytest.mark.parametrize("cls", KINDS)
def test_a_datetime_without_a_time_zone_is_refused(cls: type) -> None:
    assert "`born_at` is a datetime without a time zone" in refusal(cls(name="Tom", born_at=NAIVE))
    assert "`more[0].at`" in refusal(cls(name="Tom", more=[{"at": NAIVE.replace(microsecond=1)}]))


def test_a_datetime_whose_zone_knows_no_offset_is_refused() -> None:
    class Nowhere(tzinfo):
        def utcoffset(self, _: datetime | None) -> None:
            return None

        tzname = dst = utcoffset

    assert "time zone" in refusal([NAIVE.replace(tzinfo=Nowhere())])


def test_a_key_that_is_a_naive_datetime_is_refused() -> None:
    assert "key" in refusal({NAIVE: 1})
    assert coded({AWARE: 1}) == '{"2026-01-02T03:04:05Z":1}'


def test_a_naive_datetime_in_an_enum_is_refused() -> None:
    class When(enum.Enum):
        THEN = NAIVE

    assert "`a`" in refusal({"a": When.THEN})


@pytest.mark.parametrize(
    "value",
    [
        NAIVE.isoformat(),
        [AWARE, AWARE.astimezone(timezone(timedelta(hours=5, minutes=30)))],
        time(1, 2, 3),
        date(2026, 1, 2),
        "T01:02:03",
        '"T01:02:03"',
    ],
)
def test_what_looks_like_a_naive_datetime_and_is_none_passes(value: object) -> None:
    assert coded(value)


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"a": "x\x00"}, "`a`"),
        ({"a": {"b c": ["\x00"]}}, "`a['b c'][0]`"),
        ({"a\x00": 1}, "key 'a\\x00'"),
        ("\\\x00", "the event"),
        ("\\\\\x00", "the event"),
        (PetBorn("\x00"), "`name`"),
        (ModelEvent(name="\x00"), "`name`"),
        (msgspec.Raw(b'"\\u0000"'), "a string"),
    ],
)
def test_a_nul_character_is_refused(value: object, where: str) -> None:
    assert refusal(value).startswith(f"{where} holds a NUL") or f"{where}` holds a NUL" in refusal(value)


@pytest.mark.parametrize("text", ["\\u0000", "\\\\u0000", "u0000", "\\\\\\u0000x"])
def test_what_looks_like_a_nul_character_and_is_none_passes(text: str) -> None:
    assert msgspec.json.decode(coded(text)) == text


def test_a_lone_surrogate_is_refused() -> None:
    assert "`a[0]` holds a lone surrogate" in refusal({"a": ["\ud800"]})
    assert "lone surrogate" in refusal({"\ud800": 1})
    assert "surrogates not allowed" in refusal(ModelEvent.model_construct(name="\ud800"))


def test_an_object_is_refused_with_its_type_and_place() -> None:
    assert "`more.path` is of <class 'pathlib" in refusal(PetBorn("Tom", more={"path": Path()}))
    assert "the event is of <class 'object'>" in refusal(object())
    assert "the event is of <class 'type'>" in refusal(PetBorn)
    assert "`more[1]` has a key of <class 'tuple'>" in refusal(StructEvent("Tom", more=[1, {(1, 2): 3}]))
    assert "Unable to serialize unknown type" in refusal(ModelEvent(name="Tom", more=object()))


def test_an_event_that_holds_itself_is_refused() -> None:
    knot: list[object] = []
    knot.append(knot)
    assert "holds itself" in refusal(knot)


def test_a_deep_event_is_looked_through_all_the_same() -> None:
    deep: object = NAIVE
    for _ in range(800):
        deep = [deep]
    assert "time zone" in refusal(deep)


def test_an_integer_that_python_does_not_write_is_refused() -> None:
    assert "`a`: " in refusal({"a": 10**5000})


def test_the_limit_counts_bytes() -> None:
    assert encode("é", limit=4) == '"é"'
    with pytest.raises(InvalidEventError, match=r"4 bytes .* 3 bytes"):
        encode("é", limit=3)


def test_the_field_is_named_as_told() -> None:
    with pytest.raises(InvalidEventError) as refused:
        encode(object(), limit=10, field="headers")
    assert refused.value.field == "headers"


# ------------------------------------------------------------------------------------------------------------- decoding


@pytest.mark.parametrize("cls", KINDS)
@pytest.mark.parametrize("text", ["{}", '{"name": 5}', "[]", "null", "nonsense", "", '{"name": "a", "born_at": "x"}'])
def test_a_payload_that_does_not_fit_is_unhandled(cls: type, text: str) -> None:
    with pytest.raises(UnhandledEventError, match=f"does not fit {cls.__qualname__}: "):
        decoder(cls)(text)


@pytest.mark.parametrize("cls", KINDS)
def test_fields_that_nobody_knows_are_ignored(cls: type) -> None:
    assert decoder(cls)('{"name": "Tom", "later": 1}') == cls(name="Tom")


def test_a_constructor_that_fails_is_unhandled() -> None:
    @dataclass
    class Strict:
        name: str

        def __post_init__(self) -> None:
            raise KeyError("no")

    with pytest.raises(UnhandledEventError, match="Strict"):
        decoder(Strict)('{"name": "a"}')


def test_any_type_of_msgspec_can_be_decoded_into() -> None:
    assert decoder(Any)('{"a": 1}') == {"a": 1}
    assert decoder(dict[str, int])('{"a": 1}') == {"a": 1}
    assert decoder(list[ModelEvent])('[{"name": "Tom"}]') == [ModelEvent(name="Tom")]
    assert decoder(PetBorn | None)("null") is None
    with pytest.raises(UnhandledEventError, match=r"does not fit dict\[str, int\]"):
        decoder(dict[str, int])('{"a": "b"}')


def test_a_generic_class_can_be_decoded_into() -> None:
    @dataclass
    class Page(Generic[T]):
        items: list[T] = field(default_factory=list)

    assert decoder(Page[int])('{"items": [1]}') == Page([1])
    with pytest.raises(UnhandledEventError):
        decoder(Page[int])('{"items": ["a"]}')


def test_a_type_into_which_nothing_can_be_decoded_is_refused_at_once() -> None:
    class Plain:
        pass

    @dataclass
    class Unresolved:
        name: Missing  # type: ignore[name-defined] # noqa: F821 - what it is about

    for event_type in (Plain, Unresolved, "PetBorn", int | Plain):
        with pytest.raises(ConfigurationError, match="cannot be decoded into"):
            decoder(event_type)


def test_a_decoder_is_made_once() -> None:
    assert decoder(PetBorn) is decoder(PetBorn)
