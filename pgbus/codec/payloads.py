"""Payloads, arguments and results: from Python to JSON text and back.

msgspec does the work, with `forms` and `casting` for what it does otherwise. What it lets through and PostgreSQL or the
next reader would not take (NaN, NUL characters, datetimes without a time zone) is refused here, before any SQL; the
text tells cheaply whether to look closer.
"""

from __future__ import annotations

import contextlib
import enum
import math
import re
import reprlib
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import lru_cache
from types import NoneType
from typing import Any, TypeVar

import msgspec

from pgbus.codec.annotations import field_names, is_named_tuple, is_pydantic
from pgbus.codec.casting import classes_in, explain, parser, step_to
from pgbus.codec.forms import in_form
from pgbus.codec.losses import LostError, check_init, check_kept, may_lose
from pgbus.codec.models import check_model, contents, dump
from pgbus.errors import (
    ConfigurationError,
    DeformError,
    InvalidEventError,
    UnhandledEventError,
)

T = TypeVar("T")


# How a datetime without a time zone ends in JSON text; others have `Z` or an offset before the quote.
_LOOKS_NAIVE = re.compile(r'T\d\d:\d\d:\d\d(?:\.\d+)?"', re.ASCII)
# An even number of backslashes before it are escaped backslashes.
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
# A 64-bit float in MessagePack whose exponent is all ones: NaN or an infinity.
_NOT_FINITE = "is NaN or infinite, which JSON cannot say; publish None or a string"
_PACKED_NOT_FINITE = re.compile(rb"\xcb[\x7f\xff][\xf0-\xff]")


# -------------------------------------------------------------------------------------------------------- event classes


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
        where = _find(value, _holds_nul) or "a string"
        raise DeformError(field, f"{where} holds a NUL character, which PostgreSQL cannot store")
    if "T" in text and _LOOKS_NAIVE.search(text):
        _refuse(value, field, _is_naive, "is a datetime without a time zone; use an aware one, as datetime.now(UTC)")
    return text


def encode_lines(values: Sequence[Any], *, limit: int) -> str | None:
    """Many values as one text, each on a line of its own: all at once, in a third of the time of `encode`.

    None where it takes `encode` to tell whether each of them may be sent, and why not.
    """
    try:
        formed: Any = in_form(values)
        encoded = _encode_lines(formed)
    except Exception:  # hooks and models run code of other people
        return None
    text = encoded.decode()[:-1]
    if len(encoded) > limit and max(map(len, encoded.split(b"\n"))) > limit:
        return None
    if text.count("\n") != len(values) - 1:  # JSON that others have written, and laid out
        return None
    if ("null" in text and _may_hold_nan(formed)) or ("\\u0000" in text and _NUL.search(text)):
        return None
    return None if "T" in text and _LOOKS_NAIVE.search(text) else text


def _plain(value: object) -> object:
    """Return the value that msgspec encodes in place of one that it does not know."""
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


_encoder = msgspec.json.Encoder(enc_hook=_plain)
_encode, _encode_lines = _encoder.encode, _encoder.encode_lines
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
    """Yield the direct parts of `value`, each with the step that leads to it."""
    if hasattr(type(value), "__to_bus__"):
        with contextlib.suppress(Exception):  # it raises when it is reported as the faulty value itself
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
            return f"{where} holds a lone surrogate ({error.object[error.start]!r}), which is not a character"
        case NotImplementedError() if isinstance(culprit, dict):
            return f"{where} has a key of {error}; keys are strings, numbers, dates, UUIDs or enums"
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
    """Return the path of the part that did not fit its type, and the reason: `user.city: Expected ...`.

    `name` is that of the value.
    """
    reason, place = explain(error)
    where = f"{name}{place}".lstrip(".")
    return f"{where}: {reason}" if where else reason
