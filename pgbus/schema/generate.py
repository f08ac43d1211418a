"""From Python types to JSON Schema (2020-12): of events, of procedures, and of what listeners take.

msgspec reads the types; pydantic models and `__to_bus__` classes speak for themselves. Docstrings are left out: a
schema is new when its shape is.
"""

from __future__ import annotations

import enum
import inspect
import logging
import re
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec
from msgspec import inspect as mi

from pgbus.annotations import EMPTY, declared_type, members_of
from pgbus.codec import encode
from pgbus.errors import InvalidEventError

logger = logging.getLogger("pgbus")

Schema: TypeAlias = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_DEFS = "#/$defs/"
_NO_LIMIT = 1 << 40  # bytes
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

    def of(self, annotation: Any) -> Schema:
        """The schema of a type; {}, with a warning, of one that nobody knows."""
        if annotation is EMPTY or annotation is Any or annotation is object:
            return {}
        try:
            return self._schema(mi.type_info(annotation))
        except Exception as error:  # type hints and models run code of other people
            members = tuple(members_of(annotation))
            if len(members) > 1:  # msgspec refuses unions of classes, of which we take the first that fits
                return _one_of([self.of(member) for member in members])
            logger.warning("%r has no JSON Schema, so nothing is said of it: %s", annotation, error)
            return {}

    def _schema(self, info: mi.Type) -> Schema:
        cls = getattr(info, "cls", None)
        if cls is not None and hasattr(cls, "__to_bus__"):
            return self._sent(cls)
        match info:
            case mi.Metadata():
                return {**self._schema(info.type), **(info.extra_json_schema or {})}
            case mi.AnyType() | mi.RawType():
                return {}
            case mi.UnionType():
                return _one_of([self._schema(one) for one in info.types])
            case mi.LiteralType():
                return _values(info.values)
            case mi.DictType():
                return self._mapping(info)
            case mi.TupleType():
                items = [self._schema(one) for one in info.item_types]
                return {"type": "array", **_tuple(items, at_least=len(items))}
            case mi.CollectionType():
                items_schema = self._schema(info.item_type)
                limits = _given(minItems=info.min_length, maxItems=info.max_length)
                return {"type": "array", **({"items": items_schema} if items_schema else {}), **limits}
            case mi.EnumType() | mi.StructType() | mi.DataclassType() | mi.TypedDictType() | mi.NamedTupleType():
                return self._reference(info.cls, lambda: self._named(info))
            case mi.CustomType():
                return self._custom(info.cls)
            case _:
                return _scalar(info)

    def _named(self, info: Any) -> Schema:
        if isinstance(info, mi.EnumType):
            return {"title": info.cls.__name__, **_values([member.value for member in info.cls])}
        if "__pydantic_validator__" in vars(info.cls):
            return self._pydantic(info.cls)
        return self._fields(info)

    def _fields(self, info: Any) -> Schema:
        omits = isinstance(info, mi.StructType) and info.cls.__struct_config__.omit_defaults
        properties = {one.encode_name: self._member(one, is_omitted=omits) for one in info.fields}
        required = [one.encode_name for one in info.fields if one.required]
        if isinstance(info, mi.StructType) and info.tag_field is not None:
            properties = {info.tag_field: _values([info.tag]), **properties}
            required.insert(0, info.tag_field)
        if isinstance(info, mi.StructType) and info.array_like:
            items = _tuple(list(properties.values()), at_least=len(required))
            if not info.forbid_unknown_fields:  # further items are passed over
                items = {name: value for name, value in items.items() if name in ("prefixItems", "minItems")}
            return {"title": _name(info.cls), "type": "array", **items}
        is_closed = isinstance(info, mi.StructType) and info.forbid_unknown_fields
        return {
            "title": _name(info.cls),
            "type": "object",
            "properties": properties,
            **({"required": required} if required else {}),
            **({"additionalProperties": False} if is_closed else {}),
        }

    def _member(self, member: mi.Field, *, is_omitted: bool) -> Schema:
        """A field of a class. That it has a default says that it is always sent, unless defaults are omitted."""
        schema = self._schema(member.type)
        if is_omitted:
            return schema
        if member.default is not msgspec.NODEFAULT:
            return _with_default(schema, member.default)
        if member.default_factory in _PLAIN_FACTORIES:
            return _with_default(schema, member.default_factory())
        return schema

    def _mapping(self, info: mi.DictType) -> Schema:
        keys, values = self._schema(info.key_type), self._schema(info.value_type)
        names = {name: value for name, value in keys.items() if name in ("pattern", "minLength", "maxLength", "enum")}
        return {
            "type": "object",
            **({"propertyNames": names} if names else {}),
            **({"additionalProperties": values} if values else {}),
            **_given(minProperties=info.min_length, maxProperties=info.max_length),
        }

    # ------------------------------------------------------------------------------- classes that msgspec does not know

    def _custom(self, cls: Any) -> Schema:
        if cls is complex:
            return {"type": "string"}
        if hasattr(cls, "model_json_schema"):
            return self._reference(cls, lambda: self._pydantic(cls))
        logger.warning(
            "nothing can be said of %r in a JSON Schema; give it a `__to_bus__` method with a return annotation", cls
        )
        return {}

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
                name = _plain(f"{cls.__module__}.{cls.__qualname__}")
            self._names[cls] = name
            self.definitions[name] = {}  # taken, should the class hold itself
            self.definitions[name] = make()
        return {"$ref": f"{_DEFS}{name}"}


def _scalar(info: mi.Type) -> Schema:
    match info:
        case mi.NoneType():
            return {"type": "null"}
        case mi.BoolType():
            return {"type": "boolean"}
        case mi.IntType() | mi.FloatType():
            bounds = {name: getattr(info, attribute) for attribute, name in _BOUNDS.items()}
            kind = "integer" if isinstance(info, mi.IntType) else "number"
            return {"type": kind, **_given(**bounds, multipleOf=info.multiple_of)}
        case mi.StrType():
            limits = _given(minLength=info.min_length, maxLength=info.max_length, pattern=info.pattern)
            return {"type": "string", **limits}
        case mi.BytesType() | mi.ByteArrayType() | mi.MemoryViewType():
            return {"type": "string", "contentEncoding": "base64"}
    for kind, text_format in _FORMATS:
        if isinstance(info, kind):
            return {"type": "string", "format": text_format}
    raise TypeError(f"JSON has no {info!r}")


_FORMATS: tuple[tuple[Any, str], ...] = (
    (mi.DateTimeType, "date-time"),
    (mi.DateType, "date"),
    (mi.TimeType, "time"),
    (mi.TimeDeltaType, "duration"),
    (mi.UUIDType, "uuid"),
    (mi.DecimalType, "decimal"),
)


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
