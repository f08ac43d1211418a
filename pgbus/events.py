"""Event classes: the topic that a class carries, and those of its parents."""

from __future__ import annotations

import dataclasses
import re
import weakref
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar

import msgspec

from pgbus.codec.annotations import is_pydantic
from pgbus.codec.casting import explain, lines_parser, parser
from pgbus.codec.losses import LostError
from pgbus.codec.payloads import check_readable, keeper
from pgbus.errors import (
    ConfigurationError,
    InvalidEventArguments,
    InvalidEventError,
)
from pgbus.topics import check_topic

T = TypeVar("T")

_TOPIC_ATTRIBUTE = "__pgbus_topic__"


# By topic, as long as anybody holds them; of two with one topic, the later.
_event_classes: weakref.WeakValueDictionary[str, type] = weakref.WeakValueDictionary()


def event(topic: str) -> Callable[[type[T]], type[T]]:
    """Class decorator: publish instances of the class under `topic`.

    Takes dataclasses, msgspec Structs, attrs classes and pydantic models. A subclass needs a topic of its own; its
    events also reach the listeners of its parents. Raises ConfigurationError for an invalid topic or class, and for a
    class whose definition shows that it could not read its own instances back.
    """
    if not isinstance(topic, str):
        raise ConfigurationError('@event takes a topic: @event("orders.placed")')
    try:
        check_topic(topic)
    except InvalidEventError as error:
        raise ConfigurationError(f"@event: {error}") from None

    def declare(cls: type[T]) -> type[T]:
        if not _has_fields(cls):
            raise ConfigurationError(
                f"@event({topic!r}): {cls!r} is not a dataclass, Struct, attrs class or pydantic model; "
                "if a decorator makes it one, write @event above that decorator"
            )
        try:
            check_readable(cls)
        except LostError as error:
            raise ConfigurationError(f"@event({topic!r}): {cls.__qualname__}{error.place}: {error.reason}") from None
        setattr(cls, _TOPIC_ATTRIBUTE, topic)
        _event_classes[topic] = cls
        return cls

    return declare


def topic_of(cls: type) -> str | None:
    """The topic that `@event` gave to this very class; None for any other class, subclasses included."""
    topic: str | None = cls.__dict__.get(_TOPIC_ATTRIBUTE)
    return topic


def event_classes() -> dict[str, type]:
    """The event classes of this process, by topic."""
    return dict(_event_classes)


@lru_cache(maxsize=4096)
def ancestors_of(cls: type) -> tuple[str, ...]:
    """The topics of the event classes that `cls` inherits from, nearest first."""
    topics = dict.fromkeys(topic for base in cls.__mro__[1:] if (topic := topic_of(base)) is not None)
    return tuple(topic for topic in topics if topic != topic_of(cls))


def _has_fields(cls: object) -> bool:
    return isinstance(cls, type) and (
        dataclasses.is_dataclass(cls)
        or issubclass(cls, msgspec.Struct)
        or "__attrs_attrs__" in cls.__dict__  # not a subclass that attrs has not seen: msgspec does not know it
        or is_pydantic(cls)
    )


@dataclasses.dataclass(frozen=True, slots=True)
class Checker:
    """Tells whether an event class reads its instances in their JSON text."""

    parse: Callable[[str], Any]
    parse_lines: Callable[[str], list[Any]] | None
    check_read: Callable[[object, object], None] | None

    def check(self, text: str, event: object) -> None:
        """Raise InvalidEventArguments unless the class reads the instance."""
        try:
            read = self.parse(text)
            if self.check_read:
                self.check_read(event, read)
        except Exception as error:  # constructors and validators run code of other people
            reason, place = explain(error)
            field = re.match(r"\.?(\w*)", place)[1]  # type: ignore[index] # it matches anything
            raise InvalidEventArguments(field or "event", reason, place=place.lstrip(".")[len(field) :]) from error

    def accepts_lines(self, text: str) -> bool:
        """Whether the class reads every line of the text; false also where it takes `check` to tell."""
        if self.parse_lines is None or self.check_read:
            return False
        try:
            self.parse_lines(text)
        except Exception:  # as above
            return False
        return True


@lru_cache(maxsize=1024)
def checker(cls: type) -> Checker | None:
    """The checks of an event class's instances.

    None for a class without a topic, for a pydantic model, which was read when it was encoded, and for one whose
    instances can only be sent.
    """
    if topic_of(cls) is None or is_pydantic(cls):
        return None
    try:
        return Checker(parser(cls), lines_parser(cls), keeper(cls))
    except (TypeError, NameError, ValueError):
        return None
