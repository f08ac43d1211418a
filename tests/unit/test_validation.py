"""What an API's settings say of checking and casting, in each direction, for events, arguments and results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import uuid4

import msgspec
import pytest

import pgbus
from pgbus import Event, Parameter, WildcardParameter
from pgbus.api.arguments import NamedArguments
from pgbus.config import ApiConfig
from pgbus.errors import (
    InvalidArguments,
    InvalidEventArguments,
    InvalidResult,
    UnhandledEventError,
    ValidationError,
)
from pgbus.events import event
from pgbus.messages import EventMessage
from pgbus.publishing.outbox import Limits, prepare, prepare_many
from pgbus.rpc.procedures import Procedure, make_procedure
from pgbus.rpc.wire import result_receiver


class Point(NamedTuple):
    x: int
    y: int = 0


@dataclass
class Place:
    name: str
    at: Point


UNCHECKED = ApiConfig(validate_incoming=False)
UNCAST = ApiConfig(cast_values=False)
NEITHER = ApiConfig(validate_incoming=False, cast_values=False)
STRICT = ApiConfig(strict_validation=True)

PLACE = {"name": "home", "at": {"x": 1, "y": 2}}


def handed_over(
    handler: Callable[..., Any], arguments: dict[str, Any], settings: ApiConfig, declared: Event | None = None
) -> Any:
    """What the handler of an event returns for it."""
    asked: list[str] = []

    def settings_of(api_name: str) -> ApiConfig:
        asked.append(api_name)
        return settings

    named = NamedArguments(handler, find_event=lambda topic: declared, settings=settings_of)
    message = EventMessage(topic="geo.moved", raw=msgspec.json.encode(arguments).decode(), event_id=uuid4())
    result = named.call(**{named.signature.event: named.decode(message)})
    assert asked == ["geo"]
    return result


def move(place: Place) -> Any:
    return place


def untyped(place: Any) -> Any:
    return place


# ----------------------------------------------------------------------------------------------------- events, incoming


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (ApiConfig(), Place("home", Point(1, 2))),
        (UNCHECKED, Place("home", Point(1, 2))),
        (UNCAST, PLACE),
        (NEITHER, PLACE),
    ],
)
def test_an_argument_that_fits_is_cast_unless_the_api_says_not_to(settings: ApiConfig, expected: object) -> None:
    assert handed_over(move, {"place": PLACE}, settings) == expected


@pytest.mark.parametrize("settings", [ApiConfig(), UNCAST])
def test_an_argument_that_does_not_fit_is_refused_with_its_path(settings: ApiConfig) -> None:
    with pytest.raises(UnhandledEventError, match=r"'place' does not fit: place\.at\.x: Expected `int`, got `str`"):
        handed_over(move, {"place": {"name": "home", "at": {"x": "one"}}}, settings)


@pytest.mark.parametrize("settings", [UNCHECKED, NEITHER])
def test_an_argument_that_does_not_fit_is_passed_as_it_came_where_nobody_checks(settings: ApiConfig) -> None:
    assert handed_over(move, {"place": {"at": 5}}, settings) == {"at": 5}


def test_a_handler_without_annotations_gets_only_what_the_declared_event_allows() -> None:
    declared = Event(parameters=(Parameter("place", Place),))
    assert handed_over(untyped, {"place": PLACE}, ApiConfig(), declared) == PLACE
    with pytest.raises(UnhandledEventError, match=r"place\.name: Expected `str`, got `int`"):
        handed_over(untyped, {"place": {**PLACE, "name": 5}}, ApiConfig(), declared)
    assert handed_over(untyped, {"place": 5}, UNCHECKED, declared) == 5


def test_the_handlers_own_annotation_comes_before_the_declared_one() -> None:
    def handle(place: dict[str, Any]) -> Any:
        return place

    assert handed_over(handle, {"place": {"name": 5}}, ApiConfig(), Event(parameters=(Parameter("place", Place),)))


def test_defaults_of_the_declared_event_are_cast_as_what_was_sent() -> None:
    declared = Event(parameters=("name", Parameter("at", Point, default=Point(3))))

    def handle(name: str, at: Point) -> Any:
        return at

    assert handed_over(handle, {"name": "a"}, ApiConfig(), declared) == Point(3)
    assert handed_over(handle, {"name": "a"}, UNCAST, declared) == {"x": 3, "y": 0}


def test_strict_validation_refuses_arguments_that_the_event_does_not_declare() -> None:
    def handle(**arguments: Any) -> Any:
        return arguments

    declared = Event(parameters=("name",))
    given = {"name": "a", "later": 1}
    assert handed_over(handle, given, ApiConfig(), declared) == given
    with pytest.raises(UnhandledEventError, match=r"does not have the parameter 'later'.* strict_validation"):
        handed_over(handle, given, STRICT, declared)
    assert handed_over(handle, given, STRICT, Event(parameters=("name", WildcardParameter()))) == given


# ----------------------------------------------------------------------------------------------------- events, outgoing


def test_arguments_are_checked_when_fired_unless_the_api_says_not_to() -> None:
    moved = Event(parameters=(Parameter("place", Place),))
    with pytest.raises(InvalidEventArguments, match=r"^place\.at\.x: Expected `int`, got `str`$") as refused:
        moved.arguments({"place": Place("home", Point("one"))})  # type: ignore[arg-type] # what it is about
    assert (refused.value.field, refused.value.path) == ("place", "place.at.x")
    assert isinstance(refused.value, ValidationError)
    assert moved.arguments({"place": 5}, validate=False) == {"place": 5}
    with pytest.raises(InvalidEventArguments, match="needs this argument"):
        moved.arguments({}, validate=False)


@pytest.mark.parametrize("default", [Point("a"), 5, object()])  # type: ignore[arg-type] # what it is about
def test_a_default_that_is_not_of_the_type_is_refused_when_it_is_declared(default: object) -> None:
    with pytest.raises(pgbus.InvalidApiEventConfiguration, match="the default of parameter at"):
        Parameter("at", Point, default=default)


@event("geo.moved")
class Moved(msgspec.Struct):
    place: Place
    by: str = ""


def test_an_event_of_a_class_is_checked_at_publish_unless_its_api_opts_out() -> None:
    wrong = Moved(Place("home", Point("one")))  # type: ignore[arg-type] # what it is about
    limits = Limits()
    with pytest.raises(InvalidEventArguments, match=r"^place\.at\.x: Expected `int`, got `str`$") as refused:
        prepare(wrong, limits=limits)
    assert refused.value.field == "place"
    with pytest.raises(InvalidEventArguments, match=r"^by: Expected `str`, got `int`"):
        prepare_many([Moved(Place("a", Point(1))), Moved(Place("a", Point(1)), by=5)], limits=limits)  # type: ignore[arg-type]
    assert prepare(Moved(Place("home", Point(1))), limits=limits).payload
    unchecked = Limits(is_checked=lambda api_name: api_name != "geo")
    assert prepare(wrong, limits=unchecked).payload
    assert prepare_many([wrong], limits=unchecked)


def test_an_event_of_a_class_that_can_only_be_sent_is_not_checked() -> None:
    class Opaque:
        def __to_bus__(self) -> object:
            return {"deep": [1]}

    @event("geo.sent")
    @dataclass
    class Sent:
        what: Opaque | list[type]

    assert prepare(Sent(Opaque()), limits=Limits()).payload == '{"what":{"deep":[1]}}'


# ---------------------------------------------------------------------------------------------------------------- calls


def procedure(settings: ApiConfig) -> Procedure:
    async def find(place: Place, limit: int = 3, **rest: Any) -> Point:
        return place.at

    return make_procedure("geo.find", find, concurrency=None, timeout=None, settings=settings)


def written(**arguments: object) -> str:
    return msgspec.json.encode(arguments).decode()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (ApiConfig(), Place("home", Point(1, 2))),
        (UNCHECKED, Place("home", Point(1, 2))),
        (UNCAST, PLACE),
        (NEITHER, PLACE),
    ],
)
def test_arguments_of_calls_are_cast_unless_the_api_says_not_to(settings: ApiConfig, expected: object) -> None:
    assert procedure(settings).decode(written(place=PLACE, more=[1])) == {"place": expected, "more": [1]}


def test_arguments_of_calls_are_checked_unless_the_api_opts_out() -> None:
    wrong = {"place": {"name": "home", "at": {"x": "one"}}, "limit": "4"}
    for settings in (ApiConfig(), UNCAST):
        with pytest.raises(InvalidArguments, match=r"do not fit geo\.find: place\.at\.x: Expected `int`") as refused:
            procedure(settings).decode(written(**wrong))
        assert refused.value.path == "place.at.x"
    assert procedure(UNCHECKED).decode(written(**wrong)) == {**wrong, "limit": 4}
    assert procedure(NEITHER).decode(written(**wrong)) == wrong


def test_the_caller_checks_arguments_unless_the_api_says_not_to() -> None:
    with pytest.raises(InvalidArguments, match=r"limit: Expected `int`, got `str`"):
        procedure(ApiConfig()).decode.check(written(place=PLACE, limit="4"), {})
    procedure(ApiConfig(validate_outgoing=False)).decode.check(written(place=5), {})


def test_the_server_checks_results_unless_the_api_says_not_to() -> None:
    with pytest.raises(
        InvalidResult, match=r"geo\.find returned a value that does not fit its annotation: x: Expected `int`"
    ):
        procedure(ApiConfig()).check('{"x":"one"}', {"x": "one"})
    procedure(ApiConfig(validate_outgoing=False)).check('{"x":"one"}', {"x": "one"})


@pytest.mark.parametrize(
    ("settings", "returns", "expected"),
    [
        (ApiConfig(), Any, Point(1, 0)),
        (UNCHECKED, Any, Point(1, 0)),
        (UNCAST, Any, {"x": 1}),
        (NEITHER, Any, {"x": 1}),
        (ApiConfig(), dict[str, int], {"x": 1}),
        (UNCAST, Point, Point(1, 0)),  # as it was asked for
        (ApiConfig(), object, {"x": 1}),
    ],
)
def test_the_caller_gets_results_of_the_type_that_is_declared_or_asked_for(
    settings: ApiConfig, returns: Any, expected: object
) -> None:
    declared = procedure(settings)
    assert result_receiver("geo.find", returns, declared=declared, settings=settings)('{"x":1}') == expected


def test_a_caller_who_knows_nothing_of_the_procedure_gets_plain_values() -> None:
    assert result_receiver("geo.find", Any, declared=None, settings=ApiConfig())('{"x":1}') == {"x": 1}


def test_the_caller_refuses_results_that_do_not_fit_unless_the_api_says_not_to() -> None:
    wrong = '{"x":"one"}'
    for returns, what in ((Any, "its annotation here"), (Point, "what `returns` asks for")):
        for settings in (ApiConfig(), UNCAST):
            receive = result_receiver("geo.find", returns, declared=procedure(settings), settings=settings)
            with pytest.raises(InvalidResult, match=f"does not fit {what}: x: Expected `int`, got `str`"):
                receive(wrong)
        receive = result_receiver("geo.find", returns, declared=procedure(UNCHECKED), settings=UNCHECKED)
        assert receive(wrong) == {"x": "one"}


# --------------------------------------------------------------------------------------------------------------- errors


def test_every_error_of_a_value_that_does_not_fit_is_a_validation_error() -> None:
    for cls in (InvalidArguments, InvalidResult, InvalidEventArguments):
        assert issubclass(cls, ValidationError)
    assert not issubclass(ValidationError, ValueError)
    both = pgbus.UnsendableArguments("arguments", "`a` is odd", procedure="geo.find")
    assert isinstance(both, pgbus.DeformError | InvalidArguments)
    assert (both.field, both.reason, both.procedure) == ("arguments", "`a` is odd", "geo.find")
    assert str(both) == "the arguments of geo.find cannot be sent: arguments: `a` is odd"
