"""What a listener is declared for, and what its handler is annotated to take, must fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec
import pytest

import pgbus
from pgbus.handlers.decoding import EventDecoder
from pgbus.messages import EventMessage
from tests.unit.test_handlers import stored


@dataclass
class Recorded:
    by: str


@pgbus.event("sales.placed")
@dataclass
class Placed(Recorded):
    order_id: int


@pgbus.event("sales.placed.online")
@dataclass
class PlacedOnline(Placed):
    url: str


@pgbus.event("stock.reserved")
class Reserved(msgspec.Struct):
    order_id: int


@dataclass
class View:
    order_id: int


AnyEvent: TypeAlias = Placed | Reserved


def declare(*events: Any, takes: Any, batch: bool = False) -> pgbus.Bus:
    bus = pgbus.create("postgresql://localhost/nowhere")

    def handle(event: Any) -> None: ...

    handle.__annotations__["event"] = takes
    bus.listener(*events, name="mail", batch=batch)(handle)
    return bus


@pytest.mark.parametrize(
    ("event", "takes"),
    [
        (Placed, Placed),
        (Placed, Recorded),
        (PlacedOnline, Placed),
        (PlacedOnline, Recorded),
        (Placed, Placed | Reserved),
        (Placed, AnyEvent | None),
        (Reserved, AnyEvent),
        (Placed, Any),
        (Placed, object),
        (Placed, EventMessage),
        (Placed, Reserved | EventMessage),
        (Placed, dict[str, Any]),
        (Placed, Reserved | dict[str, Any]),
        (Placed, Mapping[str, Any]),
        (Placed, View),
        ("sales.placed", Placed),
        ("sales.placed.online", Placed),
        ("sales.*", Placed),
        ("**", Reserved),
        ("sales.placed", Reserved | Placed),
        ("sales.placed", View),
        ("sales.placed", list[int]),
        ("sales.placed", int),
        ("stock.*", Reserved | EventMessage),
    ],
)
def test_what_fits_is_declared(event: Any, takes: Any) -> None:
    declare(event, takes=takes)
    declare(event, takes=list[takes], batch=True)


@pytest.mark.parametrize(
    ("event", "takes", "said"),
    [
        (Placed, Reserved, "listener 'mail': the handler takes Reserved, and Placed is not among them"),
        (Placed, PlacedOnline, "takes PlacedOnline, and Placed is not among"),
        (Placed, Reserved | None, "takes Reserved | NoneType, and Placed is not among"),
        (Placed, int, "takes int, and Placed is not among"),
        (Placed, str | list[int], "and Placed is not among"),
        ("sales.placed", Reserved, "takes Reserved, of which no topic that is known here falls under 'sales.placed'"),
        ("sales.*", Reserved, "falls under 'sales.*'"),
        ("sales.placed", PlacedOnline, "falls under 'sales.placed'"),
    ],
)
def test_what_the_handler_would_never_get_is_refused(event: Any, takes: Any, said: str) -> None:
    for annotation, batch in ((takes, False), (list[takes], True)):
        with pytest.raises(pgbus.ConfigurationError) as refused:
            declare(event, takes=annotation, batch=batch)
        assert said in str(refused.value)


@pytest.mark.parametrize("takes", [list[Placed], Sequence[Placed], tuple[Placed, ...], list[Placed | None]])
@pytest.mark.parametrize("event", [Placed, "sales.placed", "sales.**"])
def test_a_list_of_events_needs_batch(event: Any, takes: Any) -> None:
    with pytest.raises(pgbus.ConfigurationError, match="gets one at a time; write batch=True"):
        declare(event, takes=takes)


def test_a_batch_needs_a_list() -> None:
    with pytest.raises(pgbus.ConfigurationError, match="takes a batch: annotate its events as list"):
        declare(Placed, takes=Placed, batch=True)


@pytest.mark.parametrize("takes", [list, list[Placed], Sequence[Placed], Iterable[Placed], Any, object])
def test_a_batch_is_a_list_of_any_spelling(takes: Any) -> None:
    declare(Placed, takes=takes, batch=True)


def test_each_of_several_events_has_to_fit() -> None:
    with pytest.raises(pgbus.ConfigurationError, match="Reserved is not among them"):
        declare(Placed, Reserved, takes=Placed)
    declare(Placed, Reserved, takes=AnyEvent)


def test_a_class_without_a_topic_is_decoded_as_its_declared_subclass() -> None:
    decode = EventDecoder(Recorded, classes=[Placed])
    assert decode(stored("sales.placed", {"by": "a", "order_id": 1})) == Placed("a", 1)


def test_what_no_event_class_of_a_union_takes_goes_to_its_other_types() -> None:
    decode = EventDecoder(Reserved | dict[str, int] | None)
    assert decode(stored("stock.reserved", {"order_id": 1})) == Reserved(1)
    assert decode(stored("sales.placed", {"order_id": 1})) == {"order_id": 1}
    message = stored("sales.placed", {"order_id": 1})
    assert EventDecoder(Reserved | EventMessage)(message) is message
