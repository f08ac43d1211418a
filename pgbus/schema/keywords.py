"""JSON Schema's keywords, from what Python says: scalars, limits, choices, defaults."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, TypeAlias
from uuid import UUID

import msgspec

from pgbus.codec.annotations import Shape
from pgbus.codec.payloads import encode
from pgbus.errors import InvalidEventError

Schema: TypeAlias = dict[str, Any]

_NO_LIMIT = 1 << 40  # bytes
SCALARS: Mapping[Any, Schema] = {
    type(None): {"type": "null"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    str: {"type": "string"},
    complex: {"type": "string"},
    **{cls: {"type": "string", "contentEncoding": "base64"} for cls in (bytes, bytearray, memoryview)},
    datetime: {"type": "string", "format": "date-time"},
    date: {"type": "string", "format": "date"},
    time: {"type": "string", "format": "time"},
    timedelta: {"type": "string", "format": "duration"},
    UUID: {"type": "string", "format": "uuid"},
    Decimal: {"type": "string", "format": "decimal"},
}
_SIZES = {"array": ("minItems", "maxItems"), "object": ("minProperties", "maxProperties")}
_PRIMITIVES = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
_BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
# A default factory that gives the same value each time.
_PLAIN_FACTORIES = (list, dict, set, frozenset, tuple, str, int, float, bool)


def constrained(schema: Schema, metadata: Iterable[Any]) -> Schema:
    """The schema with the limits of msgspec's Meta."""
    limited = dict(schema)
    for meta in metadata:
        if not isinstance(meta, msgspec.Meta):
            continue
        sizes = _SIZES.get(str(schema.get("type")), ("minLength", "maxLength"))
        limited |= _given(
            **{name: getattr(meta, attribute) for attribute, name in _BOUNDS.items()},
            multipleOf=meta.multiple_of,
            pattern=meta.pattern,
            **dict(zip(sizes, (meta.min_length, meta.max_length), strict=True)),
        )
        limited |= meta.extra_json_schema or {}
    return limited


def defaults_of(shape: Shape) -> dict[str, Any]:
    """The defaults of a class's fields, by name. That a field has one says that it is always sent."""
    if shape.kind == "named tuple":
        return dict(shape.cls._field_defaults)  # type: ignore[attr-defined] # a named tuple
    if shape.kind == "attrs class":
        return {
            one.name: one.default.factory() if hasattr(one.default, "factory") else one.default
            for one in shape.cls.__attrs_attrs__  # type: ignore[attr-defined] # an attrs class
            if getattr(one.default, "factory", None) in _PLAIN_FACTORIES
            or (not hasattr(one.default, "factory") and type(one.default).__name__ != "_Nothing")
        }
    if shape.kind == "dataclass":
        members: Iterable[Any] = dataclasses.fields(shape.cls)
    elif shape.kind == "Struct" and not shape.cls.__struct_config__.omit_defaults:  # type: ignore[attr-defined]
        members = msgspec.structs.fields(shape.cls)
    else:
        return {}
    return {
        one.name: one.default_factory() if _is_missing(one.default) else one.default
        for one in members
        if not _is_missing(one.default) or one.default_factory in _PLAIN_FACTORIES
    }


def _is_missing(default: Any) -> bool:
    return default is dataclasses.MISSING or default is msgspec.NODEFAULT


def one_of(options: Sequence[Schema]) -> Schema:
    """Any of these schemas; {} if one of them says nothing."""
    unique = [option for index, option in enumerate(options) if option not in options[:index]]
    if not all(unique):
        return {}
    return unique[0] if len(unique) == 1 else {"anyOf": unique}


def enum_of(values: Iterable[Any]) -> Schema:
    """Return the schema of a choice of these values."""
    plain = [value.value if isinstance(value, enum.Enum) else value for value in values]
    found = msgspec.json.decode(msgspec.json.encode(plain))
    kinds = list(dict.fromkeys(_PRIMITIVES.get(type(value)) for value in found))
    # Sorted, because the order of members is not part of the shape.
    ordered = sorted(found, key=lambda value: (type(value).__name__, str(value)))
    return {**({"type": kinds[0]} if len(kinds) == 1 and kinds[0] else {}), "enum": ordered}


def tuple_of(items: list[Schema], *, at_least: int) -> Schema:
    """The limits of an array with an item for each of these schemas, or for the first `at_least` of them."""
    return {
        **({"prefixItems": items} if items else {}),
        "minItems": at_least,
        "maxItems": len(items),
    }


def _given(**limits: Any) -> Schema:
    return {name: limit for name, limit in limits.items() if limit is not None}


def with_default(schema: Schema, default: Any) -> Schema:
    """The schema with a default, if that has a JSON form."""
    try:
        plain = msgspec.json.decode(encode(default, limit=_NO_LIMIT))
    except InvalidEventError:
        return schema
    return {**schema, "default": plain}
