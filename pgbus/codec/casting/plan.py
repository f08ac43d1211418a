"""How a value of a type is made: by msgspec where it can, else part by part, down to parts that msgspec can make."""

from __future__ import annotations

import collections.abc
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from types import NoneType
from typing import Annotated, Any, Literal, Union

import msgspec

from pgbus.codec.annotations import Shape, bare, class_of, is_pydantic, members_of, shape_of
from pgbus.codec.casting.makers import (
    LENIENT,
    cast_by_pydantic,
    cast_complex,
    from_bus,
    one_of,
    pydantic_parser,
    sent_as,
)
from pgbus.codec.casting.objects import Cast, ObjectCast, array_in, cast_part, json_name, object_in
from pgbus.codec.casting.ownership import classes_in, has_from_bus, is_known, is_one_way, is_ours, is_validated
from pgbus.codec.casting.places import step_to

_LISTS = (list, collections.abc.Sequence, collections.abc.MutableSequence, collections.abc.Collection)
_ARRAYS: Mapping[Any, Callable[[Iterable[Any]], Any]] = {
    **dict.fromkeys(_LISTS, list),
    **dict.fromkeys((set, collections.abc.Set, collections.abc.MutableSet), set),
    frozenset: frozenset,
    tuple: tuple,
}
_MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)


def caster(hint: Any, *, strict: bool = True) -> Cast:
    """A function from JSON values, as they were decoded, to values of the type.

    Unless it is strict, a string becomes a number if the annotation is a number, and so on, at any depth of the type.
    The function raises whatever exception; `explain` says what it is about. Raises TypeError or NameError for a type
    that nothing can be cast to.
    """
    strictly = _Plan(strict=True).cast(hint)
    return strictly if strict else _else(strictly, _Plan(strict=False).cast(hint))


def parser(hint: Any) -> Callable[[str], Any]:
    """A function from JSON text to values of the type, strictly; otherwise as `caster`."""
    if isinstance(hint, type) and is_validated(hint) and not has_from_bus(hint):
        return pydantic_parser(hint)
    if not is_ours(hint):
        return msgspec.json.Decoder(hint, dec_hook=_hook).decode
    cast, decode = caster(hint), msgspec.json.Decoder().decode
    return lambda text: cast(decode(text))


def lines_parser(hint: Any) -> Callable[[str], list[Any]] | None:
    """`parser` for many JSON values, one per line; None for a type that msgspec does not read alone."""
    if is_ours(hint) or (isinstance(hint, type) and is_validated(hint)):
        return None
    return msgspec.json.Decoder(hint, dec_hook=_hook).decode_lines


class _Pending:
    """Stands for the cast of a type while that is made: the type has parts of its own kind."""

    def __init__(self, hint: Any) -> None:
        self.hint = hint
        self.made: Cast | None = None

    def __call__(self, value: Any) -> Any:
        assert self.made is not None
        return self.made(value)


