"""Values that are made by code of other people, by constructors, or by choice; any exception may come of it."""

from __future__ import annotations

import contextlib
import reprlib
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date, datetime, time
from functools import lru_cache
from typing import Any

import msgspec

from pgbus.codec.annotations import is_pydantic
from pgbus.codec.casting.objects import Cast, json_name
from pgbus.codec.casting.places import misplaced, step_to
from pgbus.codec.forms import in_form


@lru_cache(maxsize=1024)
def from_bus(cls: Any, lenient: Callable[[Any], Cast]) -> Cast:
    """An object's values are cast to the annotations of the class, where they fit, before `__from_bus__` gets them.

    `lenient` makes a cast to a type.
    """
    casts: dict[str, Cast] | None = None

    def cast(value: Any) -> Any:
        nonlocal casts
        if isinstance(value, dict):
            if casts is None:  # not before: the class may have annotations of itself
                casts = dict(_casts_that_there_are(cls, lenient))
            value = {key: cast_if_it_fits(casts.get(key), part) for key, part in value.items()}
        return cls.__from_bus__(value)

    return cast


def _casts_that_there_are(cls: Any, lenient: Callable[[Any], Cast]) -> Iterator[tuple[str, Cast]]:
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except NameError:  # names that only a type checker imports
        return
    for name, hint in hints.items():
        with contextlib.suppress(TypeError, NameError):
            yield name, lenient(hint)


def cast_if_it_fits(cast: Cast | None, value: Any) -> Any:
    """The value cast, or as it is where it does not fit."""
    if cast is not None:
        with contextlib.suppress(Exception):
            return cast(value)
    return value


def sent_as(cls: Any) -> Any:
    """Return the type as which a class with only `__to_bus__` is received: the return annotation of that method."""
    return typing.get_type_hints(cls.__to_bus__, include_extras=True).get("return", Any)


def _by_pydantic(validate: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The function, with an error that says where as msgspec's do."""

    def checked(text: Any) -> Any:
        try:
            return validate(text)
        except ValueError as error:
            if not hasattr(error, "errors"):
                raise
            first, *others = error.errors(include_url=False)
            steps = "".join(f"[{step}]" if isinstance(step, int) else step_to(step) for step in first["loc"])
            more = f" (and {len(others)} more)" if others else ""
            raise misplaced(ValueError(f"{first['msg']}{more}"), steps) from error

    return checked


@lru_cache(maxsize=1024)
def pydantic_parser(cls: Any) -> Callable[[Any], Any]:
    """From JSON text to a pydantic model or dataclass."""
    return _by_pydantic(cls.model_validate_json if is_pydantic(cls) else cls.__pydantic_validator__.validate_json)


def cast_by_pydantic(cls: Any, value: object) -> object:
    """`pydantic_parser` for a value that was decoded."""
    # From JSON, because pydantic is laxer there with strings, and stricter with other values.
    return pydantic_parser(cls)(msgspec.json.encode(value))


def _cast_text(value: Any) -> str:
    return str(value) if type(value) in (int, float) else msgspec.convert(value, str)


def _cast_instant(kind: Any, read: Callable[[str], Any]) -> Cast:
    """By msgspec where it can; else of any other ISO 8601 text."""

    def cast(value: Any) -> Any:
        try:
            return msgspec.convert(value, kind, strict=False)
        except msgspec.ValidationError:
            if isinstance(value, str):
                with contextlib.suppress(ValueError):
                    return read(value)
            raise

    return cast


# What is taken leniently beyond what msgspec takes so.
LENIENT: Mapping[type, Cast] = {
    str: _cast_text,
    date: _cast_instant(date, lambda text: datetime.fromisoformat(text).date()),
    datetime: _cast_instant(datetime, datetime.fromisoformat),
    time: _cast_instant(time, time.fromisoformat),
}


def cast_complex(value: Any) -> complex:
    """A complex number, of the text that Python writes of it."""
    if not isinstance(value, str):
        raise msgspec.ValidationError(f"Expected `str`, got `{json_name(value)}`")
    return complex(value)


def one_of(choices: Iterable[Any]) -> Cast:
    """The choice, a value or an enum's member, that is written as the value; of any type."""
    written = [(msgspec.to_builtins(in_form(choice), enc_hook=str), choice) for choice in choices]

    def cast(value: Any) -> Any:
        for text, choice in written:
            if text == value and isinstance(text, bool) is isinstance(value, bool):
                return choice
        raise msgspec.ValidationError(f"Expected one of {[text for text, _ in written]}, got {reprlib.repr(value)}")

    return cast
