"""Settings as annotated fields of a class: what each means, which values it allows, and the check."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from pgbus import lightbus
from pgbus.config.files import FromVariables
from pgbus.errors import ConfigurationError
from pgbus.errors.spelling import find_close

DAY = 86_400.0

_KIND_NAMES = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}


@dataclass(frozen=True, slots=True)
class About:
    """The meaning of a setting, and its limits: of the number, or of the length of the string."""

    help: str
    minimum: float = -math.inf
    maximum: float = math.inf
    unit: str = ""

    def __str__(self) -> str:
        return f"{self.help} ({self.limits})" if self.limits else self.help

    @property
    def limits(self) -> str:
        """The limits in words; empty without any."""
        match math.isfinite(self.minimum), math.isfinite(self.maximum):
            case True, True:
                text = f"between {self.minimum:.12g} and {self.maximum:.12g}"
            case True, False:
                text = f"at least {self.minimum:.12g}"
            case False, True:
                text = f"at most {self.maximum:.12g}"
            case _:
                return ""
        return f"{text} {self.unit}".rstrip()


def seconds(help: str, *, minimum: float = 1, maximum: float = 3650 * DAY) -> About:  # noqa: A002 - as in About
    """Return the About of a setting in seconds."""
    return About(help, minimum, maximum, "seconds")


@functools.cache
def kinds(cls: type) -> Mapping[str, Any]:
    """The type of each setting of a class, in the order of their declaration."""
    return {name: hint.__origin__ for name, hint in _annotated(cls).items()}


@functools.cache
def about(cls: type, name: str) -> About:
    """Return the About of a setting of the class."""
    found: About = _annotated(cls)[name].__metadata__[0]
    return found


@functools.cache
def _annotated(cls: type) -> Mapping[str, Any]:
    hints = get_type_hints(cls, include_extras=True)
    return {name: hint for name, hint in hints.items() if isinstance(getattr(hint, "__metadata__", (0,))[0], About)}


def checked(cls: type, name: str, value: object, *, label: str, source: str) -> object:
    """Return the value of a setting of a class in its type; it may be parsed from the string of a variable.

    Raises ConfigurationError with the allowed values; it does not quote strings, because they may be secret.
    """
    kind, limits = kinds(cls)[name], about(cls, name)
    if kind is int and isinstance(value, float) and value.is_integer():
        value = int(value)  # 5.0 is a whole number, as JSON Schema has it
    try:
        value = msgspec.convert(value, kind, strict=not isinstance(value, FromVariables))
    except msgspec.ValidationError:
        raise refusal(label, source, f"must be {expected(kind, limits)}") from None
    if isinstance(value, FromVariables):
        value = str(value)  # nobody else is to know where it came from, least of all an encoder
    size = len(value) if isinstance(value, str) else value
    # The chained form refuses NaN, which compares false with everything.
    if isinstance(size, int | float) and not limits.minimum <= size <= limits.maximum:
        raise refusal(label, source, f"must be {limits.limits}, not {size:.12g}")
    return value


def expected(kind: Any, limits: About) -> str:
    """Return a description of the allowed values of this type."""
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(get_args(kind))
    wanted = next(part for part in (kind, *get_args(kind)) if part in _KIND_NAMES)
    return f"{_KIND_NAMES[wanted]} {limits.limits}".rstrip()


def check_name(name: str, names: Iterable[str], *, where: str) -> None:
    """Raise ConfigurationError for a name that is not one of these, with the one that it resembles."""
    known = list(names)
    if name in known:
        return
    close = find_close(name, known, most=1)
    hint = lightbus.SETTINGS.get(name) or (
        f"did you mean {close[0]!r}?" if close else "`pgbus config` lists what there is"
    )
    raise ConfigurationError(f"{where}: there is no setting {name!r}; {hint}")


def mapping(value: object, label: str, source: str) -> Mapping[str, object]:
    """The value, if it is a table of settings by name; else raises ConfigurationError."""
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise refusal(label, source, "must be a table of settings by name")
    return value


def refusal(label: str, source: str, reason: str) -> ConfigurationError:
    """The error for a value, which names the setting and where the value came from."""
    return ConfigurationError(f"{place(label, source)}: {reason}")


def place(label: str, source: str) -> str:
    """Return a setting's name, and the source of its value if it is not an argument."""
    return label if source == "argument" else f"{label} ({source})"
