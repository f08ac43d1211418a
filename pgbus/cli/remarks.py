"""Additions of `pgbus inspect` to an event's history: whether it fits its schema, and the arguments of listeners."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from rich.text import Text

import pgbus
from pgbus.admin import EventRecord
from pgbus.api.arguments import Arguments
from pgbus.errors import InvalidSchema, UnhandledEventError
from pgbus.listeners.listener import Listener
from pgbus.messages import EventMessage
from pgbus.schema import Fields, Schema
from pgbus.schema.validate import Validator, make_validator


class Remark(Protocol):
    """An addition to each event: a field of this name in JSON, and lines with a heading on a terminal."""

    name: str

    def value(self, record: EventRecord) -> object:
        """Return the value for JSON."""
        ...

    def lines(self, record: EventRecord) -> Iterator[tuple[str, Text]]:
        """Return the lines for a terminal."""
        ...


class Validation:
    """Whether the payload fits the current schema; `schemas` are those of the payloads, by topic."""

    name = "validation"

    def __init__(self, schemas: Mapping[str, Schema]) -> None:
        self._schemas = schemas
        self._validators: dict[str, Validator] = {}

    def value(self, record: EventRecord) -> object:
        """`passed`: true, false, or null without a schema; and the `error`."""
        if record.event.topic not in self._schemas:
            return {"passed": None, "error": None}
        complaint = self._complaint(record.event)
        return {"passed": complaint is None, "error": complaint}

    def lines(self, record: EventRecord) -> Iterator[tuple[str, Text]]:
        """Return the result as one line."""
        if record.event.topic not in self._schemas:
            yield "Validation", Text("no schema is stored", style="dim")
        elif complaint := self._complaint(record.event):
            yield "Validation", Text(complaint, style="red")
        else:
            yield "Validation", Text("Passed", style="green")

    def _complaint(self, event: EventMessage) -> str | None:
        try:
            if event.topic not in self._validators:
                self._validators[event.topic] = make_validator(self._schemas[event.topic])
            return self._validators[event.topic](event.payload)
        except (InvalidSchema, UnhandledEventError) as error:
            return str(error)


@dataclass(frozen=True, slots=True)
class Cast:
    """The cast of an argument: the type received, the handler's annotation, and the type passed."""

    name: str
    received: str
    hint: str
    result: str | None


@dataclass(frozen=True, slots=True)
class Casts:
    """The casts of an event for a listener; `error` is the reason if the listener cannot take the event."""

    listener_name: str
    arguments: tuple[Cast, ...]
    error: str | None


class Casting:
    """Shows the arguments with which the handlers of a bus's listeners would be called."""

    name = "casting"

    def __init__(self, bus: pgbus.Bus) -> None:
        self._bus = bus

    def value(self, record: EventRecord) -> object:
        """Return the Casts of each listener of the event."""
        return list(self._casts(record.event))

    def lines(self, record: EventRecord) -> Iterator[tuple[str, Text]]:
        """Return a line for each argument and listener."""
        for casts in self._casts(record.event):
            for one in casts.arguments:
                result = "?" if one.result is None else one.result
                yield f"{casts.listener_name} gets", Text(f"{one.name}: {one.received} -> {one.hint} -> {result}")
            if casts.error is not None:
                yield f"{casts.listener_name} gets", Text(casts.error, style="red")

    def _casts(self, event: EventMessage) -> Iterator[Casts]:
        for listener in self._bus.listeners:
            if listener.hears(event):
                yield _cast(listener, event)


def _cast(listener: Listener, event: EventMessage) -> Casts:
    error = None
    try:
        _ = event.payload
    except UnhandledEventError as refusal:
        return Casts(listener.name, (), str(refusal))
    try:
        decoded: Any = listener.decode(event)
    except UnhandledEventError as refusal:
        decoded, error = None, str(refusal)
    wanted = listener.reads(event.topic)
    if not isinstance(wanted, Fields):
        result = _kind(decoded) if error is None else None
        return Casts(listener.name, (Cast("event", _kind(event.payload), _spell(wanted), result),), error)
    results = decoded.named if isinstance(decoded, Arguments) else {}
    hints = {field.name: field.annotation for field in wanted.fields}
    arguments = (
        Cast(
            name,
            _kind(event.kwargs[name]) if name in event.kwargs else "nothing",
            _spell(hints.get(name, inspect.Parameter.empty)),
            _kind(results[name]) if name in results else None,
        )
        for name in dict.fromkeys((*event.kwargs, *results))
    )
    return Casts(listener.name, tuple(arguments), error)


def _kind(value: object) -> str:
    return "None" if value is None else type(value).__name__


def _spell(hint: Any) -> str:
    return "no hint" if hint is inspect.Parameter.empty else inspect.formatannotation(hint)
