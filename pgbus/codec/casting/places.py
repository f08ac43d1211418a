"""Where in a value something is wrong: the way is written at the end of a message, as msgspec writes it."""

from __future__ import annotations

import re
import reprlib

import msgspec

_PLACE = re.compile(r"(?s)(.*) - at (`key` in )?`\$(.*?)`\Z")


def misplaced(error: Exception, step: str) -> msgspec.ValidationError:
    """Return the error of a part as an error of the whole that has the part at this step."""
    return msgspec.ValidationError(f"{str(error) or type(error).__name__} - at `${step}`")


def explain(error: BaseException) -> tuple[str, str]:
    """Return the reason why a value could not be cast, and the path of the part: `.address.city`; empty for the whole
    value.
    """
    reason, place = str(error) or type(error).__name__, ""
    while found := _PLACE.match(reason):
        # The innermost place was written first.
        reason, place = found[1], place + found[3] + (" (a key)" if found[2] else "")
    return reason, place


def step_to(key: object) -> str:
    """The step of a way that leads to what an object holds under the key: `.name`, or `['a name']`."""
    return f".{key}" if isinstance(key, str) and key.isidentifier() and len(key) < 64 else f"[{reprlib.repr(key)}]"
