"""A JSON Schema (2020-12) of the configuration file, from what the settings say of themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pgbus.config.apis import SPELLINGS, ApiConfig
from pgbus.config.dsn import PATTERN as DSN
from pgbus.config.features import FEATURES
from pgbus.config.fields import About, about, kinds
from pgbus.config.files import VARIABLE_NAME
from pgbus.config.names import PLACEHOLDERS
from pgbus.config.settings import NAMESPACE, Config
from pgbus.topics import TOPIC

_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", NoneType: "null"}
_VARIABLE = {"$ref": "#/$defs/variable"}
_NAME_PATTERN = rf"^([^{{}}]|\{{({'|'.join(PLACEHOLDERS)})\}})*$"
_PATTERNS = {
    "dsn": f"^{DSN.pattern}",
    "direct_dsn": f"^{DSN.pattern}",
    "namespace": f"^{NAMESPACE.pattern}$",
    "service_name": _NAME_PATTERN,
    "process_name": _NAME_PATTERN,
    "features": rf"^[\s,]*(({'|'.join(FEATURES)})\s*(,[\s,]*|$))*$",
}


def file_schema(plugins: Mapping[str, Mapping[str, object]]) -> dict[str, object]:
    """The schema of a whole file; `plugins` are the schemas of the options of those that are installed, by name."""
    properties = _properties(Config)
    properties["apis"] = {
        "description": "Settings by API name; those of `default` hold for every API",
        "type": "object",
        "propertyNames": {"pattern": f"^{TOPIC.pattern}$"},
        "additionalProperties": {"$ref": "#/$defs/api"},
    }
    properties["plugins"] = {
        "description": "Options by plugin name",
        "type": "object",
        "properties": dict(plugins),
        "additionalProperties": False,
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "pgbus configuration",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "$defs": {"api": _api(), "variable": _variable()},
    }


def or_variable(schema: Mapping[str, object]) -> dict[str, object]:
    """Return the schema of a value, or of a string with a variable."""
    described = {name: value for name, value in schema.items() if name in ("description", "default")}
    rest = {name: value for name, value in schema.items() if name not in described}
    return {**described, "anyOf": [rest, _VARIABLE]}


def _api() -> dict[str, object]:
    properties = _properties(ApiConfig)
    directions = {spelling.removeprefix("validate."): properties.pop(name) for name, spelling in SPELLINGS.items()}
    properties["validate"] = {
        "description": "Check what is sent and received: both ways, or each by itself",
        "anyOf": [
            {"type": "boolean"},
            _VARIABLE,
            {"type": "object", "properties": directions, "additionalProperties": False},
        ],
    }
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _variable() -> dict[str, object]:
    return {
        "description": "A string with variables: ${NAME}",
        "type": "string",
        "pattern": rf"(^|[^$])\$\{{{VARIABLE_NAME}\}}",
    }


def _properties(cls: type) -> dict[str, object]:
    defaults = {field.name: field.default for field in fields(cls)}
    return {name: _property(name, kind, about(cls, name), defaults[name]) for name, kind in kinds(cls).items()}


def _property(name: str, kind: Any, meaning: About, default: object) -> dict[str, object]:
    schema: dict[str, object] = {"description": str(meaning)}
    if default is not None:
        schema["default"] = default
    if get_origin(kind) is Literal:
        schema["enum"] = list(get_args(kind))
    else:
        types = [_TYPES[one] for one in get_args(kind) or (kind,)]
        schema["type"] = types if len(types) > 1 else types[0]
        schema |= _limits(meaning, is_text="string" in types)
    if name in _PATTERNS:
        schema["pattern"] = _PATTERNS[name]
    return or_variable(schema)


def _limits(meaning: About, *, is_text: bool) -> dict[str, object]:
    names = ("minLength", "maxLength") if is_text else ("minimum", "maximum")
    limits = zip(names, (meaning.minimum, meaning.maximum), strict=True)
    return {
        name: int(limit) if float(limit).is_integer() else limit for name, limit in limits if abs(limit) != float("inf")
    }
