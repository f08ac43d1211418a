"""Lihil's event classes under topics, and its handlers in the order of their registration."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from lihil.interface import MISSING
from lihil.plugins import bus as stock
from msgspec import Struct

from pgbus.events import event, topic_of
from pgbus.handlers.signatures import default_name, describe

E = TypeVar("E")


class Event(Struct):
    """A base for event classes, for `MessageRegistry(event_base=Event)`; any other class will do as well."""


class MessageContext(dict[str, Any]):
    """The mapping that was passed as `publish(event, context=...)`, decoded from JSON; empty without one."""


@dataclass(frozen=True, slots=True)
class Handler:
    """A handler, or a method of a class whose instance is a dependency, and what it hears: `types` and their children.

    `name` is its listener_name within the service.
    """

    name: str
    function: Callable[..., Any]
    owner: type | None
    types: tuple[type, ...]

    def hears(self, event_type: type) -> bool:
        """Whether it is called with events of the class."""
        return issubclass(event_type, self.types)


class MessageRegistry(stock.MessageRegistry[E]):
    """Lihil's registry. A handler on a class hears every subclass, also one that is defined later.

    An event class gets a topic when it is registered: the one that `@pgbus.event` gave it, else its module and name.
    Raises ConfigurationError for a class whose instances are not fields by name.
    """

    def __init__(self, *, command_base: Any = MISSING, event_base: Any = MISSING, graph: Any = MISSING) -> None:
        super().__init__(command_base=command_base, event_base=event_base, graph=graph)
        self.handlers: list[Handler] = []
        """Those of events, in the order of their registration."""

    def _register_eventlisteners(self, listener: Any) -> None:
        if self.event_base is MISSING:
            return
        before = {id(meta) for metas in self.event_mapping.values() for meta in metas}
        super()._register_eventlisteners(listener)
        metas = [meta for metas in self.event_mapping.values() for meta in metas if id(meta) not in before]
        for function in dict.fromkeys(meta.handler for meta in metas):
            types = [meta.message_type for meta in metas if meta.handler is function]
            for event_type in types:
                name_topics(event_type, self._event_base)
            owner = listener if inspect.isclass(listener) else None
            self.handlers.append(Handler(default_name(function), function, owner, _roots(types)))


def _roots(types: Sequence[type]) -> tuple[type, ...]:
    """Those of the classes that descend from no other of them."""
    return tuple(one for one in types if not any(one is not other and issubclass(one, other) for other in types))


def name_topics(event_type: type, event_base: Any) -> None:
    """Give a topic to an event class, and to those of its parents that are events, unless they have one."""
    for cls in reversed(event_type.__mro__):
        if issubclass(cls, event_base) and topic_of(cls) is None:
            event(describe(cls))(cls)


def name_all_topics(event_base: Any) -> None:
    """The same for every event class that this process has defined by now."""
    todo = [event_base]
    while todo:
        cls = todo.pop()
        name_topics(cls, event_base)
        todo += cls.__subclasses__()
