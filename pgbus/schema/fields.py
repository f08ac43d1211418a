"""Named arguments: of an event, of a procedure, or of what a listener takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from pgbus.codec.annotations import EMPTY


class Field(msgspec.Struct, frozen=True):
    """A named argument; EMPTY stands for no annotation, and for no default, in which case it is required."""

    name: str
    annotation: Any = EMPTY
    default: Any = EMPTY
    is_required: bool = True


class Fields(msgspec.Struct, frozen=True):
    """Named arguments; `is_open` if further ones are accepted."""

    fields: Sequence[Field]
    is_open: bool = False


def signature_fields(handler: Callable[..., Any], hints: Mapping[str, Any]) -> Fields:
    """Return the named parameters of a function; its annotations are passed, because they may already be resolved."""
    parameters = list(inspect.signature(handler).parameters.values())
    return Fields(
        [
            Field(one.name, hints.get(one.name, EMPTY), one.default, is_required=one.default is EMPTY)
            for one in parameters
            if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
        ],
        is_open=any(one.kind is one.VAR_KEYWORD for one in parameters),
    )
