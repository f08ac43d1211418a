"""Pydantic models as JSON that they read back.

What a model's definition tells is decided once for its class: that it can never be read back, or that it always will.
Where it does not tell, as user code writes or reads a field, each instance is read back when it is written.
"""

from __future__ import annotations

import typing
import weakref
from collections.abc import Iterator, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from types import NoneType
from typing import Any, Literal
from uuid import UUID

import msgspec

from pgbus.codec.annotations import is_pydantic, members_of
from pgbus.codec.losses import LostError, check_kept

# By alias, as that is how a model reads its fields, and how its JSON Schema names them. For the round trip: without
# computed fields, and with `Json` as the text that it reads.
_AS_READ = {"by_alias": True, "round_trip": True}

_PLAIN = (NoneType, bool, int, float, str, Decimal, UUID, datetime, date, time, timedelta)
_CONTAINERS = (list, tuple, set, frozenset, dict)
# Settings under which a model reads what it writes. Of others nothing is known here.
_HARMLESS = frozenset(
    (
        "alias_generator", "arbitrary_types_allowed", "extra", "from_attributes", "frozen", "json_schema_extra",
        "populate_by_name", "protected_namespaces", "revalidate_instances", "serialize_by_alias", "title",
        "use_attribute_docstrings", "validate_assignment", "validate_by_alias", "validate_by_name", "validate_default",
    )
)  # fmt: skip


class _Verdict(msgspec.Struct, frozen=True):
    """The properties of instances that the definition of a class decides; `refusal` is a path and a reason."""

    is_plain: bool
    refusal: tuple[str, str] | None


_verdicts: weakref.WeakKeyDictionary[type, _Verdict] = weakref.WeakKeyDictionary()


def dump(model: Any) -> bytes:
    """The model's JSON; raises LostError, or an error of pydantic's, where its class could not read that back."""
    cls = type(model)
    verdict = _verdict(cls)
    if verdict.refusal:
        raise LostError(*verdict.refusal)
    if verdict.is_plain:
        try:
            # A warning says that a field holds something else than its annotation, so it was assigned unchecked.
            return bytes(cls.__pydantic_serializer__.to_json(model, warnings="error", **_AS_READ))
        except ValueError:
            pass
    try:
        text = model.model_dump_json(warnings="none", **_AS_READ)
    except ValueError as error:
        raise LostError(_unwritable(model), str(error)) from error
    try:
        read = cls.model_validate_json(text)
    except ValueError as error:
        raise _unreadable(error) from error
    check_kept(model, read)
    return bytes(text.encode())


def _unwritable(model: Any) -> str:
    """The way to the first field that pydantic cannot write; pydantic does not tell."""
    cls = type(model)
    for name in cls.model_fields:
        try:
            cls.__pydantic_serializer__.to_json(model, include={name}, warnings="none", **_AS_READ)
        except ValueError:
            part = getattr(model, name)
            return f".{name}" + (_unwritable(part) if is_pydantic(type(part)) else "")
    return ""


def _unreadable(error: Any) -> Exception:
    if not hasattr(error, "errors"):
        return LostError("", str(error))
    first, *_ = error.errors(include_url=False)
    place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in first["loc"])
    return LostError(place, f"its class could not read it back: {first['msg']}")


def contents(model: Any) -> dict[str, Any]:
    """Return the values of the model to encode, as Python's built-in types."""
    found: dict[str, Any] = model.model_dump(round_trip=True, warnings="none")
    return found


def check_model(cls: type) -> None:
    """Raise LostError for a model of which no instance could be read back."""
    if cls.__pydantic_complete__ and (refusal := _verdict(cls).refusal):  # type: ignore[attr-defined] # pydantic
        raise LostError(*refusal)


# ------------------------------------------------------------------------------------------------------------- verdicts


def _verdict(cls: Any) -> _Verdict:
    verdict = _verdicts.get(cls)
    if verdict is None:
        models = dict(_models_in(cls, "", {}))
        refusals = (_refusal(model, place) for model, place in models.items())
        verdict = _Verdict(
            is_plain=all(map(_has_plain_fields, models)),
            refusal=next((refusal for refusal in refusals if refusal), None),
        )
        if cls.__pydantic_complete__:
            _verdicts[cls] = verdict
    return verdict


