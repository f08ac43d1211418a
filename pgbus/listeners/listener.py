"""The listeners declared in this process, which are checked when they are declared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, TypeAlias, TypedDict, Unpack

import msgspec

from pgbus.config.features import FEATURES
from pgbus.config.options import FLAG, NAME, START, Option, check_options, one_of, seconds, whole_number
from pgbus.errors import ConfigurationError, InvalidEventError
from pgbus.events import topic_of
from pgbus.handlers.decoding import Decode, EventDecoder
from pgbus.handlers.outcomes import RetryPolicy
from pgbus.handlers.signatures import Handler, Signature, Wanted, default_name, describe, inspect_handler
from pgbus.messages import EventMessage
from pgbus.topics import check_pattern, matches

# Lanes of an ordered listener. To change it would put a key's new events into another lane than those that it is still
# owed, and two of them could be handled at once.
LANES = 64

Start: TypeAlias = Literal["now", "beginning"] | datetime | int
OnPoison: TypeAlias = Literal["dead", "block"]
_ATTEMPTS = whole_number("attempts", 1)
_OPTIONS = {
    "name": NAME,
    "start": START,
    "concurrency": whole_number("events", 1),
    "batch_size": whole_number("events", 1, 10_000).or_none(),
    "ordered": FLAG,
    "transactional": FLAG,
    "retry": Option(
        lambda value: isinstance(value, RetryPolicy) or _ATTEMPTS.fits(value),
        f"a RetryPolicy, or {_ATTEMPTS.expected}",
    ),
    "timeout": seconds().or_none(),
    "on_poison": one_of("dead", "block"),
    "batch": FLAG,
}
# What a listener takes of the events of a topic or pattern: a type, or Fields.
Reads: TypeAlias = Callable[[str], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """A named subscription and its handler; for the options see `Bus.listener`."""

    name: str
    patterns: tuple[str, ...]
    handler: Handler
    signature: Signature
    decode: Decode = field(repr=False)
    reads: Reads = field(repr=False)
    start: Start = "now"
    concurrency: int = 10
    batch_size: int | None = None
    ordered: bool = False
    transactional: bool = False
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    timeout: float | None = None
    on_poison: OnPoison = "dead"
    batch: bool = False

    @property
    def lanes(self) -> int | None:
        """Number of lanes of an ordered listener, else None."""
        return LANES if self.ordered else None

    @property
    def blocks(self) -> bool:
        """Whether a dead letter makes the later events of its key wait."""
        return self.on_poison == "block"

    def hears(self, event: EventMessage) -> bool:
        """Whether one of its patterns matches the event's topic, or an ancestor's."""
        return hears(self.patterns, event)

    def options(self) -> dict[str, object]:
        """The options as the database shows them."""
        return {
            "concurrency": self.concurrency,
            "batch_size": self.batch_size,
            "ordered": self.ordered,
            "transactional": self.transactional,
            "max_attempts": self.retry.max_attempts,
            "timeout": self.timeout,
            "on_poison": self.on_poison,
            "batch": self.batch,
        }


def hears(patterns: Iterable[str], event: EventMessage) -> bool:
    """Whether one of the patterns matches the event's topic, or an ancestor's."""
    topics = (event.topic, *(event.ancestors or ()))
    return any(matches(pattern, topic) for pattern in patterns for topic in topics)


class _StoredOptions(TypedDict, total=False):
    """Those that a Listener holds as they were given; their defaults are its fields'."""

    start: Start
    concurrency: int
    batch_size: int | None
    ordered: bool
    transactional: bool
    timeout: float | None
    on_poison: OnPoison


class ListenerOptions(_StoredOptions, total=False):
    """The options of `Bus.listener` except `name` and `batch`; see there."""

    retry: RetryPolicy | int


def make_listener(
    handler: Handler,
    events: Sequence[type | str],
    *,
    name: str | None = None,
    batch: bool = False,
    service_name: str = "",
    transaction: Wanted | None = None,
    **options: Unpack[ListenerOptions],
) -> Listener:
    """A listener from what `Bus.listener` was given; raises ConfigurationError naming what is wrong.

    A name that is given is taken as it is. Else the service's name is part of it: in two services, a function of the
    same name is another listener.
    """
    signature = inspect_handler(handler, batch=batch)
    label = f"listener {name or describe(handler)!r}"
    decode = EventDecoder(signature.event_type, classes=[event for event in events if isinstance(event, type)])
    patterns = _patterns(label, events, signature)
    for event in events:
        if reason := decode.why_not(event):
            raise ConfigurationError(f"{label}: {reason}")
    return build_listener(
        handler,
        patterns,
        signature=signature,
        decode=decode,
        reads=decode.reads,
        name=in_service(service_name, default_name(handler)) if name is None else name,
        batch=batch,
        transaction=transaction,
        **options,
    )


