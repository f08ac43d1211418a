"""Which transaction an emitted event joins: the request's, the delivery's, or none.

A unit of work is what emitting in a request, or in a listener, belongs to. It is found through a context variable, and
is one object that is changed in place: dependencies may run in tasks of their own, and handlers in threads, and both
have copies of the context.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias, TypeVar

import msgspec

from pgbus.bus import Bus
from pgbus.codec.payloads import encode
from pgbus.handlers.contexts import Context
from pgbus.topics import check_topic

Scope: TypeAlias = MutableMapping[str, Any]


class Emission(NamedTuple):
    """An event that was emitted, with its payload as JSON."""

    topic: str
    payload: msgspec.Raw

    @classmethod
    def of(cls, topic: str, payload: object, *, limit: int) -> Emission:
        """Encode an emitted event; raises InvalidEventError."""
        return cls(check_topic(topic), msgspec.Raw(encode(payload, limit=limit).encode()))


@dataclass(frozen=True, slots=True)
class Ambient:
    """A session of SQLAlchemy that a request has; `commits_itself`: with the response, if that is a success."""

    session: Any
    commits_itself: bool = False

    @property
    def will_commit(self) -> bool:
        """Whether what is added to it now is likely to be committed; after `commit()` nobody may do so again."""
        return self.commits_itself or bool(self.session.in_transaction())


# What finds the session that a request has opened, if it has; it must open none.
FindSession: TypeAlias = Callable[[Scope], Ambient | None]


class Unit:
    """The events emitted in one request or delivery, until they are published or dropped."""

    def __init__(self) -> None:
        self._emissions: list[Emission] = []
        self._is_open = True
        self._lock = threading.Lock()  # what a thread emits while the loop takes must not be lost

    def find_session(self) -> Any | None:
        """The session that an event is to be added to, if there is one."""
        return None

    def keep(self, emission: Emission) -> bool:
        """Keep the event until the unit is decided; false when it is."""
        with self._lock:
            if self._is_open:
                self._emissions.append(emission)
            return self._is_open

    def take(self) -> list[Emission]:
        """Everything that was kept; nothing more is kept from now on."""
        with self._lock:
            self._is_open = False
            taken, self._emissions = self._emissions, []
        return taken


class DeliveryUnit(Unit):
    """A listener at work: what it emits is published when it has returned, in its transaction if it has one."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        self.context = context


class RequestUnit(Unit):
    """A request: what it emits goes with its session, else is published before the response begins.

    A websocket has no response, so nothing is kept for it.
    """

    def __init__(self, bus: Bus, scope: Scope, find_session: FindSession) -> None:
        super().__init__()
        self.bus = bus
        self._scope = scope
        self._find_session = find_session

    def keep(self, emission: Emission) -> bool:
        """As for any unit, but nothing for a websocket."""
        return self._scope["type"] == "http" and super().keep(emission)

    def find_session(self) -> Any | None:
        """The request's session, if it is going to commit."""
        found = self._find_session(self._scope) if self._is_open else None
        return found.session if found and found.will_commit else None


U = TypeVar("U", bound=Unit)
_current: ContextVar[Unit | None] = ContextVar("pgbus_litestar_unit", default=None)


def current_unit() -> Unit | None:
    """The request or delivery that this code belongs to."""
    return _current.get()


@contextmanager
def entered(unit: U) -> Iterator[U]:
    """Make it the current one in the block; what is left in it afterwards is dropped."""
    token = _current.set(unit)
    try:
        yield unit
    finally:
        unit.take()
        _current.reset(token)
