"""From Python types to JSON Schema (2020-12): of events, of procedures, and of what listeners take.

Types are read as values are cast and sent; pydantic models and `__to_bus__` classes speak for themselves. Docstrings
are left out: a schema is new when its shape is.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import enum
import inspect
import logging
import re
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, TypeAlias
from uuid import UUID

import msgspec

from pgbus.codec.annotations import (
    EMPTY,
    Shape,
    bare,
    class_of,
    declared_type,
    is_alias,
    is_pydantic,
    is_recursive,
    members_of,
    shape_of,
    value_of,
)
from pgbus.codec.json import encode
from pgbus.errors import InvalidEventError

logger = logging.getLogger("pgbus")

Schema: TypeAlias = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_DEFS = "#/$defs/"
_NO_LIMIT = 1 << 40  # bytes
_SCALARS: Mapping[Any, Schema] = {
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
_ARRAYS = frozenset(
    (
        list, tuple, set, frozenset, collections.abc.Sequence, collections.abc.MutableSequence, collections.abc.Set,
        collections.abc.Collection, collections.abc.MutableSet, collections.abc.Iterable,
    )
)  # fmt: skip
_MAPPINGS = frozenset((dict, collections.abc.Mapping, collections.abc.MutableMapping))
_SIZES = {"array": ("minItems", "maxItems"), "object": ("minProperties", "maxProperties")}
_PRIMITIVES = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
_BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
# A default factory that gives the same value each time.
_PLAIN_FACTORIES = (list, dict, set, frozenset, tuple, str, int, float, bool)


@dataclass(frozen=True, slots=True)
class Field:
    """A named argument; EMPTY stands for no annotation, and for no default, in which case it is required."""

    name: str
    annotation: Any = EMPTY
    default: Any = EMPTY
    is_required: bool = True


@dataclass(frozen=True, slots=True)
class Fields:
    """The arguments that something takes by name; `is_open` for any others beside them."""

    fields: Sequence[Field]
    is_open: bool = False


def signature_fields(handler: Callable[..., Any], hints: Mapping[str, Any]) -> Fields:
    """What a function takes by name; its annotations are given, as they may have been resolved already."""
    parameters = list(inspect.signature(handler).parameters.values())
    return Fields(
        [
            Field(one.name, hints.get(one.name, EMPTY), one.default, is_required=one.default is EMPTY)
            for one in parameters
            if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
        ],
        is_open=any(one.kind is one.VAR_KEYWORD for one in parameters),
    )


def payload_schema(shape: Any, *, title: str) -> Schema:
    """The schema of a payload: of named arguments (Fields), or of a type, such as an event class."""
    return parameters_schema(shape, title=title) if isinstance(shape, Fields) else type_schema(shape, title=title)


def parameters_schema(shape: Fields, *, title: str) -> Schema:
    """The schema of an object that holds the arguments."""
    generator = _Generator()
    properties = {field.name: generator.field(field) for field in shape.fields}
    required = [field.name for field in shape.fields if field.is_required]
    return _document(
        title,
        {
            "type": "object",
            "properties": properties,
            **({"required": required} if required else {}),
            "additionalProperties": shape.is_open,
        },
        generator.definitions,
    )


def type_schema(annotation: Any, *, title: str) -> Schema:
    """The schema of a type; of one without any, and of Any, it says nothing."""
    generator = _Generator()
    schema = generator.of(annotation)
    definitions = generator.definitions
    if (reference := schema.get("$ref")) and len(schema) == 1:
        name = reference.removeprefix(_DEFS)
        schema = dict(definitions[name])
        if not _mentions(definitions.values(), reference):
            del definitions[name]
    return _document(title, schema, definitions)


def _document(title: str, schema: Schema, definitions: Mapping[str, Schema]) -> Schema:
    rest = {name: value for name, value in schema.items() if name != "title"}
    return {"$schema": DIALECT, "title": title, **rest, **({"$defs": dict(definitions)} if definitions else {})}


def _mentions(part: Any, reference: str) -> bool:
    if isinstance(part, Mapping):
        return part.get("$ref") == reference or _mentions(part.values(), reference)
    if isinstance(part, str | bytes) or not isinstance(part, Iterable):
        return False
    return any(_mentions(one, reference) for one in part)


class _Generator:
    """Schemas of types that share their definitions."""

    def __init__(self) -> None:
        self.definitions: dict[str, Schema] = {}
        self._names: dict[Any, str] = {}
        self._sending: list[Any] = []

    def field(self, field: Field) -> Schema:
        """The schema of an argument, with its default."""
        schema = self.of(declared_type(field))
        return schema if field.default is EMPTY else _with_default(schema, field.default)

    def of(self, hint: Any) -> Schema:
        """The schema of a type; {}, with a warning, of one that nobody knows."""
        try:
            return self._schema(hint)
        except Exception as error:  # type hints and models run code of other people
            logger.warning("%r has no JSON Schema, so nothing is said of it: %s", hint, error)
            return {}

    def _schema(self, hint: Any) -> Schema:
        if is_alias(hint) and is_recursive(hint):
            return self._reference(hint, lambda: self._schema(value_of(hint)))
        hint = bare(hint)
        members = list(members_of(hint))
        if len(members) != 1:
            return _one_of([self._schema(one) for one in members])
        origin, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
        if origin is Annotated:
            return _constrained(self._schema(hint.__origin__), hint.__metadata__)
        if origin is Literal:
            return _values(arguments)
        if hint is Any or hint is msgspec.Raw:
            return {}
        if origin is tuple and arguments and arguments[-1] is not ...:
            return {"type": "array", **_tuple([self._schema(one) for one in arguments], at_least=len(arguments))}
        if origin in _ARRAYS:
            items = self._schema(arguments[0]) if arguments else {}
            return {"type": "array", **({"items": items} if items else {})}
        if origin in _MAPPINGS:
            return self._mapping(*arguments)
        return self._class(hint, class_of(hint))

    def _class(self, hint: Any, cls: Any) -> Schema:
        if cls is not None and hasattr(cls, "__to_bus__"):
            return self._sent(cls)
        if cls in _SCALARS:
            return dict(_SCALARS[cls])
        if isinstance(cls, type) and issubclass(cls, enum.Enum):
            return self._reference(cls, lambda: {"title": cls.__name__, **_values(member.value for member in cls)})
        if is_pydantic(cls) or (cls is not None and "__pydantic_validator__" in vars(cls)):
            return self._reference(cls, lambda: self._pydantic(cls))
        shape = shape_of(hint)
        if shape is not None:
            return self._reference(hint, lambda: self._fields(shape, title=_name(hint)))
        logger.warning(
            "nothing can be said of %r in a JSON Schema; give it a `__to_bus__` method with a return annotation", cls
        )
        return {}

    def _fields(self, shape: Shape, *, title: str) -> Schema:
        defaults = _defaults(shape)
        properties = {
            one.key: _with_default(self._schema(one.hint), defaults[one.name])
            if one.name in defaults
            else self._schema(one.hint)
            for one in shape.fields
        }
        required = [one.key for one in shape.fields if one.is_required]
        config = shape.cls.__struct_config__ if issubclass(shape.cls, msgspec.Struct) else None
        if config and config.tag_field is not None:
            properties = {config.tag_field: _values([config.tag]), **properties}
            required.insert(0, config.tag_field)
        if config and config.array_like:
            items = _tuple(list(properties.values()), at_least=len(required))
            if not config.forbid_unknown_fields:  # further items are passed over
                del items["maxItems"]
            return {"title": title, "type": "array", **items}
        return {
            "title": title,
            "type": "object",
            "properties": properties,
            **({"required": required} if required else {}),
            **({"additionalProperties": False} if config and config.forbid_unknown_fields else {}),
        }

    def _mapping(self, key: Any = str, value: Any = Any) -> Schema:
        keys, values = self._schema(key), self._schema(value)
        names = {name: limit for name, limit in keys.items() if name in ("pattern", "minLength", "maxLength", "enum")}
        return {
            "type": "object",
            **({"propertyNames": names} if names and keys.get("type") == "string" else {}),
            **({"additionalProperties": values} if values else {}),
        }

    # -------------------------------------------------------------------------- classes that speak for themselves

    def _sent(self, cls: Any) -> Schema:
        """What `__to_bus__` says that it returns."""
        if cls in self._sending:
            return {}
        self._sending.append(cls)
        try:
            return self.of(typing.get_type_hints(cls.__to_bus__, include_extras=True).get("return", EMPTY))
        finally:
            self._sending.pop()

    def _pydantic(self, cls: Any) -> Schema:
        if hasattr(cls, "model_json_schema"):
            schema = cls.model_json_schema()
        else:
            import pydantic

            schema = pydantic.TypeAdapter(cls).json_schema()
        return self._adopt(schema, own_name=self._names[cls])

    def _adopt(self, schema: Schema, *, own_name: str) -> Schema:
        """A schema made elsewhere; its definitions are put beside ours, under other names where these are taken."""
        inner: dict[str, Schema] = schema.pop("$defs", {})
        # A model that holds itself is among its own definitions.
        root = schema["$ref"].removeprefix(_DEFS) if set(schema) == {"$ref"} else None
        names = {name: own_name if name == root else self._free_name(name, content) for name, content in inner.items()}
        for content in (schema, *inner.values()):
            content.pop("description", None)  # the docstring of a class
        for name, content in inner.items():
            if name != root:
                self.definitions[names[name]] = _rename(content, names)
        found: Schema = _rename(schema if root is None else inner[root], names)
        return found

    def _free_name(self, name: str, content: Schema) -> str:
        candidate, number = name, 1
        while candidate in self.definitions and self.definitions[candidate] != content:
            number += 1
            candidate = f"{name}_{number}"
        return candidate

    # ----------------------------------------------------------------------------------------------------- definitions

    def _reference(self, cls: Any, make: Callable[[], Schema]) -> Schema:
        name = self._names.get(cls)
        if name is None:
            name = _plain(_name(cls))
            if name in self.definitions:
                name = _plain(f"{cls.__module__}.{getattr(cls, '__qualname__', cls.__name__)}")
            self._names[cls] = name
            self.definitions[name] = {}  # taken, should the class hold itself
            self.definitions[name] = make()
        return {"$ref": f"{_DEFS}{name}"}


def _constrained(schema: Schema, metadata: Iterable[Any]) -> Schema:
    """The schema with what msgspec's Meta demands."""
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


