"""Event types: the topic that a class carries, and payloads from Python to JSON text and back.

msgspec does the work, with `forms` and `casting` for what it does otherwise. What it lets through and PostgreSQL or the
next reader would not take (NaN, NUL characters, datetimes without a time zone) is refused here, before any SQL; the
text tells cheaply whether to look closer.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import math
import re
import reprlib
import weakref
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import lru_cache
from types import NoneType
from typing import Any, TypeVar

import msgspec

from pgbus.errors import (
    ConfigurationError,
    DeformError,
    InvalidEventArguments,
    InvalidEventError,
    UnhandledEventError,
)
from pgbus.topics import check_topic
from pgbus.values.annotations import field_names, is_named_tuple, is_pydantic
from pgbus.values.casting import classes_in, explain, parser, step_to
from pgbus.values.forms import in_form
from pgbus.values.losses import LostError, check_init, check_kept, may_lose
from pgbus.values.models import check_model, contents, dump

T = TypeVar("T")

_TOPIC_ATTRIBUTE = "__pgbus_topic__"

# By topic, as long as anybody holds them; of two with one topic, the later.
_event_classes: weakref.WeakValueDictionary[str, type] = weakref.WeakValueDictionary()

# How a datetime without a time zone ends in JSON text; others have `Z` or an offset before the quote.
_LOOKS_NAIVE = re.compile(r'T\d\d:\d\d:\d\d(?:\.\d+)?"', re.ASCII)
# An even number of backslashes before it are escaped backslashes.
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
# A 64-bit float in MessagePack whose exponent is all ones: NaN or an infinity.
_NOT_FINITE = "is NaN or infinite, which JSON cannot say; publish None or a text"
_PACKED_NOT_FINITE = re.compile(rb"\xcb[\x7f\xff][\xf0-\xff]")


# -------------------------------------------------------------------------------------------------------- event classes


def event(topic: str) -> Callable[[type[T]], type[T]]:
    """Class decorator: publish instances of the class under `topic`.

    Takes dataclasses, msgspec Structs, attrs classes and pydantic models. A subclass needs a topic of its own; its
    events also reach the listeners of its parents. Raises ConfigurationError for what is no topic, or no such class,
    and for a class that could not read what is written of it, as far as that can be told by its definition.
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


# ------------------------------------------------------------------------------------------------------------- encoding


def encode(value: object, *, limit: int, field: str = "payload") -> str:
    """`value` as JSON text of at most `limit` bytes in UTF-8.

    Takes what msgspec does (dataclasses, Structs, attrs classes, TypedDicts, dicts, lists, sets, UUIDs, dates, ...;
    sets become arrays), named tuples as objects, pydantic models, subclasses of str, int, float and datetime, complex
    numbers, and whatever has a `__to_bus__`.
    Raises DeformError, with `field` and the way to the culprit, for anything else, for NaN and infinities, NUL
    characters, lone surrogates and datetimes without a time zone, and for a pydantic model that its class could not
    read back; and InvalidEventError for what is too large.
    """
    try:
        formed = in_form(value)
        encoded = _encode(formed)
    except Exception as error:  # hooks and models run code of other people
        raise DeformError(field, _why_not_json(value, error)) from error
    value = formed
    if len(encoded) > limit:
        raise InvalidEventError(field, f"{len(encoded)} bytes of JSON are too many; the limit is {limit} bytes")
    text = encoded.decode()
    if "null" in text and _may_hold_nan(value):
        _refuse(value, field, _is_not_finite, _NOT_FINITE)
    if "\\u0000" in text and _NUL.search(text):
        where = _find(value, _holds_nul) or "a text"
        raise DeformError(field, f"{where} holds a NUL character, which PostgreSQL cannot store")
    if "T" in text and _LOOKS_NAIVE.search(text):
        _refuse(value, field, _is_naive, "is a datetime without a time zone; use an aware one, as datetime.now(UTC)")
    return text


def _plain(value: object) -> object:
    """What msgspec encodes in place of a value that it does not know."""
    if is_pydantic(type(value)):
        return msgspec.Raw(dump(value))
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, complex):
        return str(value)
    for base in (str, int, float):
        if isinstance(value, base):
            return base(value)
    raise NotImplementedError(type(value))


def _fields_of_model(value: object) -> object:
    if is_pydantic(type(value)):
        return contents(value)
    raise NotImplementedError


_encode = msgspec.json.Encoder(enc_hook=_plain).encode
_pack = msgspec.msgpack.Encoder(enc_hook=_fields_of_model).encode


def _may_hold_nan(value: object) -> bool:
    # msgspec writes NaN as null. MessagePack keeps it, and packing is far quicker than walking over the value.
    try:
        return _PACKED_NOT_FINITE.search(_pack(value)) is not None
    except Exception:  # a large integer, a type that only JSON knows
        return True


