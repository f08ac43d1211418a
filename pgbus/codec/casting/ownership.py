"""Decides which types msgspec handles alone, and which ones pgbus does: those that it refuses, or reads in another form
than `forms` writes.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator
from enum import Enum
from typing import Any, Literal

import msgspec

from pgbus.codec.annotations import bare, class_of, is_named_tuple, is_pydantic, shape_of


def is_ours(hint: Any) -> bool:
    """Whether msgspec cannot do it alone; raises TypeError for a class that cannot be made."""
    classes = list(classes_in(hint))
    for cls in classes:
        if is_foreign(cls) and not (is_hooked(cls) or is_one_way(cls)):
            raise TypeError(
                f"{cls.__qualname__} is not a dataclass, Struct, attrs class, pydantic model, named tuple, TypedDict, "
                "enum or plain type, and has no `__from_bus__`"
            )
    return any(map(_is_special, classes)) or not is_known(hint)


def classes_in(hint: Any) -> Iterator[type]:
    """Every class that the type is made of, those of the fields of classes included."""
    return _classes_in(hint, [])


def _classes_in(hint: Any, seen: list[Any]) -> Iterator[type]:
    hint = bare(hint)
    if hint in seen or typing.get_origin(hint) is Literal:
        return
    seen.append(hint)
    cls, shape = class_of(hint), None
    if cls:
        yield cls
        # The fields of classes whose values other libraries create are outside our control.
        shape = None if is_hooked(cls) or is_validated(cls) else shape_of(hint)
    for part in (*typing.get_args(hint), *(field.hint for field in (shape.fields if shape else ()))):
        yield from _classes_in(part, seen)


def has_from_bus(cls: type) -> bool:
    """Whether it makes its values itself."""
    return hasattr(cls, "__from_bus__")


def is_one_way(cls: type) -> bool:
    """Whether its values can be sent, and nobody can make them."""
    return hasattr(cls, "__to_bus__") and not is_hooked(cls) and is_foreign(cls)


def is_validated(cls: type) -> bool:
    """Whether it is a pydantic model or dataclass."""
    return is_pydantic(cls) or "__pydantic_validator__" in cls.__dict__


def is_foreign(cls: type) -> bool:
    """Whether msgspec does not know the class, and leaves its values to a hook."""
    if cls is msgspec.UnsetType:
        return False
    try:
        return isinstance(msgspec.inspect.type_info(cls), msgspec.inspect.CustomType)
    except (TypeError, NameError, RecursionError):
        return False


def is_hooked(cls: type) -> bool:
    """Whether the hook makes values of the class, if msgspec does not know it."""
    return cls is complex or is_pydantic(cls) or has_from_bus(cls)


def _is_special(cls: type) -> bool:
    """Whether msgspec knows the class, but would refuse it or read something else than what is written."""
    if is_pydantic(cls):
        return False
    return (
        is_named_tuple(cls)
        or is_one_way(cls)
        or is_validated(cls)
        or _is_set_up_late(cls)
        or _implies_none(cls)
        or (has_from_bus(cls) and not is_foreign(cls))
        or (issubclass(cls, Enum) and not is_known(cls))
    )


def _is_set_up_late(cls: type) -> bool:
    """Whether what the class does once its fields are set would undo what was sent of those that it makes itself."""
    if not (hasattr(cls, "__post_init__") or hasattr(cls, "__attrs_post_init__")) or issubclass(cls, msgspec.Struct):
        return False
    fields = getattr(cls, "__attrs_attrs__", None) or getattr(cls, "__dataclass_fields__", {}).values()
    return any(not field.init for field in fields)


def _implies_none(cls: type) -> bool:
    """Whether a field may be None only by its default, of which msgspec does not think."""
    shape = shape_of(cls)
    return shape is not None and any(field.implies_none for field in shape.fields)


def is_known(hint: Any) -> bool:
    """Whether msgspec takes the type, which it does not if an alias in it is recursive."""
    try:
        msgspec.json.Decoder(hint, dec_hook=_refuse)
    except (TypeError, RecursionError):
        return False
    return True


def _refuse(cls: type, value: object) -> object:
    raise NotImplementedError
