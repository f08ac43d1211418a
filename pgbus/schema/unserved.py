"""Finds faults in the name of a procedure that no worker serves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pgbus.database.statements.schemas import Kind
from pgbus.errors.spelling import find_close
from pgbus.topics import split_name

_SHOWN = 20


def why_unserved(procedure: str, known: Iterable[tuple[Kind, str]]) -> str | None:
    """Return the fault of the name, from the known events and procedures; None if the name is a known procedure."""
    procedures, events = set[str](), set[str]()
    for kind, name in known:
        (procedures if kind == "procedure" else events).add(name)
    if procedure in procedures:
        return None
    if procedure in events:
        return f"it is an event, which is not called: `bus.{procedure}.fire(...)`"
    if close := _close(procedure, procedures):
        return f"no service has registered a procedure of that name: did you mean {close}?"
    if close := _close(procedure, events):
        return f"no service has registered a procedure of that name: did you mean to fire {close}?"
    api = split_name(procedure)[0]
    if of_api := sorted(split_name(name)[1] for name in procedures if split_name(name)[0] == api):
        return f"no service has registered a procedure of that name: API {api!r} has {_first(of_api)}"
    apis = sorted({split_name(name)[0] for name in procedures} - {""})
    if not apis:
        return f"no service has registered any procedure: start a worker that serves API {api!r}"
    return f"no service has registered a procedure of API {api!r}: those with procedures are {_first(apis)}"


def _first(names: Sequence[str]) -> str:
    """As many names as a message can hold."""
    more = [f"and {len(names) - _SHOWN} more"] if len(names) > _SHOWN else []
    return ", ".join([*names[:_SHOWN], *more])


def _close(name: str, names: Iterable[str]) -> str:
    return " or ".join(map(repr, find_close(name, names, cutoff=0.8)))