def _defaults(shape: Shape) -> dict[str, Any]:
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


def _one_of(options: Sequence[Schema]) -> Schema:
    unique = [option for index, option in enumerate(options) if option not in options[:index]]
    if not all(unique):
        return {}
    return unique[0] if len(unique) == 1 else {"anyOf": unique}


def _values(values: Iterable[Any]) -> Schema:
    plain = [value.value if isinstance(value, enum.Enum) else value for value in values]
    found = msgspec.json.decode(msgspec.json.encode(plain))
    kinds = list(dict.fromkeys(_PRIMITIVES.get(type(value)) for value in found))
    # Sorted, since the order of members is no part of the shape.
    ordered = sorted(found, key=lambda value: (type(value).__name__, str(value)))
    return {**({"type": kinds[0]} if len(kinds) == 1 and kinds[0] else {}), "enum": ordered}


def _tuple(items: list[Schema], *, at_least: int) -> Schema:
    return {
        **({"prefixItems": items} if items else {}),
        "minItems": at_least,
        "maxItems": len(items),
    }


def _given(**limits: Any) -> Schema:
    return {name: limit for name, limit in limits.items() if limit is not None}


def _with_default(schema: Schema, default: Any) -> Schema:
    try:
        plain = msgspec.json.decode(encode(default, limit=_NO_LIMIT))
    except InvalidEventError:
        return schema
    return {**schema, "default": plain}


def _rename(part: Any, names: Mapping[str, str]) -> Any:
    if isinstance(part, dict):
        renamed = {key: _rename(value, names) for key, value in part.items()}
        if isinstance(reference := part.get("$ref"), str):
            name = reference.removeprefix(_DEFS)
            renamed["$ref"] = f"{_DEFS}{names.get(name, name)}"
        return renamed
    return [_rename(one, names) for one in part] if isinstance(part, list) else part


def _name(cls: Any) -> str:
    if (origin := typing.get_origin(cls)) is not None:
        arguments = ", ".join(getattr(one, "__name__", repr(one)) for one in typing.get_args(cls))
        return f"{origin.__name__}[{arguments}]"
    name: str = cls.__name__
    return name


def _plain(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name).strip("_")
