"""What a handler that takes arguments by name is called with."""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID, uuid4

import msgspec
import pytest
from pydantic import BaseModel

import pgbus
from pgbus import Event, Parameter, WildcardParameter
from pgbus.api.arguments import NamedArguments
from pgbus.errors import UnhandledEventError
from pgbus.messages import EventMessage


def message(**arguments: object) -> EventMessage:
    return EventMessage(topic="auth.user_created", raw=msgspec.json.encode(arguments).decode(), event_id=uuid4())


def call(handler: Callable[..., Any], event: EventMessage, declared: Event | None = None) -> Any:
    named = NamedArguments(handler, find_event=lambda topic: declared)
    given: dict[str, Any] = {named.signature.event: named.decode(event)}
    return named.call(**given)


# ---------------------------------------------------------------------------------------- with and without the message


class Service:
    def handle(self, event: Any, username: str) -> tuple[Any, str]:
        return event, username

    def __call__(self, username: str) -> str:
        return username


def test_a_handler_may_take_the_arguments_alone() -> None:
    assert call(lambda username, email: (username, email), message(username="adam", email="x")) == ("adam", "x")


def test_a_first_parameter_that_the_event_does_not_have_gets_the_message() -> None:
    event = message(username="adam")
    assert call(lambda event_message, username: (event_message, username), event) == (event, "adam")
    assert call(Service().handle, event) == (event, "adam")
    assert call(lambda event_message, **rest: (event_message, rest), event) == (event, {"username": "adam"})
    assert call(lambda event_message, /, username: (event_message, username), event) == (event, "adam")
    assert call(lambda *args, **rest: (args, rest), event) == ((event,), {"username": "adam"})


def test_a_first_parameter_that_the_event_has_gets_its_argument() -> None:
    assert call(lambda event, other: (event, other), message(event="e", other="o")) == ("e", "o")


def test_a_parameter_annotated_as_the_message_gets_it() -> None:
    def handle(event: EventMessage, username: str) -> EventMessage:
        return event

    event = message(username="adam")
    assert call(handle, event) is event


def test_objects_partials_and_methods_are_handlers() -> None:
    event = message(username="adam")
    assert call(Service(), event) == "adam"
    assert call(functools.partial(lambda extra, username: (extra, username), extra=1), event) == (1, "adam")


def test_a_parameter_with_a_default_may_be_absent() -> None:
    assert call(lambda username, email="none": (username, email), message(username="adam")) == ("adam", "none")


def test_defaults_of_the_declared_event_are_filled_in_for_older_events() -> None:
    declared = Event(parameters=("username", Parameter("is_admin", bool, default=True)))
    assert call(lambda username, is_admin: (username, is_admin), message(username="adam"), declared) == ("adam", True)


# ------------------------------------------------------------------------------------------------- what does not fit


@pytest.mark.parametrize(
    ("handler", "complaint"),
    [
        (lambda username, email: None, "the event has no 'email' and the handler has no parameter 'new_email'"),
        (lambda message, username: None, "the handler has no parameter 'new_email'"),
        (lambda: None, "the handler has no parameter 'username', 'new_email'"),
    ],
)
def test_a_handler_that_does_not_fit_is_told_so_by_name(handler: Callable[..., Any], complaint: str) -> None:
    with pytest.raises(UnhandledEventError, match=complaint):
        call(handler, message(username="adam", new_email="x"))


def test_an_annotated_parameter_is_not_taken_for_the_message() -> None:
    def handle(user: str, email: str) -> None: ...

    with pytest.raises(UnhandledEventError, match="the event has no 'user'"):
        call(handle, message(email="x"))


def test_a_payload_that_is_no_object_does_not_fit() -> None:
    event = EventMessage(topic="auth.x", raw="[1]", event_id=uuid4())
    with pytest.raises(UnhandledEventError, match="not a JSON object"):
        call(lambda **rest: rest, event)


@pytest.mark.parametrize("handler", [None, "handle", lambda event, username, /: None])
def test_what_cannot_be_called_by_name_is_refused(handler: Any) -> None:
    with pytest.raises(pgbus.InvalidEventListener):
        NamedArguments(handler, find_event=lambda topic: None)


def test_a_handler_is_checked_against_a_declared_event() -> None:
    named = NamedArguments(lambda username: None, find_event=lambda topic: None)
    named.check(Event(parameters=("username")), topic="auth.user_deleted")
    with pytest.raises(pgbus.InvalidEventListener, match=r"cannot listen to auth\.user_created: .* 'email'"):
        named.check(Event(parameters=("username", "email")), topic="auth.user_created")
    named.check(Event(parameters=(WildcardParameter(),)), topic="auth.anything")


# -------------------------------------------------------------------------------------------------------------- casting


class Colour(enum.Enum):
    RED = "red"


@dataclass
class User:
    name: str
    age: int = 1


class Model(BaseModel):
    price: Decimal


class Custom:
    def __init__(self, text: str) -> None:
        self.text = text

    @classmethod
    def __from_bus__(cls, value: str) -> Custom:
        return cls(value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Custom) and other.text == self.text

    __hash__ = None  # type: ignore[assignment]


class Opaque: ...


UUID_TEXT = "0190f3a0-0000-7000-8000-000000000000"


@pytest.mark.parametrize(
    ("hint", "given", "expected"),
    [
        (int, "1", 1),
        (bool, "false", False),
        (float, 1, 1.0),
        (Decimal, "1.5", Decimal("1.5")),
        (datetime, "2025-01-01T00:00:00", datetime(2025, 1, 1)),  # noqa: DTZ001 - as it was sent
        (UUID, UUID_TEXT, UUID(UUID_TEXT)),
        (Colour, "red", Colour.RED),
        (User, {"name": "adam"}, User("adam")),
        (list[User], [{"name": "adam", "age": "3"}], [User("adam", 3)]),
        (set[int], [1, 1], {1}),
        (tuple[int, ...], [1, 2, 3], (1, 2, 3)),
        (Literal["a"], "a", "a"),
        (int | None, None, None),
        (int, None, None),
        (dict[str, int], {"a": "1"}, {"a": 1}),
        (Model, {"price": "1.5"}, Model(price=Decimal("1.5"))),
        (list[Model], [{"price": "1.5"}], [Model(price=Decimal("1.5"))]),
        (Custom, "x", Custom("x")),
        (Opaque, {"a": 1}, {"a": 1}),
        (Any, {"a": 1}, {"a": 1}),
    ],
)
def test_an_argument_is_cast_to_its_annotation(hint: Any, given: object, expected: object) -> None:
    def handle(value: Any) -> Any:
        return value

    handle.__annotations__["value"] = hint
    result = call(handle, message(value=given))
    assert result == expected
    assert type(result) is type(expected)


def test_an_argument_that_cannot_be_cast_is_named() -> None:
    def handle(when: datetime) -> None: ...

    with pytest.raises(UnhandledEventError, match="its argument 'when' does not fit"):
        call(handle, message(when="yesterday"))
