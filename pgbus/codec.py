"""Event types: the topic that a class carries, and payloads from Python to JSON text and back.

msgspec does the work. What it lets through and PostgreSQL or the next reader would not take (NaN, NUL characters,
datetimes without a time zone) is refused here, before any SQL; the text tells cheaply whether to look closer.
"""

from __future__ import annotations

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

from pgbus.errors import ConfigurationError, InvalidEventError, UnhandledEventError
from pgbus.topics import check_topic

T = TypeVar("T")

_TOPIC_ATTRIBUTE = "__pgbus_topic__"

# By topic, as long as anybody holds them; of two with one topic, the later.
_event_classes: weakref.WeakValueDictionary[str, type] = weakref.WeakValueDictionary()

# How a datetime without a time zone ends in JSON text; others have `Z` or an offset before the quote.
_LOOKS_NAIVE = re.compile(r'T\d\d:\d\d:\d\d(?:\.\d+)?"', re.ASCII)
# An even number of backslashes before it are escaped backslashes.
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
# A 64-bit float in MessagePack whose exponent is all ones: NaN or an infinity.
_PACKED_NOT_FINITE = re.compile(rb"\xcb[\x7f\xff][\xf0-\xff]")


# -------------------------------------------------------------------------------------------------------- event classes


def event(topic: str) -> Callable[[type[T]], type[T]]:
    """Class decorator: publish instances of the class under `topic`.

    Takes dataclasses, msgspec Structs, attrs classes and pydantic models. A subclass needs a topic of its own; its
    events also reach the listeners of its parents. Raises ConfigurationError for what is no topic, or no such class.
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
        or _is_pydantic(cls)
    )


def _is_pydantic(cls: object) -> bool:
    return isinstance(cls, type) and hasattr(cls, "model_validate_json")


# ------------------------------------------------------------------------------------------------------------- encoding


def encode(value: object, *, limit: int, field: str = "payload") -> str:
    """`value` as JSON text of at most `limit` bytes in UTF-8.

    Takes what msgspec does (dataclasses, Structs, attrs classes, TypedDicts, NamedTuples, dicts, lists, sets, UUIDs,
    dates, ...; sets become arrays), pydantic models, and subclasses of str, int, float and datetime.
    Raises InvalidEventError, with `field` and the way to the culprit, for anything else, and for NaN and infinities,
    NUL characters, lone surrogates and datetimes without a time zone.
    """
    try:
        encoded = _encode(value)
    except Exception as error:  # hooks and models run code of other people
        raise InvalidEventError(field, _why_not_json(value, error)) from error
    if len(encoded) > limit:
        raise InvalidEventError(field, f"{len(encoded)} bytes of JSON are too many; the limit is {limit} bytes")
    text = encoded.decode()
    if "null" in text and _may_hold_nan(value):
        _refuse(value, field, _is_not_finite, "is NaN or infinite, which JSON cannot say; publish None or a text")
    if "\\u0000" in text and _NUL.search(text):
        where = _find(value, _holds_nul) or "a text"
        raise InvalidEventError(field, f"{where} holds a NUL character, which PostgreSQL cannot store")
    if "T" in text and _LOOKS_NAIVE.search(text):
        _refuse(value, field, _is_naive, "is a datetime without a time zone; use an aware one, as datetime.now(UTC)")
    return text


def _plain(value: object) -> object:
    """What msgspec encodes in place of a value that it does not know."""
    if _is_pydantic(type(value)):
        # By alias, as that is how the model reads them back, and how its JSON Schema names them.
        return msgspec.Raw(value.model_dump_json(by_alias=True).encode())  # type: ignore[attr-defined] # pydantic
    if isinstance(value, datetime):
        return value.isoformat()
    for base in (str, int, float):
        if isinstance(value, base):
            return base(value)
    raise NotImplementedError(type(value))


def _fields_of_model(value: object) -> object:
    if _is_pydantic(type(value)):
        return value.model_dump()  # type: ignore[attr-defined] # pydantic
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
        raise InvalidEventError(field, f"{where} {reason}")


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


def _parts(value: object) -> Iterator[tuple[str, object]]:
    """What `value` is directly made of, each with the step that leads to it."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield f" key {reprlib.repr(key)}", key
            yield _step(key), part
    elif isinstance(value, (list, tuple, set, frozenset)):
        for index, part in enumerate(value):
            yield f"[{index}]", part
    elif isinstance(value, enum.Enum):
        yield "", value.value
    elif isinstance(value, (str, int, float, datetime, NoneType)):
        return
    elif _is_pydantic(type(value)):
        yield "", value.model_dump()  # type: ignore[attr-defined] # pydantic
    else:
        for name in _field_names(type(value)):
            yield f".{name}", getattr(value, name, None)


def _step(key: object) -> str:
    return f".{key}" if isinstance(key, str) and key.isidentifier() and len(key) < 64 else f"[{reprlib.repr(key)}]"


def _field_names(cls: Any) -> list[str]:
    if issubclass(cls, msgspec.Struct):
        return list(cls.__struct_fields__)
    if dataclasses.is_dataclass(cls):
        return [field.name for field in dataclasses.fields(cls)]
    return [attribute.name for attribute in getattr(cls, "__attrs_attrs__", ())]


def _why_not_json(value: object, error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "the event nests too deeply, or holds itself"
    where, culprit, error = _culprit(value, error)
    match error:
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
    while not _is_pydantic(type(value)):
        for step, part in _parts(value):
            try:
                _encode(part)
            except Exception as cause:
                steps, value, error = steps + step, part, cause
                break
        else:
            break
    return _where(steps), value, error


# ------------------------------------------------------------------------------------------------------------- decoding


@lru_cache(maxsize=1024)
def decoder(event_type: Any) -> Callable[[str], Any]:
    """A function from JSON text to a value of `event_type`: any type that msgspec decodes into, or a pydantic model.

    The function raises UnhandledEventError when the text does not fit the type. Raises ConfigurationError for a type
    into which nothing can be decoded.
    """
    parse = _parser(event_type)
    name = event_type.__qualname__ if isinstance(event_type, type) else str(event_type)

    def decode(text: str) -> Any:
        try:
            return parse(text)
        except Exception as error:  # constructors and validators run code of other people
            raise UnhandledEventError(f"the payload does not fit {name}: {error}") from error

    return decode


def _parser(event_type: Any) -> Any:
    if _is_pydantic(event_type):
        return event_type.model_validate_json
    if isinstance(event_type, type) and (validator := event_type.__dict__.get("__pydantic_validator__")):
        return validator.validate_json  # a pydantic dataclass: its fields may be of types that only pydantic knows
    try:
        if isinstance(msgspec.inspect.type_info(event_type), msgspec.inspect.CustomType):
            raise TypeError("it is not a dataclass, Struct, attrs class, pydantic model, TypedDict or plain type")
        return msgspec.json.Decoder(event_type, dec_hook=_from_plain).decode
    except (TypeError, NameError, ValueError) as error:
        raise ConfigurationError(f"events cannot be decoded into {event_type!r}: {error}") from error


def _from_plain(event_type: Any, value: object) -> object:
    if _is_pydantic(event_type):
        return event_type.model_validate_json(msgspec.json.encode(value))
    raise NotImplementedError(f"{event_type!r} is not a type that msgspec or pydantic knows")
