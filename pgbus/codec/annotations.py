"""Reads annotations: the type of a parameter, and the fields of a class.

Casts, checks and schemas all use this module, so that they agree.
"""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from types import NoneType
from typing import Annotated, Any, Final, Literal, NewType, NotRequired, Protocol, Required, TypeAlias, TypeVar, Union
from uuid import UUID

import msgspec

from pgbus.errors import ConfigurationError

EMPTY = inspect.Parameter.empty

Kind: TypeAlias = Literal["named tuple", "dataclass", "attrs class", "Struct", "TypedDict"]

# What a default alone says of its parameter: its type, if that is one of these, or an Enum.
_TELLING = frozenset(
    (bool, int, float, complex, str, bytes, list, dict, tuple, set, Decimal, UUID, datetime, date, time, timedelta)
)
# What a field is marked with. `ReadOnly` is of Python 3.13.
_MARKS = (Required, NotRequired, Final, getattr(typing, "ReadOnly", Final))


class Declared(Protocol):
    """A parameter: of an event, or of a function whose annotations were resolved."""

    @property
    def annotation(self) -> Any: ...  # noqa: D102 - as in inspect.Parameter
    @property
    def default(self) -> Any: ...  # noqa: D102


def declared_type(parameter: Declared) -> Any:
    """The type of a parameter: its annotation, or None where that is its default; without one, its default's type.

    `Any` where neither says anything.
    """
    annotation, default = parameter.annotation, parameter.default
    if annotation is not EMPTY:
        if bare(annotation) is Any:
            return Any
        return _or_none(annotation) if default is None else annotation
    return type(default) if type(default) in _TELLING or isinstance(default, Enum) else Any


def _or_none(hint: Any) -> Any:
    """Return the union of a type and None."""
    while typing.get_origin(hint) in _MARKS:
        hint = typing.get_args(hint)[0]
    inner = bare(hint)
    return hint if inner is Any or NoneType in members_of(inner) else Union[hint, None]  # noqa: UP007 - of any hint


# ------------------------------------------------------------------------------------------------------------ spellings


def bare(hint: Any) -> Any:
    """The type without what makes no difference to a value: NewType, aliases, type variables, `Annotated`, `Final`, ...

    `Annotated` stays where msgspec's constraints are, as they do make one.
    """
    while True:
        origin = typing.get_origin(hint)
        if origin in _MARKS:
            hint = typing.get_args(hint)[0]
        elif origin is Annotated and not any(isinstance(extra, msgspec.Meta) for extra in hint.__metadata__):
            hint = hint.__origin__
        elif isinstance(hint, NewType):
            hint = hint.__supertype__
        elif isinstance(hint, TypeVar):
            hint = Any if hint.__bound__ is None else hint.__bound__
        elif is_alias(hint):
            hint = value_of(hint)
        elif hint is EMPTY or hint is object:
            return Any
        else:
            return NoneType if hint is None else hint


def is_alias(hint: Any) -> bool:
    """Whether it is a `type X = ...` of Python 3.12, or one with parameters that are given."""
    return type(typing.get_origin(hint) or hint).__name__ == "TypeAliasType"


def value_of(alias: Any) -> Any:
    """Return the type that an alias stands for; raises ConfigurationError for a member of itself."""
    _refuse_circle(alias, ())
    return _value_of(alias)


def _value_of(alias: Any) -> Any:
    origin = typing.get_origin(alias)
    if origin is None:
        return alias.__value__
    return _filled(origin.__value__, dict(zip(origin.__type_params__, typing.get_args(alias), strict=False)))


def _refuse_circle(hint: Any, within: tuple[Any, ...]) -> None:
    for member in members_of(hint):
        if member in within:
            raise ConfigurationError(
                f"the type {member} is a member of itself: refer to it in a list, a dict or a class"
            )
        if is_alias(member):
            _refuse_circle(_value_of(member), (*within, member))


def is_recursive(alias: Any) -> bool:
    """Whether an alias has parts of its own kind, as JSON has; its value can then not be written out."""
    seen: list[Any] = []
    unseen = [_value_of(alias)]
    while unseen:
        part = unseen.pop()
        if part == alias:
            return True
        if part not in seen:
            seen.append(part)
            unseen += [_value_of(part)] if is_alias(part) else typing.get_args(part)
    return False


def members_of(hint: Any) -> Iterator[Any]:
    """The types that a union joins; of anything else, itself."""
    if typing.get_origin(hint) in (Union, types.UnionType):
        for member in typing.get_args(hint):
            yield from members_of(member)
    else:
        yield hint


def class_of(hint: Any) -> type | None:
    """The class that the type is, or is a parametrised form of; None for what is not a class, such as a union."""
    origin = typing.get_origin(hint) or hint
    if origin is Annotated:
        return class_of(hint.__origin__)
    return origin if isinstance(origin, type) and origin is not types.UnionType else None