def _models_in(cls: Any, place: str, seen: dict[Any, str]) -> Mapping[Any, str]:
    """The model and those in its fields, each with the way to one of them."""
    if cls not in seen:
        seen[cls] = place
        for name, field in cls.model_fields.items():
            for part in _types_in(field.annotation):
                if is_pydantic(part):
                    _models_in(part, f"{place}.{name}", seen)
    return seen


def _types_in(hint: Any) -> Iterator[Any]:
    arguments = () if typing.get_origin(hint) is Literal else typing.get_args(hint)
    if not arguments:
        yield hint
    for part in arguments:
        yield from _types_in(part)


def _refusal(cls: Any, place: str) -> tuple[str, str] | None:
    if _has_form_of_its_own(cls):
        return None
    for name, field in cls.model_fields.items():
        if reason := _reason(cls, name, field):
            return f"{place}.{name}", reason
    return None


def _reason(cls: Any, name: str, field: Any) -> str | None:
    """Why the field would never come back, if that is so."""
    if field.exclude:
        return f"{cls.__qualname__} requires it, and excludes it from its JSON" if field.is_required() else None
    written, read = field.serialization_alias or name, _names_read(cls, name, field)
    if written not in read:
        by = " or ".join(map(repr, read)) or "a path"
        return f"{cls.__qualname__} writes it as {written!r}, and reads it as {by}; give it one alias"
    if any(hasattr(part, "get_secret_value") for part in _types_in(field.annotation)):
        return None if _has_serializer(cls, name, field) else "a secret is sent as asterisks; give it a serializer"
    return None


def _has_form_of_its_own(cls: Any) -> bool:
    """Whether functions of the whole model decide what is written, or what is read."""
    decorators = cls.__pydantic_decorators__
    deciding = decorators.model_serializers or decorators.model_validators or decorators.root_validators
    return bool(deciding) or _has_own_dump(cls)


def _has_own_dump(cls: Any) -> bool:
    return not cls.model_dump_json.__module__.startswith("pydantic.")


def _has_serializer(cls: Any, name: str, field: Any) -> bool:
    named = (one.info.fields for one in cls.__pydantic_decorators__.field_serializers.values())
    by_type = (hasattr(one, "return_type") for one in (*field.metadata, *_types_in(field.annotation)))
    return any(by_type) or bool(cls.model_config.get("json_encoders")) or any({name, "*"} & {*names} for names in named)


def _names_read(cls: Any, name: str, field: Any) -> list[str]:
    alias, config = field.validation_alias, cls.model_config
    if alias is None or config.get("validate_by_alias") is False:
        return [name]
    names = [one for one in getattr(alias, "choices", [alias]) if isinstance(one, str)]
    return [*names, name] if config.get("populate_by_name") or config.get("validate_by_name") else names


def _has_plain_fields(cls: Any) -> bool:
    """Whether pydantic alone writes and reads the fields, and reads what it has written."""
    decorators, config = cls.__pydantic_decorators__, cls.model_config
    return not (
        _has_form_of_its_own(cls)
        or decorators.field_serializers
        or decorators.field_validators
        or decorators.validators
        or cls.__pydantic_post_init__
        or not _HARMLESS.issuperset(config)
        or config.get("extra") == "allow"
    ) and all(not field.metadata and _is_plain(field.annotation) for field in cls.model_fields.values())


def _is_plain(hint: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return True
    members = [member for member in members_of(hint) if member is not NoneType]
    if len(members) == 1 and members[0] is not hint:
        return _is_plain(members[0])
    if origin in _CONTAINERS:
        return all(part is Ellipsis or _is_plain(part) for part in arguments)
    is_enum = isinstance(hint, type) and issubclass(hint, Enum) and not hasattr(hint, "__get_pydantic_core_schema__")
    return hint in _PLAIN or is_enum or (origin is None and is_pydantic(hint))
