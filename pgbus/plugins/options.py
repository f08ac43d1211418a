"""A plugin's options: the parameters of its `from_config`, read from the configuration into their annotations."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, get_type_hints

import msgspec

from pgbus.config import has_variables, or_variable
from pgbus.config.fields import check_name, place, refusal
from pgbus.errors import ConfigurationError

ENABLED = "enabled"


@dataclass(frozen=True, slots=True)
class Option:
    """An option of a plugin."""

    name: str
    kind: Any
    default: Any


def options_of(plugin_name: str, cls: type) -> dict[str, Option]:
    """The options of a plugin's class; raises ConfigurationError for a `from_config` that makes no sense."""
    function = inspect.unwrap(getattr(cls, "from_config").__func__)  # noqa: B009 - an attribute of any class
    hints = _hints(plugin_name, function)
    found = {}
    for parameter in list(inspect.signature(function).parameters.values())[1:]:
        if parameter.name == "config":
            continue
        found[parameter.name] = _option(plugin_name, parameter, hints)
    return found


def is_enabled(given: Mapping[str, object], *, label: str, source: str) -> bool:
    """Whether the options enable the plugin."""
    enabled: bool = _read(given.get(ENABLED, False), bool, label=f"{label}.{ENABLED}", source=source)
    return enabled


def read_options(
    options: Mapping[str, Option], given: Mapping[str, object], *, label: str, sources: Mapping[str, str]
) -> dict[str, object]:
    """Return the arguments of `from_config`; raises ConfigurationError naming the wrong option."""
    values = {}
    for name, value in given.items():
        source = sources.get(f"{label}.{name}", "argument")
        check_name(name, [ENABLED, *options], where=place(label, source))
        if name != ENABLED:
            values[name] = _read(value, options[name].kind, label=f"{label}.{name}", source=source)
    return values


def options_schema(options: Mapping[str, Option], *, plugin_name: str) -> dict[str, object]:
    """A JSON Schema of a plugin's table in the configuration."""
    properties: dict[str, object] = {ENABLED: or_variable({"type": "boolean", "default": False})}
    for option in options.values():
        schema = msgspec.json.schema(option.kind, schema_hook=lambda _: {"type": "string"})
        if "$defs" in schema:  # what it refers to is in itself
            schema["$id"] = f"plugins/{plugin_name}/{option.name}"
        properties[option.name] = or_variable({"default": msgspec.to_builtins(option.default, enc_hook=str), **schema})
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _option(plugin_name: str, parameter: inspect.Parameter, hints: Mapping[str, Any]) -> Option:
    label = f"plugin {plugin_name!r}: parameter {parameter.name!r} of from_config"
    if parameter.kind is not parameter.KEYWORD_ONLY:
        raise ConfigurationError(f"{label} is not keyword-only; write a '*' after `cls`")
    if parameter.name == ENABLED:
        raise ConfigurationError(f"{label} is an option of every plugin; leave it out")
    if parameter.default is parameter.empty:
        raise ConfigurationError(f"{label} needs a default")
    kind = hints.get(parameter.name, type(parameter.default))
    try:
        msgspec.json.Decoder(kind, dec_hook=_made)
    except TypeError as error:
        raise ConfigurationError(
            f"{label} is annotated {kind!r}, to which no value can be converted: {error}"
        ) from None
    return Option(parameter.name, kind, parameter.default)


def _hints(plugin_name: str, function: Callable[..., Any]) -> Mapping[str, Any]:
    try:
        # Of the options alone: what `config` is annotated with may be imported for type checkers only.
        wanted = {name: hint for name, hint in function.__annotations__.items() if name not in ("config", "return")}
        return get_type_hints(
            SimpleNamespace(__annotations__=wanted), globalns=function.__globals__, include_extras=True
        )
    except NameError as error:
        raise ConfigurationError(f"plugin {plugin_name!r}: an annotation of from_config is unknown: {error}") from None


def _read(value: object, kind: Any, *, label: str, source: str) -> Any:
    try:
        return msgspec.convert(value, kind, strict=not has_variables(value), dec_hook=_made)
    except (msgspec.ValidationError, TypeError) as error:
        raise refusal(label, source, f"does not fit: {error}") from None


def _made(kind: type, value: object) -> object:
    """A value of a class that msgspec does not know, such as a Path."""
    return kind(value)