# -------------------------------------------------------------------------------------------------------------- classes


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a class: `name` in Python, `key` in JSON, and the keyword of the constructor, None without one.

    `implies_none`: it may be None because that is its default, although its annotation does not say so.
    """

    name: str
    key: str
    keyword: str | None
    hint: Any
    is_required: bool
    implies_none: bool = False


@dataclass(frozen=True, slots=True)
class Shape:
    """The fields of a class, and how instances are created."""

    cls: type
    kind: Kind
    fields: tuple[Field, ...]


def is_named_tuple(cls: object) -> bool:
    """Whether it is a class of typing.NamedTuple or collections.namedtuple."""
    return isinstance(cls, type) and issubclass(cls, tuple) and hasattr(cls, "_fields")


def is_pydantic(cls: object) -> bool:
    """Whether it is a pydantic model."""
    return isinstance(cls, type) and hasattr(cls, "model_validate_json")


def field_names(cls: Any) -> list[str]:
    """The names of the fields of a Struct, dataclass or attrs class, without a look at their annotations."""
    if issubclass(cls, msgspec.Struct):
        return list(cls.__struct_fields__)
    if dataclasses.is_dataclass(cls):
        return [field.name for field in dataclasses.fields(cls)]
    return [attribute.name for attribute in getattr(cls, "__attrs_attrs__", ())]


def kind_of(cls: type) -> Kind | None:
    """Return the kind of a class with fields; None for other classes."""
    if is_named_tuple(cls):
        return "named tuple"
    if issubclass(cls, msgspec.Struct):
        return "Struct"
    if typing.is_typeddict(cls):
        return "TypedDict"
    if dataclasses.is_dataclass(cls):
        return "dataclass"
    return "attrs class" if hasattr(cls, "__attrs_attrs__") else None


def shape_of(hint: Any) -> Shape | None:
    """The fields of a named tuple, dataclass, attrs class, Struct or TypedDict, or of a parametrised generic one.

    Raises NameError for an annotation that cannot be resolved.
    """
    cls = class_of(hint)
    kind = kind_of(cls) if cls else None
    if cls is None or kind is None:
        return None
    hints = typing.get_type_hints(cls, include_extras=True)
    given = dict(zip(getattr(cls, "__parameters__", ()), typing.get_args(hint), strict=False))
    fields = _FIELDS[kind](cls, {name: _filled(hint, given) for name, hint in hints.items()})
    return Shape(cls, kind, tuple(fields))


def _filled(hint: Any, given: Mapping[Any, Any]) -> Any:
    """The type with the type variables filled in that are given."""
    if isinstance(hint, TypeVar):
        return given.get(hint, hint)
    free = getattr(hint, "__parameters__", ()) if typing.get_origin(hint) else ()
    return hint[tuple(given.get(variable, variable) for variable in free)] if given and free else hint


def _field(name: str, key: str, keyword: str | None, hint: Any, *, required: bool, default: object) -> Field:
    allowed = _or_none(hint) if default is None else hint
    return Field(name, key, keyword, allowed, required, implies_none=allowed is not hint)


def _of_named_tuple(cls: Any, hints: Mapping[str, Any]) -> Iterator[Field]:
    for name in cls._fields:
        default = cls._field_defaults.get(name, EMPTY)
        yield _field(name, name, name, hints.get(name, Any), required=default is EMPTY, default=default)


def _of_dataclass(cls: Any, hints: Mapping[str, Any]) -> Iterator[Field]:
    for field in dataclasses.fields(cls):
        has_default = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        keyword = field.name if field.init else None
        required, hint = field.init and not has_default, hints.get(field.name, Any)
        yield _field(field.name, field.name, keyword, hint, required=required, default=field.default)


def _of_attrs(cls: Any, hints: Mapping[str, Any]) -> Iterator[Field]:
    for attribute in cls.__attrs_attrs__:
        has_default = type(attribute.default).__name__ != "_Nothing"
        keyword = (attribute.alias or attribute.name.lstrip("_")) if attribute.init else None
        name, hint, required = attribute.name, hints.get(attribute.name, Any), attribute.init and not has_default
        yield _field(name, name, keyword, hint, required=required, default=attribute.default)


def _of_struct(cls: Any, hints: Mapping[str, Any]) -> Iterator[Field]:
    for field in msgspec.structs.fields(cls):
        name, hint, default = field.name, hints.get(field.name, Any), field.default
        yield _field(name, field.encode_name, name, hint, required=field.required, default=default)


def _of_typed_dict(cls: Any, hints: Mapping[str, Any]) -> Iterator[Field]:
    for name, hint in hints.items():
        # `__required_keys__` does not evaluate strings, and annotations may all be strings.
        marks = {typing.get_origin(hint), *(typing.get_origin(part) for part in typing.get_args(hint))}
        required = Required in marks or (NotRequired not in marks and name in cls.__required_keys__)
        yield Field(name, name, name, hint, required)


_FIELDS: Mapping[Kind, Callable[[Any, Mapping[str, Any]], Iterator[Field]]] = {
    "named tuple": _of_named_tuple,
    "dataclass": _of_dataclass,
    "attrs class": _of_attrs,
    "Struct": _of_struct,
    "TypedDict": _of_typed_dict,
}
