"""What `pgbus inspect` can say of an event beside its history: whether it fits its schema, and what listeners get."""

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
    """Something to say of each event: as a field of a JSON object of this name, and in lines with a heading."""

    name: str

    def value(self, record: EventRecord) -> object:
        """What JSON says."""
        ...

    def lines(self, record: EventRecord) -> Iterator[tuple[str, Text]]:
        """What people are told."""
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
        """One line."""
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
    """An argument on its way to a handler: what came, what the handler is annotated with, and what it gets."""

    name: str
    received: str
    hint: str
    result: str | None


@dataclass(frozen=True, slots=True)
class Casts:
    """What a listener makes of an event; `error` says why it cannot take it."""

    listener_name: str
    arguments: tuple[Cast, ...]
    error: str | None


class Casting:
    """What the handlers of a bus's listeners would be called with."""

    name = "casting"

    def __init__(self, bus: pgbus.Bus) -> None:
        self._bus = bus

    def value(self, record: EventRecord) -> object:
        """The Casts of each listener that hears the event."""
        return list(self._casts(record.event))

    def lines(self, record: EventRecord) -> Iterator[tuple[str, Text]]:
        """A line for each argument at each listener."""
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
