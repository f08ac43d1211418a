"""Who counts, and what is said: declarations against what is stored."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pgbus.schema import Declaration, Field, Fields, Stored, parameters_schema, type_schema
from pgbus.schema.compatibility import ANY_LISTENER, find_broken, find_changes
from pgbus.schema.publication import hashed

LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Old:
    id: int
    email: str


@dataclass
class New:
    id: int


def event(cls: type = New, name: str = "shop.placed", **options: Any) -> Declaration:
    return Declaration("event", name, {"parameters": type_schema(cls, title="E")}, **options)


def stored_event(cls: type = Old, name: str = "shop.placed", **options: Any) -> Stored:
    return Stored(kind="event", name=name, schema={"parameters": type_schema(cls, title="E")}, **options)


def listener(pattern: str = "shop.placed", reads: Any = Old, **options: Any) -> Stored:
    schema = {} if reads is Any else type_schema(reads, title="L")
    return Stored(kind="listener", name="mail", schema={"events": {pattern: schema}}, **options)


def procedure_schema(*fields: Field, returns: Any = bool) -> dict[str, Any]:
    return {"parameters": parameters_schema(Fields(fields), title="P"), "response": type_schema(returns, title="R")}


def procedure(*fields: Field, returns: Any = bool, name: str = "auth.check") -> Declaration:
    return Declaration("procedure", name, procedure_schema(*fields, returns=returns))


def stored_procedure(*fields: Field, returns: Any = bool, name: str = "auth.check", **options: Any) -> Stored:
    return Stored(kind="procedure", name=name, schema=procedure_schema(*fields, returns=returns), **options)


def words(*arguments: Any, **options: Any) -> list[str]:
    return [str(one) for one in find_broken(*arguments, **options)]


BROKEN = ["event shop.placed would break listener mail: `email` is needed, and is missing"]


@pytest.mark.parametrize("pattern", ["shop.placed", "shop.*", "**"])
def test_an_event_breaks_a_listener_that_hears_it_under_a_pattern(pattern: str) -> None:
    assert words([event()], [listener(pattern)]) == BROKEN


def test_an_event_breaks_no_listener_of_others_nor_one_that_was_removed() -> None:
    assert words([event()], [listener("shop.paid"), listener(is_registered=False)]) == []


def test_an_event_class_breaks_a_listener_of_its_parent() -> None:
    assert words([event(ancestors=("shop.any",))], [listener("shop.any")]) == BROKEN


def test_a_listener_that_is_down_counts_by_its_last_version() -> None:
    newest: dict[str, Any] = {"version": 2, "is_live": False, "published_at": LONG_AGO + timedelta(days=1)}
    oldest: dict[str, Any] = {"version": 1, "is_live": False, "published_at": LONG_AGO}
    assert words([event()], [listener(**newest)]) == BROKEN
    assert words([event()], [listener(**oldest), listener(reads=New, **newest)]) == []
    assert words([event()], [listener(**{**oldest, "is_live": True}), listener(reads=New, **newest)]) == BROKEN


def test_a_listener_that_takes_anything_is_held_to_the_events_so_far() -> None:
    assert words([event()], [listener(reads=Any)]) == []
    assert words([event()], [listener(reads=Any), stored_event()]) == BROKEN
    assert words([event(Old)], [listener(reads=Any), stored_event(New)]) == []


def test_a_file_stands_for_the_listeners_that_it_does_not_know() -> None:
    assert words([event()], [stored_event(), ANY_LISTENER]) == [
        "event shop.placed would break its listeners: `email` is needed, and is missing"
    ]


def test_a_procedure_breaks_callers_by_its_parameters_and_by_its_result() -> None:
    old = stored_procedure(Field("name", str), returns=int, version=3)
    new = procedure(Field("name", str), Field("code", int), returns=float)
    [found] = find_broken([new], [old])
    assert found.whom == "callers that know its version 3"
    assert found.reasons == (
        "`code` is needed, and is missing",
        "in the result, the value may be a number, and is to be an integer",
    )
    assert words([procedure(Field("name", str | None), returns=int)], [old]) == []


def test_a_procedure_that_is_served_no_more_is_missed() -> None:
    stored = [stored_procedure(), stored_procedure(name="auth.gone"), stored_procedure(name="pay.gone", service="pay")]
    assert words([procedure()], stored) == ["procedure auth.gone would break its callers: it is not served any more"]
    [found] = find_broken(
        [procedure()], [*stored, stored_procedure(name="auth.theirs", service="auth")], service="pay"
    )[1:]
    assert found.name == "pay.gone"
    assert words([event(name="auth.created")], stored) == []
    assert find_broken([procedure()], stored, service="pay", with_missing=False) == []


def test_changes_name_what_came_went_and_is_another_now() -> None:
    stored = [
        stored_event(),
        stored_procedure(Field("name", str), name="auth.gone"),
        stored_procedure(Field("name", str)),
        stored_procedure(name="pay.order", service="pay"),
    ]
    declared = [event(), procedure(Field("name", int), returns=str), procedure(name="auth.new")]
    found = {change.name: change for change in find_changes(declared, stored)}
    assert {name: change.change for name, change in found.items()} == {
        "shop.placed": "changed",
        "auth.check": "changed",
        "auth.new": "added",
        "auth.gone": "removed",
    }
    assert found["shop.placed"].details == ("- email: string",)
    assert found["auth.check"].details == ("~ name: string -> integer", "~ response: boolean -> string")


def test_what_is_the_same_is_no_change_whatever_the_order_of_its_keys() -> None:
    declared = procedure(Field("a", int), Field("b", int))
    turned = {part: dict(reversed(schema.items())) for part, schema in declared.schema.items()}
    stored = Stored(kind="procedure", name="auth.check", schema=turned)
    assert find_changes([declared], [stored]) == []
    assert hashed(Declaration("procedure", "auth.check", turned)).hash == hashed(declared).hash
