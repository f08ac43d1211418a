"""From a handler's signature to how it is called, and from a stored event to what the handler gets."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import uuid4

import asyncpg
import attrs
import msgspec
import psycopg
import pydantic
import pytest
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session

import pgbus
from pgbus.errors import UnhandledEventError
from pgbus.handlers.decoding import EventDecoder
from pgbus.handlers.signatures import Wanted, default_name, describe, inspect_handler
from pgbus.messages import EventMessage
from pgbus.topics import REMEMBERED_TOPICS


@pgbus.event("zoo.animal")
@dataclass
class Animal:
    name: str


@pgbus.event("zoo.dog")
@dataclass
class Dog(Animal):
    trick: str = ""


@pgbus.event("zoo.puppy")
@dataclass
class Puppy(Dog):
    weeks: int = 0


@pgbus.event("zoo.keeper")
class Keeper(msgspec.Struct):
    name: str


@attrs.define
class Plain:
    name: str


class Model(pydantic.BaseModel):
    name: str


def stored(topic: str, payload: object, *, ancestors: Sequence[str] | None = None) -> EventMessage:
    return EventMessage(
        topic=topic,
        raw=json.dumps(payload),
        event_id=uuid4(),
        ancestors=list(ancestors) if ancestors else None,
    )


# ------------------------------------------------------------------------------------------------------- signatures


async def test_each_parameter_is_known_by_its_annotation_whatever_its_name() -> None:
    async def handle(connection: Animal, event: pgbus.Context, context: asyncpg.Connection) -> None: ...

    signature = inspect_handler(handle, batch=False)
    assert (signature.event, signature.context, signature.connection) == ("connection", "event", "context")
    assert (signature.event_type, signature.wanted, signature.is_async) == (
        Animal,
        Wanted("asyncpg", asyncpg.Connection),
        True,
    )


@pytest.mark.parametrize(
    ("annotation", "kind"),
    [
        (asyncpg.Connection, "asyncpg"),
        (asyncpg.pool.PoolConnectionProxy, "asyncpg"),
        (psycopg.AsyncConnection, "psycopg_async"),
        (psycopg.Connection, "psycopg_sync"),
        (AsyncConnection, "sqlalchemy_async_connection"),
        (Connection, "sqlalchemy_sync_connection"),
        (AsyncSession, "sqlalchemy_async"),
        (Session, "sqlalchemy_sync"),
        (type("OwnSession", (Session,), {}), "sqlalchemy_sync"),
    ],
    ids=str,
)
def test_connections_are_known_of_every_kind(annotation: Any, kind: str) -> None:
    async def handle(event: Any, own: Any) -> None: ...

    handle.__annotations__["own"] = annotation
    signature = inspect_handler(handle, batch=False)
    assert (signature.connection, signature.wanted) == ("own", Wanted(kind, annotation))


def test_the_sessionmaker_of_an_annotation_is_known() -> None:
    make_session = async_sessionmaker()

    async def handle(event: Any, own: Any) -> None: ...

    handle.__annotations__["own"] = Annotated[AsyncSession, "not this", make_session]
    assert inspect_handler(handle, batch=False).wanted == Wanted("sqlalchemy_async", AsyncSession, make_session)


def test_methods_partials_and_callables_are_inspected_without_bound_arguments() -> None:
    class Service:
        def method(self, event: Animal) -> None: ...

        async def __call__(self, event: Keeper) -> None: ...

    async def labelled(label: str, event: Animal) -> None: ...

    service = Service()
    assert inspect_handler(service.method, batch=False).event_type is Animal
    assert not inspect_handler(service.method, batch=False).is_async
    assert inspect_handler(service, batch=False).event_type is Keeper
    assert inspect_handler(service, batch=False).is_async
    partial = inspect_handler(functools.partial(labelled, "x"), batch=False)
    assert (partial.event, partial.is_async) == ("event", True)


def test_an_unannotated_parameter_is_the_event() -> None:
    def handle(anything): ...  # type: ignore[no-untyped-def]

    signature = inspect_handler(handle, batch=False)
    assert (signature.event, signature.event_type) == ("anything", None)


def test_parameters_with_defaults_are_left_alone() -> None:
    def handle(event: Animal, retries: int = 3, *args: int, **more: int) -> None: ...

    assert inspect_handler(handle, batch=False).event == "event"


def _two(event: Animal, other: Keeper) -> None: ...


def _none() -> None: ...


def _only_context(context: pgbus.Context) -> None: ...


def _positional(event: Animal, /) -> None: ...


def _unresolved(event: NoSuchName) -> None: ...  # type: ignore[name-defined] # noqa: F821


def _no_list(event: Animal) -> None: ...


@pytest.mark.parametrize(
    ("handler", "message"),
    [
        (_two, "'other'"),
        (_none, "no parameter"),
        (_only_context, "no parameter"),
        (_positional, "positional-only"),
        (_unresolved, "NoSuchName"),
        (7, "a function to call"),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_handler_that_nothing_could_call_is_refused_by_name(handler: Any, message: str) -> None:
    with pytest.raises(pgbus.ConfigurationError, match=message):
        inspect_handler(handler, batch=False)


def test_a_batch_is_a_list_and_its_elements_tell_the_event_type() -> None:
    def listed(events: list[Animal]) -> None: ...

    def sequenced(events: Sequence[Keeper]) -> None: ...

    def bare(events: list) -> None: ...  # type: ignore[type-arg]

    assert inspect_handler(listed, batch=True).event_type is Animal
    assert inspect_handler(sequenced, batch=True).event_type is Keeper
    assert inspect_handler(bare, batch=True).event_type is None
    with pytest.raises(pgbus.ConfigurationError, match="list"):
        inspect_handler(_no_list, batch=True)


def test_the_default_name_is_the_qualified_name() -> None:
    def inner(event: Animal) -> None: ...

    assert default_name(_no_list) == f"{__name__}._no_list"
    assert describe(functools.partial(_no_list)) == f"{__name__}._no_list"
    assert default_name(inner).endswith("test_the_default_name_is_the_qualified_name.inner")


# --------------------------------------------------------------------------------------------------------- decoding


@pytest.mark.parametrize("kind", [Animal, Plain, Model, Keeper], ids=lambda kind: kind.__name__)
def test_a_payload_is_decoded_into_the_annotated_class(kind: Any) -> None:
    decoded = EventDecoder(kind)(stored("zoo.keeper" if kind is Keeper else "zoo.animal", {"name": "x"}))
    assert decoded == kind(name="x")


def test_without_an_annotation_the_listeners_class_says_what_to_decode() -> None:
    assert EventDecoder(None, classes=[Animal])(stored("zoo.animal", {"name": "x"})) == Animal("x")
    assert EventDecoder(None)(stored("zoo.animal", {"name": "x"})) == {"name": "x"}


def test_a_decoder_does_not_keep_a_topic_for_each_event() -> None:
    decode = EventDecoder(None)
    for number in range(REMEMBERED_TOPICS + 1):
        assert decode(stored(f"user.u{number}.moved", 1)) == 1
    assert len(decode._by_topic) == 1


def test_any_and_object_get_plain_values() -> None:
    for annotation in (Any, object):
        assert EventDecoder(annotation, classes=[Animal])(stored("zoo.animal", {"name": "x"})) == {"name": "x"}


def test_the_stored_event_is_passed_as_it_is() -> None:
    event = stored("zoo.animal", {"name": 7})
    assert EventDecoder(EventMessage)(event) is event
    assert EventDecoder(EventMessage, classes=[Animal])(event) is event


def test_a_subclass_is_decoded_into_the_most_derived_class_that_is_known() -> None:
    decode = EventDecoder(Animal)
    puppy = {"name": "p", "trick": "sit", "weeks": 9}
    assert decode(stored("zoo.puppy", puppy, ancestors=["zoo.dog", "zoo.animal"])) == Puppy("p", "sit", 9)
    assert decode(stored("zoo.mongrel", puppy, ancestors=["zoo.dog", "zoo.animal"])) == Dog("p", "sit")
    assert decode(stored("zoo.cat", puppy, ancestors=["zoo.animal"])) == Animal("p")


def test_a_subclass_that_is_defined_later_is_known_too() -> None:
    decode = EventDecoder(Keeper)

    @pgbus.event("zoo.head_keeper")
    class HeadKeeper(Keeper):
        team: int

    decoded = decode(stored("zoo.head_keeper", {"name": "k", "team": 3}, ancestors=["zoo.keeper"]))
    assert decoded == HeadKeeper("k", 3)


def test_a_union_takes_each_of_its_members() -> None:
    decode = EventDecoder(Animal | Keeper)
    assert decode(stored("zoo.animal", {"name": "a"})) == Animal("a")
    assert decode(stored("zoo.keeper", {"name": "k"})) == Keeper("k")


def test_an_event_of_no_known_class_is_unhandled_and_the_error_names_both() -> None:
    with pytest.raises(UnhandledEventError, match=r"zoo\.animal.*zoo\.rock"):
        EventDecoder(Animal)(stored("zoo.rock", {}))


def test_a_payload_that_does_not_fit_is_unhandled_and_the_error_names_the_class() -> None:
    with pytest.raises(UnhandledEventError, match="does not fit Animal"):
        EventDecoder(Animal)(stored("zoo.animal", {"name": 7}))
    with pytest.raises(UnhandledEventError, match="does not fit Model"):
        EventDecoder(Model)(stored("zoo.animal", {}))


def test_a_type_into_which_nothing_can_be_decoded_is_refused_at_once() -> None:
    class Opaque:
        pass

    with pytest.raises(pgbus.ConfigurationError, match="Opaque"):
        EventDecoder(Opaque)
