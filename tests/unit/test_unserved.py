"""What a caller is told of a procedure that nobody serves: whether its name looks wrong."""

from __future__ import annotations

import pytest

from pgbus.database.statements.schemas import Kind
from pgbus.schema.unserved import why_unserved

KNOWN: list[tuple[Kind, str]] = [
    ("procedure", "auth.check_password"),
    ("procedure", "auth.forget"),
    ("procedure", "shop.search"),
    ("event", "auth.user_created"),
    ("listener", "mail"),
]


def test_a_known_procedure_has_a_right_name() -> None:
    assert why_unserved("auth.check_password", KNOWN) is None


@pytest.mark.parametrize(
    ("procedure", "said"),
    [
        ("auth.user_created", "it is an event, which is not called: `bus.auth.user_created.fire(...)`"),
        ("auth.chek_password", "a procedure of that name: did you mean 'auth.check_password'?"),
        ("auht.forget", "a procedure of that name: did you mean 'auth.forget'?"),
        ("auth.user_create", "a procedure of that name: did you mean to fire 'auth.user_created'?"),
        ("auth.login", "a procedure of that name: API 'auth' has check_password, forget"),
        ("bank.pay", "a procedure of API 'bank': those with procedures are auth, shop"),
    ],
)
def test_a_wrong_name_is_told_with_what_there_is(procedure: str, said: str) -> None:
    assert str(why_unserved(procedure, KNOWN)).endswith(said)


def test_where_nothing_is_known_that_is_said() -> None:
    assert (
        why_unserved("bank.pay", []) == "no service has registered any procedure: start a worker that serves API 'bank'"
    )


def test_of_many_names_the_first_are_told() -> None:
    known: list[tuple[Kind, str]] = [("procedure", f"api_{number:03}.run") for number in range(100)]
    said = why_unserved("nowhere.else", known) or ""
    assert said.endswith("api_018, api_019, and 80 more")
