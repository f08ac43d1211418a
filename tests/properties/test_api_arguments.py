"""Laws of handlers that take arguments by name."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any
from uuid import uuid4

from hypothesis import given
from hypothesis import strategies as st

from pgbus.api.arguments import NamedArguments
from pgbus.messages import EventMessage

NAMES = [f"name_{letter}" for letter in "abcdef"]

arguments = st.dictionaries(st.sampled_from(NAMES), st.integers() | st.text() | st.none(), max_size=6)


def make_handler(names: list[str], *, leading: str | None, takes_any: bool) -> Callable[..., Any]:
    """A function that returns the leading argument, and the others by name."""
    parameters = [*([leading] if leading else []), *names, *(["**rest"] if takes_any else [])]
    pairs = [f"{name!r}: {name}" for name in names]
    others = f"{{{', '.join([*pairs, *(['**rest'] if takes_any else [])])}}}"
    handler: Callable[..., Any] = eval(f"lambda {', '.join(parameters)}: ({leading}, {others})")
    return handler


@given(sent=arguments, order=st.permutations(NAMES), leading=st.sampled_from([None, "event"]), rest=st.booleans())
def test_a_handler_gets_every_argument_by_its_name_whatever_their_order(
    sent: Mapping[str, object], order: list[str], leading: str | None, rest: bool
) -> None:
    names = [name for name in order if name in sent]
    if rest:
        names = names[: len(names) // 2]
    message = EventMessage(topic="a.b", raw=json.dumps(sent), event_id=uuid4())
    named = NamedArguments(make_handler(names, leading=leading, takes_any=rest), find_event=lambda topic: None)
    first, others = named.call(**{named.signature.event: named.decode(message)})
    assert first is (message if leading else None)
    assert others == sent
