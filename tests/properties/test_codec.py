"""What is encoded, PostgreSQL takes and gives back; what it would not take is refused."""

import math
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgbus.codec.payloads import decoder, encode
from pgbus.errors import InvalidEventError
from tests.support import DatabaseServer

LIMIT = 1_000_000

# Texts that are likely to hold what is refused, or what looks like it.
TEXTS = st.text(st.characters() | st.sampled_from('\x00\\"u0T:'), max_size=8) | st.sampled_from(
    ["\\u0000", "\\\\u0000", "null", "2026-01-02T03:04:05"]
)
NAIVE = st.datetimes()
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS | NAIVE | st.datetimes(timezones=st.just(UTC))
VALUES = st.recursive(SCALARS, lambda part: st.lists(part, max_size=3) | st.dictionaries(TEXTS, part, max_size=3))


def leaves(value: object) -> Iterator[object]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield key
            yield from leaves(part)
    elif isinstance(value, list):
        for part in value:
            yield from leaves(part)
    else:
        yield value


def is_refused(leaf: object) -> bool:
    match leaf:
        case str():
            return "\x00" in leaf or any("\ud800" <= character <= "\udfff" for character in leaf)
        case float():
            return not math.isfinite(leaf)
        case datetime():
            return leaf.tzinfo is None
        case _:
            return False


@pytest.fixture(scope="module")
def connection(server: DatabaseServer) -> Iterator[psycopg.Connection]:
    with psycopg.connect(server.dsn, autocommit=True) as opened:
        yield opened


@given(value=VALUES)
def test_a_value_is_refused_if_and_only_if_a_part_of_it_is(value: Any) -> None:
    refused = any(is_refused(leaf) for leaf in leaves(value))
    try:
        encode(value, limit=LIMIT)
    except InvalidEventError:
        assert refused
    else:
        assert not refused


def stored(connection: psycopg.Connection, text: str) -> str:
    """The text as it comes back from a jsonb column."""
    row = connection.execute("SELECT CAST(CAST(%s AS text) AS jsonb)::text", (text,)).fetchone()
    assert row is not None
    return str(row[0])


@given(value=VALUES)
def test_what_is_encoded_postgresql_takes(connection: psycopg.Connection, value: Any) -> None:
    with suppress(InvalidEventError):
        stored(connection, encode(value, limit=LIMIT))


@given(number=st.floats(allow_nan=False, allow_infinity=False))
def test_postgresql_gives_back_every_number(connection: psycopg.Connection, number: float) -> None:
    # A large one comes back as an integer; the type says what it is to be.
    assert decoder(float)(stored(connection, encode(number, limit=LIMIT))) == number


@given(value=st.dictionaries(TEXTS, st.lists(TEXTS)))
def test_postgresql_gives_back_every_text(connection: psycopg.Connection, value: dict[str, list[str]]) -> None:
    with suppress(InvalidEventError):
        assert decoder(dict[str, list[str]])(stored(connection, encode(value, limit=LIMIT))) == value
