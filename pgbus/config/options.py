"""The allowed values of the options of listeners, procedures, schedules and calls, and their checks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pgbus.errors import ConfigurationError

MAX_NAME_LENGTH = 255


@dataclass(frozen=True, slots=True)
class Option:
    """The check of an option's value, and the description of the allowed values."""

    fits: Callable[[Any], bool]
    expected: str

    def or_none(self) -> Option:
        """The same, or None for its default."""
        return Option(lambda value: value is None or self.fits(value), self.expected)


def check_options(
    label: str,
    options: Mapping[str, Option],
    given: Mapping[str, object],
    *,
    error: type[ConfigurationError] = ConfigurationError,
) -> None:
    """Raise an error that names the option, its value and what is expected, for the first that does not fit."""
    for name, option in options.items():
        if name in given and not option.fits(given[name]):
            raise error(f"{label}: {name} is {option.expected}, not {given[name]!r}")


def given_options(label: str, given: object) -> Mapping[str, Any]:
    """Options that are given as a mapping, or None; raises ConfigurationError for anything else."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ConfigurationError(f"{label} are a mapping of names to values, not {given!r}")
    return given


def whole_number(of: str, least: int, most: float = math.inf) -> Option:
    """A whole number of something; True and False do not count as numbers."""
    span = f"at least {least}" if most == math.inf else f"between {least} and {most:g}"
    return Option(lambda value: _is_whole(value) and least <= value <= most, f"a whole number of {of}, {span}")


def number(expected: str, least: float, most: float = math.inf) -> Option:
    """A number; True, False and NaN do not count as numbers."""
    return Option(
        lambda value: (isinstance(value, float) or _is_whole(value)) and least <= value <= most,
        expected,
    )


def seconds(most: float = math.inf) -> Option:
    """Return the option of a duration in seconds."""
    limit = "" if most == math.inf else f" and at most {most:g}"
    return Option(
        lambda value: (isinstance(value, float) or _is_whole(value)) and 0 < value <= most and value < math.inf,
        f"a number of seconds, more than 0{limit}",
    )


def one_of(*choices: str) -> Option:
    """Return the option whose value is one of these strings."""
    *others, last = map(repr, choices)
    return Option(lambda value: isinstance(value, str) and value in choices, f"{', '.join(others)} or {last}")


FLAG = Option(lambda value: isinstance(value, bool), "True or False")
NAME = Option(
    lambda value: isinstance(value, str) and 1 <= len(value) <= MAX_NAME_LENGTH and "\x00" not in value,
    f"a string of 1 to {MAX_NAME_LENGTH} characters",
)
START = Option(
    lambda value: (
        value in ("now", "beginning")
        if isinstance(value, str)
        else value.tzinfo is not None
        if isinstance(value, datetime)
        else _is_whole(value) and value >= 0
    ),
    "'now', 'beginning', a datetime with a time zone, or a position, 0 or more",
)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
