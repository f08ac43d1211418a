"""Publishing, and the values that the class of an event would read."""

from __future__ import annotations

from typing import Any

import pydantic
import pydantic.dataclasses

from pgbus.codec.payloads import decoder
from pgbus.publishing.outbox import Limits, prepare


def published(value: object) -> str:
    return prepare(value, limits=Limits()).payload


def comes_back(value: object) -> bool:
    kind: Any = type(value)
    return bool(decoder(kind)(published(value)) == value)


def make(annotation: Any, field: Any = ..., *, by_name: bool = False) -> Any:
    config = pydantic.ConfigDict(populate_by_name=by_name)
    return pydantic.create_model("Made", __config__=config, inner=(annotation, field))
