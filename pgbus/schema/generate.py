"""From Python types to JSON Schema (2020-12): of events, of procedures, and of what listeners take.

Types are read as values are cast and sent; pydantic models and `__to_bus__` classes speak for themselves. Docstrings
are left out: a schema is new when its shape is.
"""

from __future__ import annotations

import collections.abc
import enum
import logging
import re
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal

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
from pgbus.schema.fields import Field, Fields
from pgbus.schema.keywords import SCALARS, Schema, constrained, defaults_of, enum_of, one_of, tuple_of, with_default

logger = logging.getLogger("pgbus")

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_DEFS = "#/$defs/"
_ARRAYS = frozenset(
    (
        list, tuple, set, frozenset, collections.abc.Sequence, collections.abc.MutableSequence, collections.abc.Set,
        collections.abc.Collection, collections.abc.MutableSet, collections.abc.Iterable,
    )
)  # fmt: skip
_MAPPINGS = frozenset((dict, collections.abc.Mapping, collections.abc.MutableMapping))


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
        return schema if field.default is EMPTY else with_default(schema, field.default)

    def of(self, hint: Any) -> Schema:
        """The schema of a type; {}, with a warning, of a type that has none."""
        try:
            return self._schema(hint)
        except Exception as error:  # type hints and models run code of other people
            logger.warning("%r has no JSON Schema, so its schema accepts anything: %s", hint, error)
            return {}

    def _schema(self, hint: Any) -> Schema:
        if is_alias(hint) and is_recursive(hint):
            return self._reference(hint, lambda: self._schema(value_of(hint)))
        hint = bare(hint)
        members = list(members_of(hint))
        if len(members) != 1:
            return one_of([self._schema(one) for one in members])
        origin, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
        if origin is Annotated:
            return constrained(self._schema(hint.__origin__), hint.__metadata__)
        if origin is Literal:
            return enum_of(arguments)
        if hint is Any or hint is msgspec.Raw:
            return {}
        if origin is tuple and arguments and arguments[-1] is not ...:
            return {"type": "array", **tuple_of([self._schema(one) for one in arguments], at_least=len(arguments))}
        if origin in _ARRAYS:
            items = self._schema(arguments[0]) if arguments else {}
            return {"type": "array", **({"items": items} if items else {})}
        if origin in _MAPPINGS:
            return self._mapping(*arguments)
        return self._class(hint, class_of(hint))

    def _class(self, hint: Any, cls: Any) -> Schema:
        if cls is not None and hasattr(cls, "__to_bus__"):
            return self._sent(cls)
        if cls in SCALARS:
            return dict(SCALARS[cls])
        if isinstance(cls, type) and issubclass(cls, enum.Enum):
            return self._reference(cls, lambda: {"title": cls.__name__, **enum_of(member.value for member in cls)})
        if is_pydantic(cls) or (cls is not None and "__pydantic_validator__" in vars(cls)):
            return self._reference(cls, lambda: self._pydantic(cls))
        shape = shape_of(hint)
        if shape is not None:
            return self._reference(hint, lambda: self._fields(shape, title=_name(hint)))
        logger.warning(
            "%r cannot be described by a JSON Schema; give it a `__to_bus__` method with a return annotation", cls
        )
        return {}

    def _fields(self, shape: Shape, *, title: str) -> Schema:
        defaults = defaults_of(shape)
        properties = {
            one.key: with_default(self._schema(one.hint), defaults[one.name])
            if one.name in defaults
            else self._schema(one.hint)
            for one in shape.fields
        }
        required = [one.key for one in shape.fields if one.is_required]
        config = shape.cls.__struct_config__ if issubclass(shape.cls, msgspec.Struct) else None
        if config and config.tag_field is not None:
            properties = {config.tag_field: enum_of([config.tag]), **properties}
            required.insert(0, config.tag_field)
        if config and config.array_like:
            items = tuple_of(list(properties.values()), at_least=len(required))
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
        """Return the return annotation of `__to_bus__`."""
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
        """Add a schema that other code made; its definitions are added to ours, under other names if theirs are
        taken.
        """
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
