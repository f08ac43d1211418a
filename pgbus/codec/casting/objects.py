"""Values of classes with fields, made of JSON objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import NoneType
from typing import Any, TypeAlias

import msgspec

from pgbus.codec.annotations import Shape
from pgbus.codec.casting.places import misplaced, step_to

Cast: TypeAlias = Callable[[Any], Any]


class ObjectCast:
    """Makes values of a class with fields; `casts` are by key in JSON."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self.casts: Mapping[str, Cast] = {}
        config = getattr(shape.cls, "__struct_config__", None)
        self._takes_array = shape.kind == "named tuple" or (config is not None and config.array_like)
        self._tag = None if config is None or config.tag is None else (config.tag_field, config.tag)
        self._refuses_more = config is not None and config.forbid_unknown_fields

    def __call__(self, value: Any) -> Any:
        """The value as an instance of the class."""
        given = self._given(value)
        made: dict[str, Any] = {}
        later: dict[str, Any] = {}
        for field in self._shape.fields:
            if field.key in given:
                part = cast_part(self.casts[field.key], step_to(field.key), given[field.key])
                (later if field.keyword is None else made)[field.keyword or field.name] = part
            elif field.is_required:
                raise msgspec.ValidationError(f"Object missing required field `{field.key}`")
        made_of: Any = dict if self._shape.kind == "TypedDict" else self._shape.cls
        result = made_of(**made)
        for name, part in later.items():
            object.__setattr__(result, name, part)
        return result

    def _given(self, value: Any) -> Mapping[str, Any]:
        keys = [field.key for field in self._shape.fields]
        if self._takes_array and isinstance(value, (list, tuple)):  # so were named tuples written once
            _, *items = (None, *value) if self._tag is None else value
            if len(items) > len(keys):
                raise msgspec.ValidationError(f"Expected `array` of at most length {len(keys)}, got {len(items)}")
            return dict(zip(keys, items, strict=False))
        given = object_in(value)
        if self._tag and given.get(self._tag[0], self._tag[1]) != self._tag[1]:
            raise msgspec.ValidationError(f"Invalid value {given[self._tag[0]]!r} - at `${step_to(self._tag[0])}`")
        if self._refuses_more and (unknown := given.keys() - {*keys, *(self._tag or ())[:1]}):
            raise msgspec.ValidationError(f"Object contains unknown field `{min(unknown)}`")
        return given


def cast_part(cast: Cast, step: str, value: Any) -> Any:
    """Cast what the whole has at this step."""
    try:
        return cast(value)
    except Exception as error:
        raise misplaced(error, step) from error


def array_in(value: Any) -> Sequence[Any]:
    """The value, if it is an array."""
    if not isinstance(value, (list, tuple)):
        raise msgspec.ValidationError(f"Expected `array`, got `{json_name(value)}`")
    return value


def object_in(value: Any) -> Mapping[str, Any]:
    """The value, if it is an object."""
    if not isinstance(value, dict):
        raise msgspec.ValidationError(f"Expected `object`, got `{json_name(value)}`")
    return value


def json_name(value: object) -> str:
    """Return JSON's name for a value of this kind."""
    names = {NoneType: "null", dict: "object", list: "array", tuple: "array"}
    return names.get(type(value), type(value).__name__)