def in_service(service_name: str, name: str) -> str:
    """A name that is unique within a service, as one that is so in the database."""
    return f"{service_name}-{name}" if service_name else name


def build_listener(
    handler: Handler,
    patterns: tuple[str, ...],
    *,
    signature: Signature,
    decode: Decode,
    reads: Reads,
    name: str,
    batch: bool = False,
    transaction: Wanted | None = None,
    retry: RetryPolicy | int = RetryPolicy(),  # noqa: B008 - immutable
    **options: Unpack[_StoredOptions],
) -> Listener:
    """A listener whose handler is called as `signature` says; raises ConfigurationError naming what is wrong."""
    label = f"listener {name!r}"
    check_options(label, _OPTIONS, {"name": name, "batch": batch, "retry": retry, **options})
    if options.get("transactional") and transaction:
        signature = _in_transaction(signature, transaction)
    listener = Listener(
        name=_check_name(label, name),
        patterns=patterns,
        handler=handler,
        signature=signature,
        decode=decode,
        reads=reads,
        batch=batch,
        retry=RetryPolicy(max_attempts=retry) if isinstance(retry, int) else retry,
        **options,
    )
    _check_choices(label, listener)
    return listener


def _in_transaction(signature: Signature, transaction: Wanted) -> Signature:
    """The signature, with the bus's own transaction unless the handler takes a connection of another kind."""
    wanted = signature.wanted
    return (
        signature
        if wanted and wanted.kind != transaction.kind
        else msgspec.structs.replace(signature, wanted=transaction)
    )


def _patterns(label: str, events: Sequence[type | str], signature: Signature) -> tuple[str, ...]:
    """Return the patterns: the given ones, else the topic of the event class with which the handler is annotated."""
    if not events and isinstance(signature.event_type, type) and topic_of(signature.event_type):
        events = (signature.event_type,)
    if not events:
        raise ConfigurationError(f"{label} listens to nothing: name an event class, a topic or a pattern")
    return tuple(dict.fromkeys(_pattern(label, event) for event in events))


def _pattern(label: str, event: type | str) -> str:
    if isinstance(event, str):
        try:
            return check_pattern(event)
        except InvalidEventError as error:
            raise ConfigurationError(f"{label}: {error}") from None
    if isinstance(event, type):
        topic = topic_of(event)
        if topic is not None:
            return topic
    raise ConfigurationError(
        f'{label}: {event!r} is neither an event class (decorate it with @pgbus.event("topic")) nor a topic'
    )


def _check_choices(label: str, listener: Listener) -> None:
    """Refuse options that contradict each other, or the handler's signature."""
    signature, wanted = listener.signature, listener.signature.wanted
    if listener.blocks and not listener.ordered:
        raise ConfigurationError(
            f"{label}: on_poison='block' needs ordered=True; without order there is nothing to block"
        )
    if listener.batch and listener.ordered:
        raise ConfigurationError(f"{label}: a batch mixes keys; a listener is either ordered or takes batches")
    if signature.connection and not listener.transactional:
        raise ConfigurationError(f"{label}: only transactional=True hands the handler a connection")
    if listener.transactional and not wanted:
        raise ConfigurationError(
            f"{label}: a transactional handler writes through the connection it is given; annotate a parameter as "
            "a connection of asyncpg, psycopg, SQLAlchemy or Django, or as SQLAlchemy's AsyncSession or Session"
        )
    if wanted and wanted.is_blocking is signature.is_async:
        kind = "a plain" if wanted.is_blocking else "an async"
        raise ConfigurationError(f"{label}: its connection needs {kind} function as handler")


def _check_name(label: str, name: str) -> str:
    if name in FEATURES:
        raise ConfigurationError(f"{label}: that is the name of a feature; `pgbus run --skip {name}` would mean both")
    return name
