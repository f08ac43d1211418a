"""Whether a JSON value fits a schema: by the library jsonschema-rs (extra `schema`), loaded when first needed."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NoReturn, TypeAlias

import msgspec

from pgbus.codec.payloads import encode
from pgbus.errors import ConfigurationError, InvalidSchema, ValidationError
from pgbus.schema.keywords import Schema

# From a JSON value to what is wrong with it; None if nothing is.
Validator: TypeAlias = Callable[[object], str | None]

_NO_LIMIT = 1 << 40  # bytes


def can_validate() -> bool:
    """Whether the library is installed."""
    return find_spec("jsonschema_rs") is not None


def make_validator(schema: Schema) -> Validator:
    """A validator of JSON values; raises InvalidSchema, and ConfigurationError where the library is not installed."""
    try:
        import jsonschema_rs
    except ImportError as error:
        raise ConfigurationError(
            "to validate against a stored schema, install pgbus[schema], which includes jsonschema-rs"
        ) from error
    try:
        library = jsonschema_rs.Draft202012Validator(schema, retriever=_refuse_to_fetch)
    except ValueError as error:
        raise InvalidSchema(f"{schema.get('title', 'a schema')} is not a JSON Schema: {error}") from error

    def validate(value: object) -> str | None:
        error = next(library.iter_errors(value), None)
        if error is None:
            return None
        path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in error.instance_path)
        return f"`{path.lstrip('.')}`: {error.message}" if path else error.message

    return validate


def check_payload(schema: Schema | None, payload: object, *, subject: str) -> None:
    """Raise ValidationError unless a JSON value fits the schema; without a schema everything does.

    Raises ConfigurationError where the library is not installed.
    """
    if schema is not None and (complaint := make_validator(schema)(payload)):
        raise ValidationError(f"{subject} does not fit the schema: {complaint}")


def _refuse_to_fetch(address: str) -> NoReturn:
    """Refuse a reference to another document: schemas come from other services, and nothing is fetched for them."""
    raise ValueError(f"it refers to {address}, outside of the document")


def to_json(value: object, *, field: str) -> Any:
    """A Python value as the JSON value that it travels as; raises InvalidEventError, with `field` in its text."""
    return msgspec.json.decode(encode(value, limit=_NO_LIMIT, field=field))
