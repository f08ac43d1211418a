"""A condition on the payload finds in PostgreSQL what a plain reading of it finds in Python."""

from __future__ import annotations

import asyncio
import json
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, get_args

import asyncpg
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pgbus.admin import Condition, EventFilter
from pgbus.admin.conditions import Operator, Scalar
from pgbus.database import sql
from pgbus.database.statements.inspection import parameters
from tests.support import DatabaseServer

Path = Sequence[str | int]
Find = Callable[[object, EventFilter], bool]

COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}

numbers = st.integers(-3, 3) | st.sampled_from([0.5, -0.5, 1.0, 0.1, 1e20, 2**53, 2**53 + 1])
texts = st.text("ab é1", max_size=2) | st.sampled_from(["1", "true", "null"])
scalars = st.none() | st.booleans() | numbers | texts
words = st.sampled_from(["a", "b", "a b", "a.b", 'q"'])
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3), max_leaves=8
)
payloads = st.dictionaries(words, values, max_size=4)
paths = st.tuples(words, st.lists(words | st.integers(0, 1) | st.just("*"), max_size=2)).map(lambda p: [p[0], *p[1]])
conditions = st.tuples(paths, st.sampled_from(get_args(Operator)), scalars)


def spell(path: Path) -> str:
    """The path as one would write it."""
    text = ""
    for step in path:
        if isinstance(step, int) or step == "*":
            text += f"[{step}]"
        else:
            text += ("." if text else "") + (step if step.isalpha() else json.dumps(step))
    return text


def reach(value: object, path: Path) -> Iterator[object]:
    """What the path leads to: an array stands for its elements, and what is no array for an array of itself."""
    if not path:
        yield value
        return
    step, rest = path[0], path[1:]
    if isinstance(step, int) or step == "*":
        elements = value if isinstance(value, list) else [value]
        for element in elements if isinstance(step, str) else elements[step : step + 1]:
            yield from reach(element, rest)
        return
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, dict) and step in one:
            yield from reach(one[step], rest)


def holds(found: object, operation: Operator, wanted: Scalar) -> bool:
    """In PostgreSQL's lax mode a filter unwraps what it is applied to, and a comparison what it compares."""
    return any(compares(one, operation, wanted) for element in unwrapped(found) for one in unwrapped(element))


def unwrapped(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def compares(found: object, operation: Operator, wanted: Scalar) -> bool:
    """Numbers are compared as such, also those that no float holds; things of two kinds are only unequal."""
    if isinstance(found, dict | list) or kind(found) != kind(wanted):
        return operation == "!="
    if found is None:
        return operation in ("=", "<=", ">=")
    return COMPARE[operation](exact(found), exact(wanted))


def kind(value: object) -> str:
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


def exact(value: object) -> object:
    return Decimal(str(value)) if kind(value) == "number" else value


@pytest.fixture(scope="module")
def find(server: DatabaseServer) -> Iterator[Find]:
    """Whether PostgreSQL finds an event with this payload, by the expression that `find_events` has."""
    expression = "e.payload @? CAST(:condition AS jsonpath)"
    assert expression in sql.load()["find_events"].text
    query = sql.Statement("find", f"SELECT {expression} FROM (SELECT CAST(:payload AS jsonb) AS payload) AS e")
    loop = asyncio.new_event_loop()
    with server.temporary_database() as dsn:
        connection = loop.run_until_complete(asyncpg.connect(dsn))

        def ask(payload: object, wanted: EventFilter) -> bool:
            values = query.arguments({**parameters(wanted.criteria()), "payload": json.dumps(payload)})
            return bool(loop.run_until_complete(connection.fetchval(query.asyncpg, *values)))

        yield ask
        loop.run_until_complete(connection.close())
    loop.close()


@settings(max_examples=300)
@example(payload={"a": 2**53 + 1}, wanted=[(["a"], "=", float(2**53))])
@example(payload={"a": {"b": "1"}}, wanted=[(["a", "b"], "=", 1)])
@example(payload={"a": [1, 2]}, wanted=[(["a"], ">", 1)])
@example(payload={"a": [[None]]}, wanted=[(["a"], "=", None)])
@given(payload=payloads, wanted=st.lists(conditions, min_size=1, max_size=3))
def test_a_condition_agrees_with_a_reading_in_python(
    find: Find, payload: dict[str, object], wanted: list[tuple[Path, Operator, Scalar]]
) -> None:
    asked = EventFilter(where=tuple(Condition(spell(path), operation, value) for path, operation, value in wanted))
    expected = all(
        any(holds(found, operation, value) for found in reach(payload, path)) for path, operation, value in wanted
    )
    assert find(payload, asked) == expected


@given(path=paths, operation=st.sampled_from(get_args(Operator)), value=scalars)
def test_a_condition_is_read_as_it_is_written(path: Path, operation: Operator, value: Scalar) -> None:
    text = f"{spell(path)}{operation}{json.dumps(value)}"
    assert Condition.parse(text) == Condition(spell(path), operation, value)
