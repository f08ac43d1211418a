"""Types that have parts of their own kind: of events, arguments and results, and their schemas."""

from __future__ import annotations

import json
import sys
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple, Optional, TypeAlias, TypedDict, get_type_hints

import pytest

import pgbus
from pgbus.codec.casting import caster
from pgbus.codec.payloads import decoder, encode
from pgbus.handlers.decoding import EventDecoder
from pgbus.schema import type_schema


@dataclass
class Tree:
    name: str
    children: list[Tree]


class Link(NamedTuple):
    n: int
    rest: Optional[Link] = None  # noqa: UP045 - as it may be written


class Options(TypedDict, total=False):
    within: Options


@pytest.mark.parametrize(
    ("cls", "value"),
    [
        (Tree, Tree("a", [Tree("b", [])])),
        (Link, Link(1, Link(2))),
        (Options, {"within": {"within": {}}}),
    ],
)
def test_a_class_that_holds_itself_is_read_as_it_was_sent(cls: Any, value: object) -> None:
    sent = encode(value, limit=1000)
    assert decoder(cls)(sent) == value
    assert caster(cls, strict=False)(json.loads(sent)) == value
    assert "$ref" in json.dumps(type_schema(cls, title="it"))


Chain: TypeAlias = "list[Chain] | int"


def test_an_alias_without_a_statement_is_refused_with_what_to_write() -> None:
    bus = pgbus.create("postgresql://localhost/nowhere")

    def handle(it: Chain) -> None: ...

    with pytest.raises(pgbus.ConfigurationError, match="stands within itself; write it with a `type` statement"):
        bus.listener("a.b")(handle)
    assert type_schema(get_type_hints(handle)["it"], title="it")["title"] == "it"


def test_a_batch_or_an_event_may_be_a_typed_dict() -> None:
    bus = pgbus.create("postgresql://localhost/nowhere")

    @bus.listener("a.b")
    def one(event: Options) -> None: ...

    @bus.listener("a.b", batch=True)
    def several(events: Sequence[Options]) -> None: ...

    with pytest.raises(pgbus.ConfigurationError, match="takes a batch: annotate its events as list"):
        bus.listener("a.b", batch=True, name="wrong")(one)  # type: ignore[type-var] # that is the point


# `type X = ...` is of Python 3.12.
ALIASES = """
from dataclasses import dataclass

type Json = dict[str, Json] | list[Json] | str | int | bool | None
type Nested[T] = list[Nested[T]] | T
type Circle = Circle | int
type Other = Another | int
type Another = Other | str


@dataclass
class Document:
    title: str
    body: Json
"""


@pytest.fixture(scope="module")
def aliases() -> Iterator[dict[str, Any]]:
    if not hasattr(typing, "TypeAliasType"):
        pytest.skip("there are no `type` statements")
    # Older Pythons could not read the file; and annotations there are no strings.
    module = sys.modules["aliases"] = ModuleType("aliases")
    exec(compile(ALIASES, "aliases.py", "exec", dont_inherit=True), module.__dict__)
    yield module.__dict__
    del sys.modules["aliases"]


def test_an_alias_may_have_parts_of_its_own_kind(aliases: dict[str, Any]) -> None:
    read = decoder(aliases["Json"])
    for text in ('{"a":[1,"b",{"c":null}]}', "[[[true]]]", '"x"', "null"):
        assert read(text) == json.loads(text)
        assert caster(aliases["Json"], strict=False)(json.loads(text)) == json.loads(text)
    with pytest.raises(pgbus.UnhandledEventError):
        read("[1.5]")


def test_an_alias_may_have_parameters(aliases: dict[str, Any]) -> None:
    read = decoder(aliases["Nested"][int])
    assert read("[1,[2,[3]]]") == [1, [2, [3]]]
    with pytest.raises(pgbus.UnhandledEventError):
        read('[1,["x"]]')


def test_a_field_may_be_of_such_an_alias(aliases: dict[str, Any]) -> None:
    cls = aliases["Document"]
    document = cls("x", {"a": [1, None]})
    assert decoder(cls)(encode(document, limit=1000)) == document


def test_a_schema_refers_to_such_an_alias(aliases: dict[str, Any]) -> None:
    schema = type_schema(aliases["Json"], title="it")
    assert schema["anyOf"][0] == {"type": "object", "additionalProperties": {"$ref": "#/$defs/Json"}}
    assert schema["$defs"]["Json"]["anyOf"] == schema["anyOf"]
    body = type_schema(aliases["Document"], title="it")["properties"]["body"]
    assert body == {"$ref": "#/$defs/Json"}
    assert "Nested_int" in type_schema(aliases["Nested"][int], title="it")["$defs"]


def test_listeners_procedures_and_events_take_such_aliases(aliases: dict[str, Any]) -> None:
    bus = pgbus.create("postgresql://localhost/nowhere")
    for name in ("Json", "Document"):

        def handle(it: Any) -> None: ...

        handle.__annotations__["it"] = aliases[name]
        bus.listener("a.b", name=name)(handle)
        bus.listener("a.b", name=f"{name}s", batch=True)(_listed(handle, aliases[name]))
        bus.a.b.listen(handle, listener_name=f"{name} by name")
        bus.procedure(f"a.{name}")(handle)
        pgbus.Parameter("it", aliases[name])
    assert EventDecoder(aliases["Json"]).reads("a.b") is aliases["Json"]


def _listed(handle: Any, kind: Any) -> Any:
    def handle_list(it: Any) -> None: ...

    handle_list.__annotations__["it"] = list[kind]
    return handle_list


@pytest.mark.parametrize("name", ["Circle", "Other"])
def test_an_alias_that_is_a_member_of_itself_is_refused(aliases: dict[str, Any], name: str) -> None:
    bus = pgbus.create("postgresql://localhost/nowhere")

    def handle(it: Any) -> None: ...

    handle.__annotations__["it"] = aliases[name]
    for declare in (bus.listener("a.b", name="x"), bus.procedure("a.b"), bus.a.b.listen):
        with pytest.raises(pgbus.ConfigurationError, match=f"{name} is a member of itself"):
            declare(handle)
    with pytest.raises(pgbus.ConfigurationError, match=f"{name} is a member of itself"):
        pgbus.Parameter("it", aliases[name])
