"""The operations of a bus, and instruments that surround them: traces, error reports, metrics of durations.

An instrument sees an operation begin and end, also by an error, and may set context variables for what is within. It
changes nothing but headers, and decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from datetime import datetime
from typing import ClassVar, Protocol, TypeAlias
from uuid import UUID
from weakref import WeakSet

import msgspec

from pgbus.causality import Cause, Origin, read_headers
from pgbus.messages import EventMessage

_NOTHING = nullcontext()


class Abandoned(Exception):
    """The operation was broken off, as its claim or its transaction was lost: nothing has failed in it."""


class Publish(msgspec.Struct, frozen=True):
    """Events are published in one go: one, or those of a `publish_many` (`in_bulk`).

    What an instrument puts into their headers is published with them.
    """

    messages: Sequence[EventMessage]
    in_bulk: bool = False


class Process(msgspec.Struct, frozen=True):
    """A listener's handler is called for one event, or for a batch of them; `attempt` is 1 for the first."""

    listener_name: str
    messages: Sequence[EventMessage]
    attempt: int
    in_batch: bool = False


class Call(msgspec.Struct, frozen=True):
    """A procedure is called from here; what an instrument puts into `headers` is sent with the call."""

    procedure: str
    call_id: UUID
    headers: dict[str, str]


class Serve(msgspec.Struct, frozen=True):
    """A call is executed here, with the headers that the caller has sent, as JSON text if there are any."""

    procedure: str
    call_id: UUID
    raw_headers: str | None

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers by their names."""
        return read_headers(self.raw_headers)

    @property
    def cause(self) -> Cause:
        """The cause of what the procedure publishes and calls."""
        return Origin(self.call_id, self.raw_headers).cause


class Run(msgspec.Struct, frozen=True):
    """A schedule's task runs, by its `rule` as text; `attempt` is 1 unless a worker had begun the run before."""

    schedule_name: str
    rule: str
    run_id: UUID
    due_at: datetime
    attempt: int

    @property
    def cause(self) -> Cause:
        """The cause of what the task publishes and calls."""
        return Origin(self.run_id).cause


Operation: TypeAlias = Publish | Process | Call | Serve | Run


class Instrument(Protocol):
    """Surrounds operations, on the event loop or in the thread where they take place."""

    def around(self, operation: Operation) -> AbstractContextManager[object]:
        """Return the surroundings of one operation; what it raises must come through."""
        ...


class Instruments:
    """The instruments of one bus, the one that was added first outermost, within those of the whole process."""

    _everywhere: ClassVar[tuple[Instrument, ...]] = ()
    _known: ClassVar[WeakSet[Instruments]] = WeakSet()

    def __init__(self) -> None:
        self._own: tuple[Instrument, ...] = ()
        self.all = Instruments._everywhere
        """All of them. Asked before each operation: empty, it costs an attribute."""
        Instruments._known.add(self)

    def add(self, instrument: Instrument) -> None:
        """Surround the operations of this bus from now on; added twice, it surrounds them once."""
        if instrument not in self._own:
            self._own = (*self._own, instrument)
            self._gather()

    @classmethod
    def add_everywhere(cls, instrument: Instrument) -> None:
        """Surround the operations of every bus of this process, for error reporters, which are set up once for all."""
        if instrument not in cls._everywhere:
            cls.set_everywhere((*cls._everywhere, instrument))

    @classmethod
    def set_everywhere(cls, instruments: tuple[Instrument, ...]) -> None:
        """Have these, and no others, surround the operations of every bus; a test ends with none."""
        cls._everywhere = instruments
        for one in tuple(cls._known):
            one._gather()

    def _gather(self) -> None:
        self.all = Instruments._everywhere + self._own

    def around(self, operation: Operation) -> AbstractContextManager[object]:
        """Return the surroundings of an operation by all instruments, if there are any."""
        match self.all:
            case ():
                return _NOTHING
            case (instrument,):
                return instrument.around(operation)
            case instruments:
                return _nested(instruments, operation)


@contextmanager
def _nested(instruments: Sequence[Instrument], operation: Operation) -> Iterator[None]:
    with ExitStack() as stack:
        for instrument in instruments:
            stack.enter_context(instrument.around(operation))
        yield
