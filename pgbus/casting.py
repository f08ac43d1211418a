"""From JSON values to what annotations ask for.

msgspec does it alone where it can. A type that it refuses, or that does not read what `forms` writes (named tuples,
classes with `__from_bus__`, unions of classes, ...), is taken apart here, down to parts that msgspec can do.
"""

from __future__ import annotations

import collections.abc
import contextlib
import re
import reprlib
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from functools import lru_cache
from types import NoneType
from typing import Annotated, Any, Literal, TypeAlias, Union

import msgspec

from pgbus.annotations import Shape, bare, class_of, is_named_tuple, is_pydantic, members_of, shape_of
from pgbus.forms import in_form

Cast: TypeAlias = Callable[[Any], Any]

_LISTS = (list, collections.abc.Sequence, collections.abc.MutableSequence, collections.abc.Collection)
_ARRAYS: Mapping[Any, Callable[[Iterable[Any]], Any]] = {
    **dict.fromkeys(_LISTS, list),
    **dict.fromkeys((set, collections.abc.Set, collections.abc.MutableSet), set),
    frozenset: frozenset,
    tuple: tuple,
}
_MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)

# How msgspec ends a message, and so do we: with the way to the culprit, from the value that it was given.
_PLACE = re.compile(r"(?s)(.*) - at (`key` in )?`\$(.*?)`\Z")


def caster(hint: Any, *, strict: bool = True) -> Cast:
    """A function from JSON values, as they were decoded, to values of the type.

    Unless it is strict, a text becomes a number where one is asked for, and so on. The function raises whatever
    exception; `explain` says what it is about. Raises TypeError or NameError for a type that nothing can be cast to.
    """
    return _Plan(strict=strict).cast(hint)


def parser(hint: Any) -> Callable[[str], Any]:
    """A function from JSON text to values of the type, strictly; otherwise as `caster`."""
    if isinstance(hint, type) and _is_validated(hint) and not _has_from_bus(hint):
        return _pydantic_parser(hint)
    if not is_ours(hint):
        return msgspec.json.Decoder(hint, dec_hook=_hook).decode
    cast, decode = caster(hint), msgspec.json.Decoder().decode
    return lambda text: cast(decode(text))


def explain(error: BaseException) -> tuple[str, str]:
    """What is wrong with a value that could not be cast, and the way to the part: `.address.city`; empty for all."""
    reason, place = str(error) or type(error).__name__, ""
    while found := _PLACE.match(reason):
        # The innermost place was written first.
        reason, place = found[1], place + found[3] + (" (a key)" if found[2] else "")
    return reason, place


def step_to(key: object) -> str:
    """The step of a way that leads to what an object holds under the key: `.name`, or `['a name']`."""
    return f".{key}" if isinstance(key, str) and key.isidentifier() and len(key) < 64 else f"[{reprlib.repr(key)}]"


def _misplaced(error: Exception, step: str) -> msgspec.ValidationError:
    return msgspec.ValidationError(f"{str(error) or type(error).__name__} - at `${step}`")


# ------------------------------------------------------------------------------------------------ who casts to the type


def is_ours(hint: Any) -> bool:
    """Whether msgspec cannot do it alone; raises TypeError for a class that nobody can make."""
    classes = list(_classes_in(hint, []))
    for cls in classes:
        if _is_foreign(cls) and not (_is_hooked(cls) or _is_one_way(cls)):
            raise TypeError(
                f"{cls.__qualname__} is no dataclass, Struct, attrs class, pydantic model, named tuple, TypedDict, "
                "enum or plain type, and has no `__from_bus__`"
            )
    return any(map(_is_special, classes)) or not _is_known(hint)


def _classes_in(hint: Any, seen: list[Any]) -> Iterator[type]:
    """Every class that the type is made of, those of the fields of classes included."""
    hint = bare(hint)
    if hint in seen or typing.get_origin(hint) is Literal:
        return
    seen.append(hint)
    cls, shape = class_of(hint), None
    if cls:
        yield cls
        # What classes are made of whose values others make is no affair of ours.
        shape = None if _is_hooked(cls) or _is_validated(cls) else shape_of(hint)
    for part in (*typing.get_args(hint), *(field.hint for field in (shape.fields if shape else ()))):
        yield from _classes_in(part, seen)


def _has_from_bus(cls: type) -> bool:
    return hasattr(cls, "__from_bus__")


