"""Finds losses: parts of a value that its own class does not read back as they were sent.

Most classes lose nothing, which their definition tells; only of the others each value is looked at.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from pgbus.codec.annotations import field_names, is_named_tuple, is_pydantic
from pgbus.codec.casting import has_from_bus, is_validated, step_to


class LostError(ValueError):
    """A value would not be the same again for its reader; `place` is the way to the part: `.address.city`."""

    def __init__(self, place: str, reason: str) -> None:
        self.place = place
        self.reason = reason
        super().__init__(f"{reason} - at `${place}`")


def check_init(cls: type) -> None:
    """Raise LostError for a dataclass that nobody could make of its fields alone."""
    for name, field in getattr(cls, "__dataclass_fields__", {}).items():
        # Nothing public tells them from fields.
        if field._field_type is dataclasses._FIELD_INITVAR and field.default is dataclasses.MISSING:  # type: ignore[attr-defined]
            raise LostError(f".{name}", f"{cls.__qualname__} cannot be made without it, and an InitVar is not sent")


def may_lose(cls: Any) -> bool:
    """Whether code of other people runs where a value of the class is made, and might make another one of it.

    What a pydantic model holds was looked at when it was written.
    """
    if has_from_bus(cls):
        return True
    if is_pydantic(cls):
        return False
    has_converter = any(attribute.converter is not None for attribute in getattr(cls, "__attrs_attrs__", ()))
    return has_converter or is_validated(cls) or hasattr(cls, "__post_init__") or hasattr(cls, "__attrs_post_init__")


def check_kept(sent: object, read: object) -> None:
    """Raise LostError unless what was read is what was sent, as far as can be told."""
    # A part is looked into only where the whole is not equal: usually, this is one comparison.
    unseen: list[tuple[str, object, object]] = [("", sent, read)]
    while unseen:
        place, one, other = unseen.pop()
        if _is_equal(one, other):
            continue
        parts = list(_pairs(one, other))
        if parts:
            unseen.extend((place + step, left, right) for step, left, right in reversed(parts))
        elif hasattr(one, "get_secret_value"):
            raise LostError(place, "a secret is sent as asterisks; have a serializer send its value, or leave it out")
        elif type(one) is type(other) and _tells_equal(type(one)):
            raise LostError(place, f"{one!r:.80} would be read as {other!r:.80}")


def _is_equal(one: object, other: object) -> bool:
    try:
        return bool(one == other)
    except Exception:  # an array, for instance, does not say whether it is equal
        return True


def _pairs(one: Any, other: Any) -> Iterator[tuple[str, object, object]]:
    """Yield the parts of two values of one kind in pairs; nothing for values without parts, or with different numbers
    of them.

    Where the kinds differ, the sender gave something else than the class asks for, and the class took it.
    """
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        if one.keys() == other.keys():
            yield from ((step_to(key), part, other[key]) for key, part in one.items())
    elif not isinstance(one, type(other)):
        return
    elif isinstance(one, list | tuple) and not is_named_tuple(type(other)):
        if len(one) == len(other):
            yield from ((f"[{index}]", *pair) for index, pair in enumerate(zip(one, other, strict=True)))
    else:
        for name in _names(other):
            yield step_to(name), getattr(one, name, None), getattr(other, name, None)


def _names(value: Any) -> list[str]:
    cls = type(value)
    if is_named_tuple(cls):
        return list(cls._fields)
    if is_pydantic(cls):
        return [name for name, field in cls.model_fields.items() if not field.exclude]
    return field_names(cls) or (list(getattr(value, "__dict__", ())) if not _tells_equal(cls) else [])


def _tells_equal(cls: Any) -> bool:
    """Whether the class says what is equal; for other classes, only the very same object is."""
    return cls.__eq__ is not object.__eq__
