"""Headers and their JSON: an event carries names and values, both strings."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from pgbus.codec.payloads import encode
from pgbus.errors import InvalidEventError

# Bytes of JSON.
MAX_HEADERS = 8_192


def encode_headers(headers: object) -> str | None:
    """Headers as JSON text, None when there are none; raises InvalidEventError unless names and values are strings."""
    if not isinstance(headers, Mapping):
        raise InvalidEventError("headers", f"they must be a mapping from str to str, not {type(headers).__name__}")
    for name, value in headers.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise InvalidEventError(
                "headers", f"names and values must be str, not {type(name).__name__} and {type(value).__name__}"
            )
    return encode(dict(headers), limit=MAX_HEADERS, field="headers") if headers else None


def join_headers(first: Mapping[str, str], own: Mapping[str, str] | None) -> str | None:
    """Headers that are known to be strings, and those that a user gave, which come before them, as `encode_headers`.

    The user's alone may have the size that headers may have.
    """
    text = encode_headers(own) if own else None
    if not first:
        return text
    return msgspec.json.encode({**first, **own} if own else first).decode()