def _is_one_way(cls: type) -> bool:
    """Whether its values can be sent, and nobody can make them."""
    return hasattr(cls, "__to_bus__") and not _is_hooked(cls) and _is_foreign(cls)


def _is_validated(cls: type) -> bool:
    """Whether it is a pydantic model or dataclass."""
    return is_pydantic(cls) or "__pydantic_validator__" in cls.__dict__


def _is_foreign(cls: type) -> bool:
    """Whether msgspec does not know the class, and leaves its values to a hook."""
    if cls is msgspec.UnsetType:
        return False
    try:
        return isinstance(msgspec.inspect.type_info(cls), msgspec.inspect.CustomType)
    except (TypeError, NameError):
        return False


def _is_hooked(cls: type) -> bool:
    """Whether the hook makes values of the class, if msgspec does not know it."""
    return cls is complex or is_pydantic(cls) or _has_from_bus(cls)


def _is_special(cls: type) -> bool:
    """Whether msgspec knows the class, but would refuse it or read something else than what is written."""
    if is_pydantic(cls):
        return False
    return (
        is_named_tuple(cls)
        or _is_one_way(cls)
        or _is_validated(cls)
        or (_has_from_bus(cls) and not _is_foreign(cls))
        or (issubclass(cls, Enum) and not _is_known(cls))
    )


def _is_known(hint: Any) -> bool:
    try:
        msgspec.json.Decoder(hint, dec_hook=_hook)
    except TypeError:
        return False
    return True


# Code of other people makes these values, so any exception may come of it.


@lru_cache(maxsize=1024)
def _from_bus(cls: Any) -> Cast:
    """An object's values are cast to the annotations of the class, where they fit, before `__from_bus__` gets them."""
    casts: dict[str, Cast] | None = None

    def cast(value: Any) -> Any:
        nonlocal casts
        if isinstance(value, dict):
            if casts is None:  # not before: the class may have annotations of itself
                casts = dict(_casts_that_there_are(cls))
            value = {key: cast_if_it_fits(casts.get(key), part) for key, part in value.items()}
        return cls.__from_bus__(value)

    return cast


def _casts_that_there_are(cls: Any) -> Iterator[tuple[str, Cast]]:
    for name, hint in typing.get_type_hints(cls, include_extras=True).items():
        with contextlib.suppress(TypeError, NameError):
            yield name, caster(hint, strict=False)


def cast_if_it_fits(cast: Cast | None, value: Any) -> Any:
    """The value cast, or as it is where it does not fit."""
    if cast is not None:
        with contextlib.suppress(Exception):
            return cast(value)
    return value


def _sent_as(cls: Any) -> Any:
    """What a class that has a `__to_bus__` alone arrives as: what that is annotated to return."""
    return typing.get_type_hints(cls.__to_bus__, include_extras=True).get("return", Any)


