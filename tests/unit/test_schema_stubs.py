import ast
from datetime import datetime
from enum import Enum
from typing import Any, Literal, NamedTuple
from uuid import UUID

import pytest

from pgbus.schema import Declaration, Field, Fields, parameters_schema, type_schema
from pgbus.schema.stubs import make_stubs


class Colour(Enum):
    RED = "red"


class User(NamedTuple):
    username: str
    boss: "User | None" = None
    born_at: datetime | None = None


def procedure(*fields: Field, returns: Any = None, name: str = "auth.check", is_open: bool = False) -> Declaration:
    parameters = parameters_schema(Fields(fields, is_open=is_open), title="P")
    return Declaration("procedure", name, {"parameters": parameters, "response": type_schema(returns, title="R")})


def event(*fields: Field, name: str) -> Declaration:
    return Declaration("event", name, {"parameters": parameters_schema(Fields(fields), title="E")})


def stub(*items: Declaration, own: tuple[str, ...] = ()) -> str:
    text = make_stubs(items, own=own)
    ast.parse(text)
    return text


def call(*fields: Field, returns: Any = None, own: tuple[str, ...] = (), is_open: bool = False) -> str:
    """The arguments and the result of the procedure in its stub."""
    text = stub(procedure(*fields, returns=returns, is_open=is_open), own=own)
    [line] = [line for line in text.splitlines() if "def __call__" in line]
    arguments, result = line.strip().removeprefix("def __call__(self, *, ").removesuffix(": ...").split(") -> ")
    return f"{arguments.replace('bus_options: Mapping[str, object] | None = None', 'options')} -> {result}"


@pytest.mark.parametrize(
    ("annotation", "argument", "result"),
    [
        (int, "int", "int"),
        (str | None, "str | None", "str | None"),
        (Any, "Any", "Any"),
        (UUID, "UUID | str", "str"),
        (datetime, "datetime | str", "str"),
        (bytes, "bytes | str", "str"),
        (Literal["a", 1], "Literal[1, 'a']", "Literal[1, 'a']"),
        (Colour, "Literal['red']", "Literal['red']"),
        (list[int], "list[int] | tuple[int, ...] | set[int]", "list[int]"),
        (tuple[int, str], "tuple[int, str] | list[Any]", "list[Any]"),
        (dict[str, int], "dict[str, int]", "dict[str, int]"),
        (User, "_AuthCheckUser", "_AuthCheckResult"),
    ],
)
def test_a_type_is_written_for_arguments_and_for_results(annotation: Any, argument: str, result: str) -> None:
    assert call(Field("x", annotation), returns=annotation) == f"x: {argument}, options -> {result}"


def test_a_result_of_ones_own_is_any_where_it_is_cast() -> None:
    own = ("auth.check",)
    assert call(returns=bool | None, own=own) == "options -> bool | None"
    for cast in (User, datetime, list[int], Colour):
        assert call(returns=cast, own=own) == "options -> Any"


def test_an_optional_argument_may_be_left_out_and_others_may_be_given() -> None:
    assert call(Field("a", int), Field("b", int, 0, is_required=False)) == "a: int, b: int = ..., options -> None"
    assert call(is_open=True) == "options, **others: object -> None"


def test_a_class_is_a_typed_dict_that_may_hold_itself() -> None:
    text = stub(procedure(Field("user", User), returns=User))
    assert (
        "_AuthCheckUser = TypedDict('_AuthCheckUser', {\n"
        "    'username': str,\n"
        "    'born_at': NotRequired[datetime | str | None],\n"
        "    'boss': NotRequired[_AuthCheckUser | None],\n"
        "})"
    ) in text
    assert "    'boss': _AuthCheckResultUser | None,\n" in text


def test_one_path_may_be_an_event_and_lead_further() -> None:
    text = stub(event(name="my.api.ev"), event(name="my.api.ev.more"), procedure(name="my.api.ev.more"))
    assert "    @property\n    def more(self) -> _MyApiEvMore: ..." in text
    assert text.count("    def fire(") == 2


def test_what_no_path_can_reach_is_left_out() -> None:
    text = stub(
        event(name="lonely"),
        event(name="my-api.ev"),
        event(name="my.class"),
        event(Field("from", int), name="my.ev"),
    )
    assert "def ev(self)" in text
    assert "from:" not in text
    assert "lonely" not in text
    assert "class(" not in text


def test_an_api_that_the_bus_has_an_attribute_for_is_left_out() -> None:
    text = make_stubs([event(name="config.changed"), event(name="auth.changed")], taken_names={"config"})
    assert "def auth(self)" in text
    assert "def config(self)" not in text