def _is_not_finite(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _holds_nul(value: object) -> bool:
    return isinstance(value, str) and "\x00" in value


def _is_naive(value: object) -> bool:
    return isinstance(value, datetime) and value.utcoffset() is None


def _refuse(value: object, field: str, condition: Callable[[object], bool], reason: str) -> None:
    where = _find(value, condition)
    if where is not None:
        raise DeformError(field, f"{where} {reason}")


def _find(value: object, condition: Callable[[object], bool]) -> str | None:
    """The way to a part of `value` that meets the condition, or None. No recursion: a value may nest deeply."""
    unseen = [("", value)]
    while unseen:
        steps, part = unseen.pop()
        if condition(part):
            return _where(steps)
        unseen.extend((steps + step, inner) for step, inner in _parts(part))
    return None


def _where(steps: str) -> str:
    return f"`{steps.lstrip('. ')}`" if steps else "the event"


def _joined(where: str, inner: str) -> str:
    """The way to a part of a part."""
    ways = [way for way in (where, inner) if way.startswith("`")]
    return "`" + ".".join(way.strip("`") for way in ways).replace(".[", "[") + "`" if ways else where


def _parts(value: object) -> Iterator[tuple[str, object]]:
    """What `value` is directly made of, each with the step that leads to it."""
    if hasattr(type(value), "__to_bus__"):
        with contextlib.suppress(Exception):  # it raises when it is told of as the culprit itself
            yield "", value.__to_bus__()  # type: ignore[attr-defined] # looked for
    elif is_named_tuple(type(value)):
        yield from _parts(value._asdict())  # type: ignore[attr-defined] # a named tuple
    elif isinstance(value, dict):
        for key, part in value.items():
            yield f" key {reprlib.repr(key)}", key
            yield step_to(key), part
    elif isinstance(value, (list, tuple, set, frozenset)):
        for index, part in enumerate(value):
            yield f"[{index}]", part
    elif isinstance(value, enum.Enum):
        yield "", value.value
    elif isinstance(value, (str, int, float, datetime, NoneType)):
        return
    elif is_pydantic(type(value)):
        yield "", contents(value)
    else:
        for name in field_names(type(value)):
            yield f".{name}", getattr(value, name, None)


def _why_not_json(value: object, error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "the event nests too deeply, or holds itself"
    where, culprit, error = _culprit(value, error)
    match error:
        case LostError():
            if not_finite := _find(culprit, _is_not_finite):  # of which a model writes null
                return f"{_joined(where, not_finite)} {_NOT_FINITE}"
            return f"{_joined(where, _where(error.place))}: {error.reason}"
        case UnicodeEncodeError():
            return f"{where} holds a lone surrogate ({error.object[error.start]!r}), which is no character"
        case NotImplementedError() if isinstance(culprit, dict):
            return f"{where} has a key of {error}; keys are texts, numbers, dates, UUIDs or enums"
        case NotImplementedError():
            return (
                f"{where} is of {type(culprit)}, which has no JSON form; "
                "publish a dataclass, Struct, attrs class, pydantic model, dict, list or plain value"
            )
        case _:
            return f"{where}: {error}"


def _culprit(value: object, error: Exception) -> tuple[str, object, Exception]:
    """The innermost part that cannot be encoded by itself either: the way to it, the part, and its error."""
    steps = ""
    # Of a pydantic model the fields say little: it encodes types that msgspec does not know.
    while not is_pydantic(type(value)):
        for step, part in _parts(value):
            try:
                _encode(in_form(part))
            except Exception as cause:
                steps, value, error = steps + step, part, cause
                break
        else:
            break
    return _where(steps), value, error


# ------------------------------------------------------------------------------------------------------------- decoding


@lru_cache(maxsize=1024)
def decoder(event_type: Any) -> Callable[[str], Any]:
    """A function from JSON text to a value of `event_type`, as `casting` tells; no text is taken for a number.

    The function raises UnhandledEventError when the text does not fit the type. Raises ConfigurationError for a type
    into which nothing can be decoded.
    """
    try:
        parse = parser(event_type)
    except (TypeError, NameError, ValueError) as error:
        raise ConfigurationError(f"events cannot be decoded into {event_type!r}: {error}") from error
    name = event_type.__qualname__ if isinstance(event_type, type) else str(event_type)

    def decode(text: str) -> Any:
        try:
            return parse(text)
        except Exception as error:  # constructors and validators run code of other people
            raise UnhandledEventError(f"the payload does not fit {name}: {misfit(error)}") from error

    return decode


@lru_cache(maxsize=1024)
def checker(cls: type) -> Callable[[str, object], None] | None:
    """A function that raises InvalidEventArguments unless the event class reads the instance in its JSON text.

    None for a class without a topic, for a pydantic model, which was read when it was encoded, and for one whose
    instances can only be sent.
    """
    if topic_of(cls) is None or is_pydantic(cls):
        return None
    try:
        parse, check_read = parser(cls), keeper(cls)
    except (TypeError, NameError, ValueError):
        return None

    def check(text: str, event: object) -> None:
        try:
            read = parse(text)
            if check_read:
                check_read(event, read)
        except Exception as error:  # constructors and validators run code of other people
            reason, place = explain(error)
            field = re.match(r"\.?(\w*)", place)[1]  # type: ignore[index] # it matches anything
            raise InvalidEventArguments(field or "event", reason, place=place.lstrip(".")[len(field) :]) from error

    return check


@lru_cache(maxsize=1024)
def keeper(hint: Any) -> Callable[[object, object], None] | None:
    """A function that raises LostError unless what was read is what was sent; None for a type that loses nothing."""
    return check_kept if any(map(may_lose, classes_in(hint))) else None


def check_readable(hint: Any) -> None:
    """Raise LostError for a type whose values nobody could read back, as far as their classes tell."""
    with contextlib.suppress(NameError, TypeError):  # not yet: annotations may name what is defined later
        for cls in classes_in(hint):
            if is_pydantic(cls):
                check_model(cls)
            else:
                check_init(cls)


def misfit(error: BaseException, name: str = "") -> str:
    """What is wrong with a value that did not fit its type, after the way to the part: `user.city: Expected ...`.

    `name` is that of the value.
    """
    reason, place = explain(error)
    where = f"{name}{place}".lstrip(".")
    return f"{where}: {reason}" if where else reason
