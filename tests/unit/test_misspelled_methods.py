"""A method of the bus that is misspelled: the error names the one that was meant."""

from __future__ import annotations

import re

import pytest

import pgbus


@pytest.fixture
def bus() -> pgbus.Bus:
    return pgbus.create("postgresql://nowhere/none", plugins=[])


@pytest.mark.parametrize(("given", "meant"), [("publsh", "publish"), ("cancle", "cancel"), ("listner", "listener")])
def test_a_misspelled_method_names_the_one_that_was_meant(bus: pgbus.Bus, given: str, meant: str) -> None:
    with pytest.raises(AttributeError, match=re.escape(f"no method {given!r}; did you mean `bus.{meant}`?")):
        getattr(bus, given)()


def test_a_word_unlike_any_method_names_the_form_of_a_call(bus: pgbus.Bus) -> None:
    with pytest.raises(AttributeError, match=r"a procedure is called as `bus\.api\.procedure`"):
        bus.users()


def test_an_unknown_option_of_publish_is_a_type_error(bus: pgbus.Bus) -> None:
    with pytest.raises(TypeError, match="kee"):
        bus.publish_sync({}, topic="a", kee="k")  # type: ignore[call-arg] # that is the point
