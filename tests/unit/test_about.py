"""What is said of declared things, and where it is found."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import pytest

import pgbus
from pgbus import Api, ConfigurationError, Event, about
from pgbus.handlers.about import About, about_of


@about(owner="orders team", description="An order.", links={"runbook": "https://wiki.example/orders"})
@dataclass
class Order:
    id: int


@dataclass
class Silent:
    id: int


class Derived(Order):
    """Of its own.

    And more.
    """


class Packed(msgspec.Struct):
    id: int


class Shop(Api):
    """What nobody asks for: of an API, only `@about` speaks."""

    sold = Event(parameters=("id",))

    class Meta:
        name = "shop"

    @about(description="Sells it.", links={"page": "https://wiki.example/sell"})
    def sell(self, id: int) -> bool:  # noqa: A002
        """Sell."""
        return True

    def count(self) -> int:
        """Count what
        was sold.

        In rows.
        """
        return 0


about(owner="shop team", links={"api": "https://wiki.example/shop"})(Shop)


def test_what_is_said_is_found() -> None:
    assert about_of(Order) == About("orders team", "An order.", {"runbook": "https://wiki.example/orders"})


@pytest.mark.parametrize("declared", [Silent, Packed, lambda event: None, About, object()])
def test_nothing_is_said_by_a_docstring_that_nobody_wrote(declared: object) -> None:
    assert about_of(declared).description == ("" if declared is not About else About.__doc__)


def test_a_subclass_speaks_for_itself() -> None:
    assert about_of(Derived) == About("", "Of its own.", {})


def test_the_events_and_procedures_of_an_api_say_what_it_says_and_more() -> None:
    bus = pgbus.create(dsn="postgresql://nobody@localhost/none")
    bus.client.register_api(Shop())
    said = {one.name: one.about for one in bus.schema.code.declare()}
    api = {"api": "https://wiki.example/shop"}
    assert said["shop.sold"] == About("shop team", "", api)
    assert said["shop.count"] == About("shop team", "Count what was sold.", api)
    assert said["shop.sell"] == About("shop team", "Sells it.", {**api, "page": "https://wiki.example/sell"})


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"owner": "x" * 2001}, "owner must be a string of at most 2,000 characters"),
        ({"description": 5}, "description must be a string"),
        ({"owner": "a\0b"}, "owner must be a string"),
        (
            {"links": {"runbook": "wiki/orders"}},
            r"link 'runbook' must be an http, https or mailto URL, and is: 'wiki/orders'",
        ),
        ({"links": {"": "https://wiki.example"}}, "link '' must be an http"),
        ({"links": {"bad": "javascript:alert(1)"}}, "link 'bad' must be an http"),
    ],
)
def test_what_cannot_be_said_is_refused(given: dict[str, object], complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        about(**given)  # type: ignore[arg-type]
