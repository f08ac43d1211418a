from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgbus.admin import Condition
from pgbus.admin.conditions import combine


@pytest.mark.parametrize(
    ("text", "path", "operator", "value"),
    [
        ("name=adam", "name", "=", "adam"),
        ("customer.age >= 18", "customer.age", ">=", 18),
        ("price<1.5", "price", "<", 1.5),
        ("active!=true", "active", "!=", True),
        ("gone = null", "gone", "=", None),
        ('id="7"', "id", "=", "7"),
        ("name=", "name", "=", ""),
        ("formula=a<=b", "formula", "=", "a<=b"),
        ('"a=b".c=1', '"a=b".c', "=", 1),
        ("items[*].sku=x y", "items[*].sku", "=", "x y"),
    ],
)
def test_a_condition_is_read_from_text(text: str, path: str, operator: str, value: object) -> None:
    condition = Condition.parse(text)
    assert (condition.path, condition.operator, condition.value) == (path, operator, value)


@pytest.mark.parametrize(
    ("path", "steps"),
    [
        ("a", '."a"'),
        ("$.a.b", '."a"."b"'),
        ("a[0].b[*]", '."a"[0]."b"[*]'),
        ("[0].a", '[0]."a"'),
        ('"a.b"."c\\"d"', '."a.b"."c\\"d"'),
        ("first name", '."first name"'),
    ],
)
def test_every_word_of_a_path_is_quoted(path: str, steps: str) -> None:
    assert Condition(path, "=", 1).steps() == steps


@pytest.mark.parametrize(
    "text", ["", "name", "=1", "a..b=1", "a.=1", ".=1", "a[x]=1", "a[1=1", 'a"b=1', "a=[1]", 'a={"b":1}']
)
def test_a_malformed_condition_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a condition|is not a path|can be compared"):
        Condition.parse(text)


@given(st.text(min_size=1), st.none() | st.booleans() | st.integers() | st.text())
def test_any_word_can_be_asked_for_in_quotes(word: str, value: bool | int | str | None) -> None:
    condition = Condition(json.dumps(word), "=", value)
    assert json.loads(condition.steps().removeprefix(".")) == word
    path = combine([condition])
    assert path is not None
    assert path.endswith(f"? (@ == {json.dumps(value)})))")


def test_conditions_are_joined_into_one_path_with_their_values_as_literals() -> None:
    path = combine([Condition.parse("a=1"), Condition.parse('b.c>"x')])
    assert path == r"""$ ? (exists(@."a" ? (@ == 1)) && exists(@."b"."c" ? (@ > "\"x")))"""
    assert combine([]) is None
