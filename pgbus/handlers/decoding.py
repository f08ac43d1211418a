"""From a stored event to what a handler takes: its annotated type, or the event class of the event's topic.

What a listener is declared for, and what its handler takes, must fit: that is judged when it is declared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableSequence, MutableSet, Sequence, Set
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from types import NoneType
from typing import Any, TypeAlias, Union, get_args
from uuid import UUID

from pgbus.codec.annotations import bare, class_of, is_named_tuple, members_of
from pgbus.codec.payloads import decoder
from pgbus.errors import ConfigurationError, UnhandledEventError
from pgbus.events import topic_of
from pgbus.messages import EventMessage
from pgbus.topics import ByTopic, matches

Decode: TypeAlias = Callable[[EventMessage], Any]

_SCALARS = (str, int, float, complex, bytes, bytearray, date, time, timedelta, UUID, Decimal, Enum)
_ARRAYS = (list, tuple, set, frozenset)
_ABSTRACT_ARRAYS = (Sequence, MutableSequence, Set, MutableSet)


class EventDecoder:
    """Turns stored events into what a handler takes; `classes` are the event classes that its listener is declared for.

    For an event class, the most derived class that this process knows for the event is taken: the one of its topic,
    else of its nearest ancestor. What else the annotation names takes the other events.
    """

    def __init__(self, event_type: Any, *, classes: Sequence[type] = ()) -> None:
        members = () if event_type is None else tuple(_alternatives(event_type))
        self._members = members
        self._takes_message = EventMessage in members
        self._classes = tuple(
            cls
            for cls in dict.fromkeys((*members, *classes))
            if _is_event(cls) and (event_type is None or _is_one_of(cls, members))
        )
        for known in self._classes:
            decoder(known)  # refuses now what could not be decoded later
        self._rest = self._type_of_rest(event_type)
        self._by_topic: ByTopic[tuple[str, tuple[str, ...]], Callable[[str], Any]] = ByTopic()

    def __call__(self, event: EventMessage) -> Any:
        """The handler's event; raises UnhandledEventError when the payload does not fit."""
        key = (event.topic, tuple(event.ancestors or ()))
        decode = self._by_topic.get(key)
        if decode is None:
            decode = self._by_topic[key] = self._resolve(event)
        return event if decode is _as_it_is else decode(event.raw)

    def reads(self, pattern: str) -> Any:
        """The type that the handler takes events of this topic as; Any where it is not told by their topic."""
        return self._known().get(pattern, Any if self._rest is EventMessage or self._rest is None else self._rest)

    def why_not(self, event: type | str) -> str | None:
        """Why no event of this class, topic or pattern can be what the handler takes, if so."""
        if any(_is_event(inner) for member in self._members if _is_array(member) for inner in _items(member)):
            return "the handler takes a list of events, and gets one at a time; write batch=True for a list of them"
        if isinstance(event, str):
            fits = self._rest is not None or any(matches(event, topic) for topic in self._known())
        else:
            others = [member for member in self._members if not _is_event(member)]
            fits = not self._members or event in self._classes or any(_takes_objects(member) for member in others)
        if fits:
            return None
        if isinstance(event, type):
            return (
                f"the handler takes {_names(self._members)}, and {event.__qualname__} is not among them: annotate its "
                f"event {event.__qualname__}, a parent class of that, or a union with it"
            )
        return (
            f"the handler takes {_names(self._members)}, of which no topic that is known here falls under {event!r}: "
            "name the class in place of the topic, import the class that has the topic, or annotate another type"
        )

    def _type_of_rest(self, event_type: Any) -> Any:
        """Return the type for events without a known class; None if the handler does not take them."""
        if event_type is None:
            return None if self._classes else Any
        if self._takes_message:
            return EventMessage
        if Any in self._members:
            return Any
        if not self._classes:
            decoder(event_type)
            return event_type
        others = tuple(member for member in self._members if not _is_event(member) and member is not NoneType)
        rest = Union[others] if others else None  # noqa: UP007 - of as many as there are
        try:
            decoder(rest)
        except ConfigurationError:  # such as a Protocol, or an abstract parent of the classes
            return None
        return rest

    def _resolve(self, event: EventMessage) -> Callable[[str], Any]:
        known = self._known()
        for topic in (event.topic, *(event.ancestors or ())):
            if topic in known:
                return decoder(known[topic])
        if self._rest is EventMessage:
            return _as_it_is
        if self._rest is not None:
            return decoder(self._rest)
        raise UnhandledEventError(f"the handler takes events of {', '.join(sorted(known))}, and not of {event.topic}")

    def _known(self) -> dict[str, type]:
        """The classes that it decodes into, by topic; one may have been defined a moment ago."""
        return {topic: cls for root in self._classes for cls in _family(root) if (topic := topic_of(cls))}


def _as_it_is(raw: str) -> Any:
    """Stands for no decoding at all."""
    return raw


def _family(cls: type) -> Iterator[type]:
    """The class and everything derived from it that has a topic, parents first."""
    if topic_of(cls) is not None:
        yield cls
    children: list[type] = cls.__subclasses__()
    for child in children:
        yield from _family(child)


def _alternatives(hint: Any, within: Sequence[Any] = ()) -> Iterator[Any]:
    """The types of which an event may be one: the members of a union, also where an alias stands for it."""
    for member in members_of(bare(hint)):
        plain = bare(member)
        if plain is member:
            yield member
        elif member not in within:  # an alias may name itself
            yield from _alternatives(plain, (*within, member))


def _is_event(member: Any) -> bool:
    return isinstance(member, type) and topic_of(member) is not None


def _is_one_of(cls: type, members: Sequence[Any]) -> bool:
    """Whether an instance of the class is of one of these types."""
    return any(class_of(member) in cls.__mro__[:-1] for member in members)


def _is_array(member: Any) -> bool:
    cls = class_of(member)
    if cls is None or is_named_tuple(cls):
        return False
    return cls in _ABSTRACT_ARRAYS or issubclass(cls, _ARRAYS)


def _takes_objects(member: Any) -> bool:
    """Whether the JSON object of an event may be decoded into the type."""
    cls = class_of(member)
    return member is not NoneType and not _is_array(member) and not (cls is not None and issubclass(cls, _SCALARS))


def _items(array: Any) -> Iterator[Any]:
    for argument in get_args(array):
        yield from _alternatives(argument)


def _names(members: Sequence[Any]) -> str:
    return " | ".join(member.__qualname__ if isinstance(member, type) else str(member) for member in members)
