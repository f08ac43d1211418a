"""The form that a value takes on the bus, where it is not the one that msgspec would give it.

A class may say so itself, by `__to_bus__`; and a named tuple is an object there and no array, as its fields have names.
Most values hold neither: that is found out by their classes, and then they are left as they are.
"""

from __future__ import annotations

import copy
import marshal
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from types import NoneType
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec

from pgbus.codec.annotations import bare, is_named_tuple, is_pydantic, kind_of, members_of, shape_of

_SCALARS = frozenset(
    (NoneType, bool, int, float, str, bytes, bytearray, datetime, date, time, timedelta, Decimal, UUID, msgspec.Raw)
)
_CONTAINERS = (list, tuple, set, frozenset, dict)

# Weak references: classes that a program creates while it runs are not kept forever.
_REMEMBERED = 4_096


class Form(msgspec.Struct, frozen=True):
    """The form in which values of one class are sent.

    `is_other`: they take another form whatever they hold; else it depends on their `parts`.
    """

    is_other: bool
    parts: Callable[[Any], Collection[Any]]
    make: Callable[[Any], object]


_forms: dict[type, Form | None] = {}
_UNKNOWN = Form(False, tuple, tuple)


def in_form(value: object) -> object:
    """The value as msgspec is to encode it: itself, if nothing in it takes another form, else a copy.

    What `__to_bus__` raises comes through; so does a RecursionError, for what nests too deeply.
    """
    form = _forms.get(type(value), _UNKNOWN)
    if form is None or (form is _UNKNOWN and (form := _form_of(type(value))) is None):
        return value
    return form.make(value) if form.is_other or _holds_other_form(form.parts(value)) else value


def _holds_other_form(parts: Collection[Any]) -> bool:
    if _SCALARS.issuperset(map(type, parts)):
        return False
    for part in parts:
        if _forms.get(type(part), _UNKNOWN) is not None:
            return not _is_plain_all_through(parts) and _is_other_form_in(parts)
    return False


def _is_plain_all_through(parts: Collection[Any]) -> bool:
    """Whether the value has only built-in lists, dicts, strings, numbers and so on: marshal takes these exact classes
    only.
    """
    try:
        marshal.dumps(list(parts))
    except ValueError:
        return False
    return True


def _is_other_form_in(parts: Collection[Any]) -> bool:
    """The thorough look. No recursion: a value may nest deeply, or hold itself."""
    seen: set[int] = set()
    unseen = [parts]
    for some in unseen:  # it grows meanwhile
        for part in some:
            form = _form_of(type(part))
            if form is None:
                continue
            if form.is_other:
                return True
            if id(part) not in seen:
                seen.add(id(part))
                unseen.append(form.parts(part))
    return False


def _made(value: Any) -> object:
    form = _form_of(type(value))
    return value if form is None else form.make(value)


def _form_of(cls: type) -> Form | None:
    form = _forms.get(cls, _UNKNOWN)
    if form is _UNKNOWN:
        if len(_forms) >= _REMEMBERED:
            _forms.clear()
        form = _forms[cls] = _new_form(cls, frozenset())
    return form


def _new_form(cls: type, within: frozenset[type]) -> Form | None:
    """The form of a class; `within` are the classes of whose fields it is one."""
    if cls in _SCALARS:
        return None
    if hasattr(cls, "__to_bus__"):
        return Form(True, _no_parts, lambda value: _made(value.__to_bus__()))
    if is_named_tuple(cls):
        return Form(True, _no_parts, _make_object)
    if issubclass(cls, dict):
        return Form(False, dict.values, _make_dict)
    if issubclass(cls, _CONTAINERS):
        return Form(False, _all_parts, _make_list)
    if issubclass(cls, Enum):
        is_plain = all(type(member.value) in _SCALARS for member in cls)
        return None if is_plain else Form(True, _no_parts, lambda member: _made(member.value))
    if issubclass(cls, Mapping):
        return Form(True, _no_parts, lambda value: _make_dict(dict(value)))
    return None if is_pydantic(cls) or kind_of(cls) is None else _form_of_fields(cls, within | {cls})


def _no_parts(_: object) -> Collection[Any]:
    return ()


def _all_parts(value: Collection[Any]) -> Collection[Any]:
    return value


def _make_object(value: Any) -> object:
    return {name: _made(part) for name, part in zip(value._fields, value, strict=True)}


def _make_dict(value: Mapping[Any, Any]) -> object:
    return {key: _made(part) for key, part in value.items()}


def _make_list(value: Iterable[Any]) -> object:
    return [_made(part) for part in value]


# -------------------------------------------------------------------------------------------------- classes with fields


def _form_of_fields(cls: Any, within: frozenset[type]) -> Form | None:
    attributes = getattr(cls, "__attrs_attrs__", ())
    if any(attribute.name.startswith("_") for attribute in attributes):
        # msgspec leaves private attributes out of what it writes, and asks for them when it reads.
        names = [attribute.name for attribute in attributes]
        return Form(True, _no_parts, lambda value: {name: _made(getattr(value, name)) for name in names})
    names = _open_fields(cls, within)
    if not names:
        return None

    def parts(value: Any) -> Collection[Any]:
        return [getattr(value, name, None) for name in names]

    return Form(False, parts, lambda value: _with_parts_made(value, names))


def _open_fields(cls: Any, within: frozenset[type]) -> list[str]:
    """The names of the fields that may hold something of another form, by their annotations."""
    try:
        shape = shape_of(cls)
    except Exception:  # annotations that only a type checker can resolve
        attributes = [attribute.name for attribute in getattr(cls, "__attrs_attrs__", ())]
        return [*getattr(cls, "__struct_fields__", ()), *getattr(cls, "__dataclass_fields__", ()), *attributes]
    return [field.name for field in shape.fields if not _is_plain_throughout(field.hint, within)] if shape else []


def _is_plain_throughout(hint: Any, within: frozenset[type]) -> bool:
    try:
        return _is_plain(hint, within)
    except RecursionError:  # an alias that has parts of its own kind
        return False


def _is_plain(hint: Any, within: frozenset[type]) -> bool:
    """Whether no value of the type takes another form, nor anything in it. Not said of a class that holds itself."""
    hint = bare(hint)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is None:
        # A field of a class may hold one of its subclasses, which has other fields.
        return hint in _SCALARS or (
            isinstance(hint, type)
            and (issubclass(hint, Enum) or kind_of(hint) is not None)
            and hint not in within
            and not (hint is msgspec.Struct or type.__subclasses__(hint))
            and _new_form(hint, within) is None
        )
    if origin is Literal:
        return True
    if origin is Annotated:
        return _is_plain(arguments[0], within)
    if len(members := tuple(members_of(hint))) > 1:
        return all(_is_plain(member, within) for member in members)
    return origin in _CONTAINERS and all(one is Ellipsis or _is_plain(one, within) for one in arguments)


def _with_parts_made(value: Any, names: Iterable[str]) -> object:
    """A copy whose fields hold the other forms: msgspec does not ask what a field should hold."""
    made = copy.copy(value)
    put = msgspec.structs.force_setattr if isinstance(made, msgspec.Struct) else object.__setattr__
    for name in names:
        if hasattr(value, name):
            put(made, name, _made(getattr(value, name)))
    return made