class _Plan:
    """Makes the casts of one type, those of each class in it once: a class may have fields of itself."""

    def __init__(self, *, strict: bool) -> None:
        self._strict = strict
        self._objects: dict[Any, ObjectCast] = {}
        self._pending: list[_Pending] = []

    def cast(self, hint: Any) -> Cast:
        """Return the cast function for a type; see `caster`."""
        hint = bare(hint)
        if not (is_ours(hint) or self._is_lenient_in(hint)):
            return self._by_msgspec(hint)
        if pending := next((one for one in self._pending if one.hint == hint), None):
            return pending
        self._pending.append(pending := _Pending(hint))
        try:
            pending.made = self._of_type(hint)
        finally:
            self._pending.pop()
        return pending.made

    def _of_type(self, hint: Any) -> Cast:
        members = tuple(members_of(hint))
        if len(members) > 1:
            return self._union([member for member in members if member is not msgspec.UnsetType])
        if typing.get_origin(hint) is Literal:
            return one_of(typing.get_args(hint))
        if typing.get_origin(hint) is Annotated:
            return self._constrained(hint)
        if isinstance(hint, typing.ForwardRef):
            raise TypeError(
                f"{hint.__forward_arg__!r} stands within itself; write it with a `type` statement (of Python 3.12), as "
                "a class, or Any in its place"
            )
        cls = class_of(hint)
        if cls is None:
            raise TypeError(f"nothing can be cast to {hint!r}")
        return self._of_class(cls, hint)

    def _is_lenient_in(self, hint: Any) -> bool:
        return not self._strict and not LENIENT.keys().isdisjoint(classes_in(hint))

    def _of_class(self, cls: type, hint: Any) -> Cast:
        arguments = typing.get_args(hint)
        if has_from_bus(cls):
            return from_bus(cls, _lenient)
        if cls in LENIENT and not self._strict:
            return LENIENT[cls]
        if is_one_way(cls):
            return self.cast(sent_as(cls))
        if is_validated(cls):
            return lambda value: cast_by_pydantic(cls, value)
        if issubclass(cls, Enum):
            return one_of(cls)
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
            if type(value) is hint:
                return value
            return msgspec.convert(value, hint, strict=strict, dec_hook=_hook, str_keys=True)

        return cast

    def _constrained(self, hint: Any) -> Cast:
        """Let msgspec check the constraints, of the parts as they came."""
        cls, cast = class_of(hint), self.cast(hint.__origin__)
        if cls in LENIENT:
            return lambda value: msgspec.convert(cast(value), hint)
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
            items = array_in(value)
            return make([cast_part(cast_item, f"[{index}]", item) for index, item in enumerate(items)])

        return cast

    def _fixed_tuple(self, hints: Sequence[Any]) -> Cast:
        casts = [self.cast(hint) for hint in hints]

        def cast(value: Any) -> Any:
            items = array_in(value)
            if len(items) != len(casts):
                raise msgspec.ValidationError(f"Expected `array` of length {len(casts)}, got {len(items)}")
            return tuple(
                cast_part(cast_item, f"[{index}]", item)
                for index, (cast_item, item) in enumerate(zip(casts, items, strict=True))
            )

        return cast

    def _mapping(self, key_hint: Any, hint: Any) -> Cast:
        cast_value, cast_keys = self.cast(hint), self._keys(key_hint)

        def cast(value: Any) -> Any:
            given = object_in(value)
            keys = cast_keys(given)
            return {
                key: cast_part(cast_value, step_to(name), part)
                for key, (name, part) in zip(keys, given.items(), strict=True)
            }

        return cast

    def _keys(self, hint: Any) -> Callable[[Mapping[str, Any]], Iterable[Any]]:
        if not self._is_lenient_in(hint):
            cast_all = self._by_msgspec(dict[hint, None])
            return lambda given: cast_all(dict.fromkeys(given))
        cast_key = self.cast(hint)

        def cast(given: Mapping[str, Any]) -> Iterable[Any]:
            try:
                return [cast_key(name) for name in given]
            except Exception as error:
                raise msgspec.ValidationError(f"{error} - at `key` in `$`") from error

        return cast

    def _object(self, hint: Any, shape: Shape) -> Cast:
        if hint not in self._objects:
            self._objects[hint] = made = ObjectCast(shape)
            made.casts = {field.key: self.cast(field.hint) for field in shape.fields}
        return self._objects[hint]

    def _union(self, members: Sequence[Any]) -> Cast:
        """The first member that fits; of classes with fields, that one first which knows most of what is given."""
        if self._strict:
            return self._first_that_fits(_joined(members))
        # What fits as it is goes before what is made to fit: of `str | int`, 5 is the int.
        return _else(_Plan(strict=True)._union(members), self._first_that_fits(members))

    def _first_that_fits(self, members: Sequence[Any]) -> Cast:
        candidates = [(self.cast(hint), _keys_of(hint)) for hint in members]

        def cast(value: Any) -> Any:
            if value is None and NoneType in members:
                return None
            failure: Exception | None = None
            for cast_member, _ in _by_known_keys(candidates, value):
                try:
                    return cast_member(value)
                except Exception as error:
                    failure = failure or error
            raise failure or msgspec.ValidationError(f"Expected `null`, got `{json_name(value)}`")

        return cast


def _else(strictly: Cast, leniently: Cast) -> Cast:
    """Use the strict cast first, which is faster, and selects better among the members of a union."""

    def cast(value: Any) -> Any:
        try:
            return strictly(value)
        except Exception:
            return leniently(value)

    return cast


def _hook(cls: Any, value: object) -> object:
    """Makes a value of a class that msgspec does not know."""
    try:
        if has_from_bus(cls):
            return from_bus(cls, _lenient)(value)
        if is_pydantic(cls):
            return cast_by_pydantic(cls, value)
        return cast_complex(value) if cls is complex else value  # of class object
    except Exception as error:
        # To a plain ValueError, msgspec adds where it was.
        raise ValueError(str(error) or type(error).__name__) from error


def _joined(members: Sequence[Any]) -> list[Any]:
    """The members, None last; those together that msgspec knows together, as it tells Structs apart by their tags."""
    others = sorted(members, key=lambda member: member is NoneType)
    known = [member for member in others if not is_ours(member)]
    together = Union[tuple(known)] if len(known) > 1 else None  # noqa: UP007 - of as many as there are
    if together is None or not is_known(together):
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


def _lenient(hint: Any) -> Cast:
    return caster(hint, strict=False)
