"""What the comparison lets pass, the validator takes: whatever a writer writes, a reader that is not broken reads."""

import dataclasses
import functools
import itertools
import operator
from types import GenericAlias
from typing import Annotated, Any, Literal

import jsonschema_rs
import msgspec
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pgbus.schema import type_schema
from pgbus.schema.compare import find_breaks

# A type, and the JSON values that a value of it becomes.
Shape = tuple[Any, st.SearchStrategy[Any]]

_numbers = itertools.count()
NAMES = ("a", "b", "c")
LEAVES: list[Shape] = [
    (int, st.integers(-9, 9)),
    (float, st.sampled_from([0.5, -1.25, 2.0])),
    (str, st.text("xy", max_size=3)),
    (bool, st.booleans()),
    (None, st.none()),
    (Literal["x", "y"], st.sampled_from(["x", "y"])),
    (Literal["x"], st.just("x")),
    (Literal[1, "x"], st.sampled_from([1, "x"])),
]


def bounded(low: int, high: int) -> Shape:
    return Annotated[int, msgspec.Meta(ge=low, le=high)], st.integers(low, high)


def lists(inner: Shape) -> Shape:
    return GenericAlias(list, (inner[0],)), st.lists(inner[1], max_size=2)


def mappings(inner: Shape) -> Shape:
    return GenericAlias(dict, (str, inner[0])), st.dictionaries(st.sampled_from(NAMES), inner[1], max_size=2)


def tuples(inner: list[Shape]) -> Shape:
    return GenericAlias(tuple, tuple(one[0] for one in inner)), st.tuples(*(one[1] for one in inner)).map(list)


def unions(inner: list[Shape]) -> Shape:
    return functools.reduce(operator.or_, (optional(one[0]) for one in inner)), st.one_of([one[1] for one in inner])


def optional(annotation: Any) -> Any:
    return type(None) if annotation is None else annotation


def classes(inner: list[tuple[str, Shape, bool]]) -> Shape:
    fields = [(name, shape[0]) for name, shape, has_default in inner if not has_default]
    fields += [(name, shape[0], None) for name, shape, has_default in inner if has_default]  # type: ignore[misc] # both
    # Each by a name of its own: a schema has one definition for each name of a class.
    made = dataclasses.make_dataclass(f"Made{next(_numbers)}", fields)
    return made, st.fixed_dictionaries({name: shape[1] for name, shape, _ in inner})


def composites(inner: st.SearchStrategy[Shape]) -> st.SearchStrategy[Shape]:
    fields = st.lists(
        st.tuples(st.sampled_from(NAMES), inner, st.booleans()), min_size=1, max_size=3, unique_by=lambda one: one[0]
    )
    return st.one_of(
        inner.map(lists),
        inner.map(mappings),
        st.lists(inner, min_size=1, max_size=2).map(tuples),
        st.lists(inner, min_size=2, max_size=3).map(unions),
        fields.map(classes),
        fields.map(classes),
    )


leaves = st.sampled_from(LEAVES)
shapes = st.recursive(leaves, composites, max_leaves=6)
# Apart from the others: msgspec 0.22 crashes at a union of a tuple and a number with limits.
ranges = st.builds(bounded, st.integers(-3, 0), st.integers(0, 3))
constrained = st.one_of(ranges, ranges.map(lists), ranges.map(mappings), leaves.map(lists), leaves.map(mappings))
any_shape = st.one_of(shapes, constrained)


def schema_of(shape: Shape) -> dict[str, Any]:
    try:
        msgspec.inspect.type_info(shape[0])
    except TypeError:  # such as a union of two classes
        assume(False)
    return type_schema(shape[0], title="T")


@settings(max_examples=300)
@given(st.data(), any_shape, any_shape)
def test_a_reader_that_is_not_broken_takes_what_is_written(data: st.DataObject, writer: Shape, reader: Shape) -> None:
    written, read = schema_of(writer), schema_of(reader)
    value = data.draw(writer[1])
    assert jsonschema_rs.is_valid(written, value)
    if find_breaks(written, read, fills_defaults=True) == []:
        assert jsonschema_rs.is_valid(read, value), (writer[0], reader[0], value)


@given(shapes)
def test_a_type_never_breaks_itself(shape: Shape) -> None:
    schema = schema_of(shape)
    assert find_breaks(schema, schema, fills_defaults=True) == []
    assert find_breaks(schema, schema, fills_defaults=False) == []


@given(st.data(), shapes)
def test_a_type_is_not_broken_by_a_wider_one(data: st.DataObject, shape: Shape) -> None:
    """A union with something else takes all that the type does: what passes is not only what is equal."""
    other = data.draw(leaves)
    wider = schema_of(unions([shape, other]))
    narrow = schema_of(shape)
    assert find_breaks(narrow, wider, fills_defaults=True) == []
