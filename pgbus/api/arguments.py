"""Handlers that take an event's arguments by name: `def handle(username, email)`, or `def handle(event, username)`.

A first positional parameter that is none of the event's parameters takes the EventMessage. Which parameters an event
has is known for certain only when one arrives, as its API may be another service's; so that is when it is decided.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from pgbus.api.declarations import Event
from pgbus.codec.annotations import EMPTY, bare, members_of
from pgbus.codec.casting import Cast, caster
from pgbus.codec.payloads import misfit
from pgbus.config import ApiConfig
from pgbus.config.apis import BUILT_IN
from pgbus.errors import ConfigurationError, InvalidEventArguments, InvalidEventListener, UnhandledEventError
from pgbus.handlers.signatures import Handler, Signature, describe, is_async, role_of, type_hints, why_not_handler
from pgbus.messages import EventMessage
from pgbus.schema import Field, Fields

_ARGUMENTS = "pgbus_arguments"
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True, slots=True)
class Arguments:
    """The arguments of a handler for one event."""

    positional: Sequence[Any]
    named: Mapping[str, Any]


class NamedArguments:
    """From a handler of this kind to the one that the engine calls: `signature`, `decode` and `call`.

    `find_event` gives the declaration of a topic's event where this process has it: its defaults are filled in for
    events that were fired before a parameter was there. `settings` gives those of an API. Where they say
    `strict_validation`, `refuse_unknown` raises for an event that nobody has declared. Raises InvalidEventListener.
    """

    def __init__(
        self,
        handler: Handler,
        *,
        find_event: Callable[[str], Event | None],
        settings: Callable[[str], ApiConfig] = lambda _: BUILT_IN,
        refuse_unknown: Callable[[str], None] = lambda _: None,
    ) -> None:
        if reason := why_not_handler(handler):
            raise InvalidEventListener(f"a listener needs a function to call: {reason}")
        self._handler = handler
        self._name = describe(handler)
        self._find_event = find_event
        self._settings = settings
        self._refuse_unknown = refuse_unknown
        self._hints = hints = _hints(handler)
        parameters = list(inspect.signature(handler).parameters.values())
        self.signature, parameters = _take_injected(handler, parameters, hints)
        self._takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
        self._takes_rest = any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters)
        self._parameters = {
            parameter.name: parameter
            for parameter in parameters
            if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        }
        self._casts = {name: cast for name in self._parameters if (cast := _cast(hints.get(name, EMPTY)))}
        self._first = next((one for one in self._parameters.values() if one.kind in _POSITIONAL), None)
        self._first_hint = EMPTY if self._first is None else hints.get(self._first.name, EMPTY)
        self._refuse_positional_only()

    # ------------------------------------------------------------------------------------------------------- calling

    def call(self, **given: Any) -> Any:
        """Call the handler; the engine passes the Arguments, and a Context or a connection if it asks for them."""
        arguments: Arguments = given.pop(_ARGUMENTS)
        return self._handler(*arguments.positional, **arguments.named, **given)

    def decode(self, message: EventMessage) -> Arguments:
        """The arguments for an event; raises UnhandledEventError saying what does not fit."""
        given: Any = message.payload
        if not isinstance(given, dict):
            raise UnhandledEventError(
                f"{message.topic}: the payload is not a JSON object, so it holds no arguments for {self._name}"
            )
        event, settings = self._find_event(message.topic), self._settings(message.api_name)
        if event:
            self._refuse_undeclared(given, event, message.topic, settings)
            given = event.filled(given)
        elif settings.strict_validation:
            self._refuse_unknown(message.topic)  # which is tried again: a new API may not have been heard of yet
        if complaint := self._complaint(given):
            raise UnhandledEventError(f"{self._name} cannot take {message.topic}: {complaint}")
        if settings.validate_incoming or settings.cast_values:
            named = {name: self._received(message, name, value, event, settings) for name, value in given.items()}
        else:
            named = given
        return Arguments((message,) if self._takes_message(given) else (), named)

    def check(self, event: Event, *, topic: str) -> None:
        """Raise InvalidEventListener if the handler cannot take the event."""
        if complaint := self._complaint(event.parameters, complete=not event.accepts_any):
            raise InvalidEventListener(f"{self._name} cannot listen to {topic}: {complaint}")

    def reads(self, topic: str) -> Fields:
        """Return the fields that the handler takes from events of a topic or pattern."""
        event = self._find_event(topic)
        filled = event.defaults() if event else {}
        wanted = dict(self._parameters)
        if self._first is not None and self._takes_message(event.parameters if event else ()):
            if event or self._takes_message((self._first.name,)):
                wanted.pop(self._first.name)
            else:  # of somebody else's event: the message, or an argument if there is one of that name
                filled[self._first.name] = None
        fields = [
            Field(
                name, self._hints.get(name, Any), one.default,
                is_required=one.default is EMPTY and name not in filled,
            )
            for name, one in wanted.items()
        ]  # fmt: skip
        return Fields(fields, is_open=self._takes_any)

    # ------------------------------------------------------------------------------------------------------- fitting

    def _takes_message(self, names: Collection[str]) -> bool:
        """Whether the first positional parameter wants the message, and not an argument of one of these names."""
        if self._first is None:
            return self._takes_rest
        if EventMessage in members_of(self._first_hint) or self._first.kind is inspect.Parameter.POSITIONAL_ONLY:
            return True
        is_free = self._first.name not in names and self._first.default is EMPTY
        return is_free and self._first_hint in (EMPTY, Any, object)

    def _complaint(self, names: Collection[str], *, complete: bool = True) -> str | None:
        """Return the reason why an event with these parameters does not fit; with an incomplete list only missing ones
        count.
        """
        wanted = dict(self._parameters)
        if self._takes_message(names) and self._first is not None:
            wanted.pop(self._first.name)
        missing = [name for name, one in wanted.items() if one.default is EMPTY and name not in names]
        surplus = [name for name in names if name not in wanted and not self._takes_any]
        if not surplus and not (missing and complete):
            return None
        parts = [f"the event has no {', '.join(map(repr, missing))}"] if missing and complete else []
        if surplus:
            parts.append(f"the handler has no parameter {', '.join(map(repr, surplus))}")
        return f"{' and '.join(parts)} (event: {', '.join(names) or 'none'}; handler: {', '.join(wanted) or 'none'})"

    # ------------------------------------------------------------------------------------------------------ casting

    def _received(self, message: EventMessage, name: str, value: Any, event: Event | None, settings: ApiConfig) -> Any:
        """The argument as the handler gets it."""
        if value is None:  # it is passed on, whatever the handler hopes for
            return value
        try:
            if cast := self._casts.get(name):
                made = cast(value)
                return made if settings.cast_values else value
            if settings.validate_incoming and event and (parameter := event.parameters.get(name)):
                parameter.check_sent(msgspec.json.encode(value).decode())
        except Exception as error:  # constructors and validators run code of other people
            if settings.validate_incoming:
                raise UnhandledEventError(
                    f"{self._name} cannot take {message.topic}: its argument {name!r} does not fit: "
                    f"{error if isinstance(error, InvalidEventArguments) else misfit(error, name)}"
                ) from error
        return value

    def _refuse_undeclared(self, given: Mapping[str, Any], event: Event, topic: str, settings: ApiConfig) -> None:
        if not settings.strict_validation or event.accepts_any:
            return
        if undeclared := ", ".join(repr(name) for name in given if name not in event.parameters):
            raise UnhandledEventError(
                f"{topic} does not have the parameter {undeclared}, and its API has strict_validation"
            )

    def _refuse_positional_only(self) -> None:
        for parameter in self._parameters.values():
            if parameter.kind is parameter.POSITIONAL_ONLY and parameter is not self._first:
                raise InvalidEventListener(
                    f"handler {self._name}: {parameter.name!r} is positional-only, but arguments come by name; "
                    "move the '/'"
                )


def _hints(handler: Handler) -> Mapping[str, Any]:
    try:
        return type_hints(handler)
    except ConfigurationError as error:
        raise InvalidEventListener(str(error)) from error


def _take_injected(
    handler: Handler, parameters: Sequence[inspect.Parameter], hints: Mapping[str, Any]
) -> tuple[Signature, list[inspect.Parameter]]:
    """The signature for the engine, and the parameters that are left for the event."""
    found: dict[str, tuple[str, Any]] = {}
    rest: list[inspect.Parameter] = []
    for parameter in parameters:
        role, value = role_of(hints.get(parameter.name, EMPTY))
        if role == "event" or role in found:
            rest.append(parameter)
        elif parameter.kind is parameter.POSITIONAL_ONLY:
            raise InvalidEventListener(f"handler {describe(handler)}: {parameter.name!r} is positional-only")
        else:
            found[role] = (parameter.name, value)
    context, (connection, wanted) = found.get("context"), found.get("connection", (None, None))
    signature = Signature(
        is_async=is_async(handler),
        event=_ARGUMENTS,
        event_type=None,
        context=context[0] if context else None,
        connection=connection,
        wanted=wanted,
    )
    return signature, rest


# -------------------------------------------------------------------------------------------------------------- casting


def _cast(hint: Any) -> Cast | None:
    """From JSON to the type of a hint, leniently ("1" is an int); None where there is nothing that can be done."""
    if bare(hint) is Any:
        return None
    try:
        return caster(hint, strict=False)
    except (TypeError, NameError, ValueError):
        return None  # a class that nobody can make: the handler gets the plain value
