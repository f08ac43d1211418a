"""Code that reads what others wrote, as functions of bytes: for Hypothesis, and for atheris where it is installed.

Each returns what became of the bytes, in a word, and raises only what would be a bug.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

import pgbus
from pgbus.codec.headers import encode_headers
from pgbus.codec.payloads import decoder, encode
from pgbus.config import Config
from pgbus.config.dsn import for_asyncpg, for_libpq, shown_dsn, sqlalchemy_url
from pgbus.errors import ConfigurationError, InvalidEventError, UnhandledEventError
from pgbus.rpc.wire import split_ids, split_results
from pgbus.topics import check_pattern, check_topic, is_wildcard, matches, pattern_regex

PASSWORD = "hunter2"
"""Looked for where it must not be."""


@dataclass
class Inner:
    at: datetime
    amount: Decimal | None = None


@dataclass
class Shape:
    """Values of the kinds that events have."""

    number: int
    text: str
    id: UUID | None = None
    inner: list[Inner] | None = None
    table: dict[str, float] | None = None


_decoders = [decoder(kind) for kind in (Shape, dict[str, int], list[str], datetime, UUID, bytes, int | str | None)]


def explains(error: Exception) -> str:
    """The refusal is ours, says something, and nothing that is secret."""
    assert isinstance(error, pgbus.PgbusError), repr(error)
    assert str(error)
    assert PASSWORD not in str(error)
    return "refused"


def codec(data: bytes) -> str:
    """A payload as PostgreSQL would hand it over, read into each kind of event."""
    text = data.decode(errors="surrogateescape")
    read = 0
    for decode in _decoders:
        try:
            decode(text)
            read += 1
        except UnhandledEventError as error:
            explains(error)
    return f"read by {read}" if read else "refused"


def payload(data: bytes) -> str:
    """Any value that JSON makes of the bytes is published as it is, or refused with a reason."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return "no JSON"
    try:
        encoded = encode(value, limit=100_000)
    except InvalidEventError as error:
        return explains(error)
    assert json.loads(encoded) == value
    return "published"


def topic(data: bytes) -> str:
    """A topic or pattern is refused, or works everywhere."""
    text = data.decode(errors="surrogateescape")
    found = []
    for check in (check_topic, check_pattern):
        try:
            check(text)
            found.append(check.__name__)
        except ValueError as error:  # pgbus's own are among them
            explains(error)
    if "check_topic" in found:
        assert matches("**", text)
    if "check_pattern" in found and is_wildcard(text):
        pattern_regex(text).encode()
        matches(text, "a.b")
    return " and ".join(found) or "refused"


def headers(data: bytes) -> str:
    """Headers that are JSON are encoded, or refused with a reason."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return "no JSON"
    try:
        encode_headers(value)
    except InvalidEventError as error:
        return explains(error)
    return "encoded"


def dsn(data: bytes) -> str:
    """A connection string is read or refused, and its password is never shown."""
    text = data.decode(errors="surrogateescape").replace("\0", "")
    shown_dsn(text)
    for form in (f"postgresql://ann:{PASSWORD}@{text}", f"postgresql://ann@h/db?password={PASSWORD}&{text}", text):
        try:
            config = Config(dsn=form)
            for_asyncpg(config.dsn), for_libpq(config.dsn), sqlalchemy_url(config.dsn, "asyncpg")
        except ConfigurationError as error:
            explains(error)
    return "read"


def notification(data: bytes) -> str:
    """Anyone may notify: what is not of pgbus is skipped."""
    text = data.decode(errors="surrogateescape")
    return "has ids" if [*split_ids(text), *split_results(text)] else "skipped"


TARGETS: dict[str, Callable[[bytes], str]] = {
    one.__name__: one for one in (codec, payload, topic, headers, dsn, notification)
}