def _by_pydantic(validate: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The function, with an error that says where as msgspec's do."""

    def checked(text: Any) -> Any:
        try:
            return validate(text)
        except ValueError as error:
            if not hasattr(error, "errors"):
                raise
            first, *others = error.errors(include_url=False)
            steps = "".join(f"[{step}]" if isinstance(step, int) else step_to(step) for step in first["loc"])
            more = f" (and {len(others)} more)" if others else ""
            raise _misplaced(ValueError(f"{first['msg']}{more}"), steps) from error

    return checked


@lru_cache(maxsize=1024)
def _pydantic_parser(cls: Any) -> Callable[[Any], Any]:
    return _by_pydantic(cls.model_validate_json if is_pydantic(cls) else cls.__pydantic_validator__.validate_json)


def _cast_by_pydantic(cls: Any, value: object) -> object:
    # From JSON, as pydantic is laxer there with texts, and stricter with the rest.
    return _pydantic_parser(cls)(msgspec.json.encode(value))


def _complex(value: Any) -> complex:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise msgspec.ValidationError(f"Expected `str`, got `{_json_name(value)}`")
    return complex(value)


def _one_of(choices: Iterable[Any]) -> Cast:
    """The choice, a value or an enum's member, that is written as the value; of any type."""
    written = [(msgspec.to_builtins(in_form(choice), enc_hook=str), choice) for choice in choices]

    def cast(value: Any) -> Any:
        for text, choice in written:
            if text == value and isinstance(text, bool) is isinstance(value, bool):
                return choice
        raise msgspec.ValidationError(f"Expected one of {[text for text, _ in written]}, got {reprlib.repr(value)}")

    return cast


# --------------------------------------------------------------------------------------------------- taking types apart


class _Plan:
    """Makes the casts of one type, those of each class in it once: a class may have fields of itself."""

    def __init__(self, *, strict: bool) -> None:
        self._strict = strict
        self._objects: dict[Any, _Object] = {}

    def cast(self, hint: Any) -> Cast:
        """What `caster` returns."""
        hint = bare(hint)
        if not is_ours(hint):
            return self._by_msgspec(hint)
        members = tuple(members_of(hint))
        if len(members) > 1:
            return self._union([member for member in members if member is not msgspec.UnsetType])
        if typing.get_origin(hint) is Literal:
            return _one_of(typing.get_args(hint))
        if typing.get_origin(hint) is Annotated:
            return self._constrained(hint)
        cls = class_of(hint)
        if cls is None:
            raise TypeError(f"nothing can be cast to {hint!r}")
        return self._of_class(cls, hint)

    def _of_class(self, cls: type, hint: Any) -> Cast:
        arguments = typing.get_args(hint)
        if _has_from_bus(cls):
            return _from_bus(cls)
        if _is_one_way(cls):
            return self.cast(_sent_as(cls))
        if _is_validated(cls):
            return lambda value: _cast_by_pydantic(cls, value)
        if issubclass(cls, Enum):
            return _one_of(cls)
        if cls in _MAPPINGS:
            return self._mapping(*(arguments or (Any, Any)))
        if cls is tuple and arguments and arguments[-1] is not Ellipsis:
            return self._fixed_tuple(arguments)
        if make := _ARRAYS.get(cls):
            return self._array(make, arguments[0] if arguments else Any)
        shape = shape_of(hint)
        if shape is None:
            raise TypeError(f"nothing can be cast to {hint!r}")
        return self._object(hint, shape)

    def _by_msgspec(self, hint: Any) -> Cast:
        strict = self._strict

        def cast(value: Any) -> Any:
            if hint is str and not strict and type(value) in (int, float):
                return str(value)
            return msgspec.convert(value, hint, strict=strict, dec_hook=_hook, str_keys=True)

        return cast

    def _constrained(self, hint: Any) -> Cast:
        """Let msgspec check the constraints, of the parts as they came."""
        cls, cast = class_of(hint), self.cast(hint.__origin__)
        outside = dict[str, Any] if cls in _MAPPINGS else list[Any] if cls in _ARRAYS else Any
        if outside is Any:
            return cast
        check = self._by_msgspec(Annotated[(outside, *hint.__metadata__)])

        def check_and_cast(value: Any) -> Any:
            check(value)
            return cast(value)

        return check_and_cast

    def _array(self, make: Callable[[Iterable[Any]], Any], hint: Any) -> Cast:
        cast_item = self.cast(hint)

        def cast(value: Any) -> Any:
            items = _array_in(value)
            return make([_cast_part(cast_item, f"[{index}]", item) for index, item in enumerate(items)])

        return cast

    def _fixed_tuple(self, hints: Sequence[Any]) -> Cast:
        casts = [self.cast(hint) for hint in hints]

        def cast(value: Any) -> Any:
            items = _array_in(value)
            if len(items) != len(casts):
                raise msgspec.ValidationError(f"Expected `array` of length {len(casts)}, got {len(items)}")
            return tuple(
                _cast_part(cast_item, f"[{index}]", item)
                for index, (cast_item, item) in enumerate(zip(casts, items, strict=True))
            )

        return cast

    def _mapping(self, key_hint: Any, hint: Any) -> Cast:
        cast_part, cast_keys = self.cast(hint), self._by_msgspec(dict[key_hint, None])

        def cast(value: Any) -> Any:
            given = _object_in(value)
            keys = cast_keys(dict.fromkeys(given))
            return {
                key: _cast_part(cast_part, step_to(name), part)
                for key, (name, part) in zip(keys, given.items(), strict=True)
            }

        return cast

    def _object(self, hint: Any, shape: Shape) -> Cast:
        if hint not in self._objects:
            self._objects[hint] = made = _Object(shape)
            made.casts = {field.key: self.cast(field.hint) for field in shape.fields}
        return self._objects[hint]

    def _union(self, members: Sequence[Any]) -> Cast:
        """The first member that fits; of classes with fields, that one first which knows most of what is given."""
        candidates = [(self.cast(hint), _keys_of(hint)) for hint in _joined(members)]

        def cast(value: Any) -> Any:
            if value is None and NoneType in members:
                return None
            failure: Exception | None = None
            for cast_member, _ in _by_known_keys(candidates, value):
                try:
                    return cast_member(value)
                except Exception as error:
                    failure = failure or error
            raise failure or msgspec.ValidationError(f"Expected `null`, got `{_json_name(value)}`")

        return cast


def _hook(cls: Any, value: object) -> object:
    """Makes a value of a class that msgspec does not know."""
    try:
        if _has_from_bus(cls):
            return _from_bus(cls)(value)
        if is_pydantic(cls):
            return _cast_by_pydantic(cls, value)
        return _complex(value) if cls is complex else value  # of class object
    except Exception as error:
        # To a plain ValueError, msgspec adds where it was.
        raise ValueError(str(error) or type(error).__name__) from error


def _joined(members: Sequence[Any]) -> list[Any]:
    """The members but None; those together that msgspec knows together, as it tells Structs apart by their tags."""
    others = [member for member in members if member is not NoneType]
    known = [member for member in others if not is_ours(member)]
    together = Union[tuple(known)] if len(known) > 1 else None  # noqa: UP007 - of as many as there are
    if together is None or not _is_known(together):
        return others
    return [*(together if member is known[0] else member for member in others if member not in known[1:])]


def _keys_of(hint: Any) -> frozenset[str] | None:
    shape = shape_of(hint)
    return frozenset(field.key for field in shape.fields) if shape else None


def _by_known_keys(
    candidates: Sequence[tuple[Cast, frozenset[str] | None]], value: Any
) -> Iterable[tuple[Cast, frozenset[str] | None]]:
    if not isinstance(value, dict):
        return candidates
    return sorted(candidates, key=lambda one: len(value) + 1 if one[1] is None else len(value.keys() - one[1]))


class _Object:
    """Makes values of a class with fields; `casts` are by key in JSON."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self.casts: Mapping[str, Cast] = {}
        config = getattr(shape.cls, "__struct_config__", None)
        self._takes_array = shape.kind == "named tuple" or (config is not None and config.array_like)
        self._tag = None if config is None or config.tag is None else (config.tag_field, config.tag)
        self._refuses_more = config is not None and config.forbid_unknown_fields

    def __call__(self, value: Any) -> Any:
        given = self._given(value)
        made: dict[str, Any] = {}
        later: dict[str, Any] = {}
        for field in self._shape.fields:
            if field.key in given:
                part = _cast_part(self.casts[field.key], step_to(field.key), given[field.key])
                (later if field.keyword is None else made)[field.keyword or field.name] = part
            elif field.is_required:
                raise msgspec.ValidationError(f"Object missing required field `{field.key}`")
        made_of: Any = dict if self._shape.kind == "TypedDict" else self._shape.cls
        result = made_of(**made)
        for name, part in later.items():
            object.__setattr__(result, name, part)
        return result

    def _given(self, value: Any) -> Mapping[str, Any]:
        keys = [field.key for field in self._shape.fields]
        if self._takes_array and isinstance(value, (list, tuple)):  # so were named tuples written once
            _, *items = (None, *value) if self._tag is None else value
            if len(items) > len(keys):
                raise msgspec.ValidationError(f"Expected `array` of at most length {len(keys)}, got {len(items)}")
            return dict(zip(keys, items, strict=False))
        given = _object_in(value)
        if self._tag and given.get(self._tag[0], self._tag[1]) != self._tag[1]:
            raise msgspec.ValidationError(f"Invalid value {given[self._tag[0]]!r} - at `${step_to(self._tag[0])}`")
        if self._refuses_more and (unknown := given.keys() - {*keys, *(self._tag or ())[:1]}):
            raise msgspec.ValidationError(f"Object contains unknown field `{min(unknown)}`")
        return given


def _cast_part(cast: Cast, step: str, value: Any) -> Any:
    try:
        return cast(value)
    except Exception as error:
        raise _misplaced(error, step) from error


def _array_in(value: Any) -> Sequence[Any]:
    if not isinstance(value, (list, tuple)):
        raise msgspec.ValidationError(f"Expected `array`, got `{_json_name(value)}`")
    return value


def _object_in(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise msgspec.ValidationError(f"Expected `object`, got `{_json_name(value)}`")
    return value


def _json_name(value: object) -> str:
    names = {NoneType: "null", dict: "object", list: "array", tuple: "array"}
    return names.get(type(value), type(value).__name__)
