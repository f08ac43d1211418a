"""Which errors are tried again, and which are faults of code."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import psycopg
import pytest
import sqlalchemy.exc

from pgbus.aio.backoff import Backoff
from pgbus.database.faults import Fault, classify, is_fatal, is_passing
from pgbus.database.tries import Tries
from pgbus.errors import (
    ConfigurationError,
    ConnectionUnusableError,
    DatabaseUnreachableError,
    PrivilegeError,
    SchemaVersionError,
)

LINK, PASSING, VALUES, PRIVILEGE, CODE = Fault


@pytest.mark.parametrize(("sqlstate", "fault"), [
    ("08006", LINK), ("08P01", LINK),
    ("0A000", PASSING),
    ("21000", CODE),
    ("22P02", VALUES), ("22003", VALUES), ("23505", VALUES), ("23514", VALUES), ("54000", VALUES), ("54001", VALUES),
    ("25006", LINK), ("25P02", PASSING), ("25P03", LINK), ("25P04", LINK),
    ("26000", LINK), ("42P05", LINK),
    ("28000", LINK), ("28P01", LINK), ("3D000", LINK),
    ("3F000", CODE), ("42601", CODE), ("42703", CODE), ("42883", CODE), ("42P01", CODE),
    ("42501", PRIVILEGE),
    ("40001", PASSING), ("40P01", PASSING), ("40003", PASSING),
    ("53100", PASSING), ("53200", PASSING), ("53300", LINK), ("53400", PASSING),
    ("55P03", PASSING), ("55006", PASSING), ("55000", PASSING),
    ("57014", PASSING), ("57P01", LINK), ("57P02", LINK), ("57P03", LINK), ("57P04", LINK), ("57P05", LINK),
    ("58030", PASSING), ("F0000", PASSING), ("P0001", PASSING), ("XX000", PASSING), ("XX002", PASSING),
    ("ZZ999", PASSING),
])  # fmt: skip
def test_an_error_of_the_server_is_judged_by_its_sqlstate_with_every_driver(sqlstate: str, fault: Fault) -> None:
    by_asyncpg: Any = asyncpg.PostgresError.new({"C": sqlstate, "M": "so"})
    by_psycopg: Any = psycopg.Error("so")
    by_psycopg.sqlstate = sqlstate
    by_sqlalchemy = sqlalchemy.exc.DBAPIError("SELECT 1", {}, by_psycopg)
    assert [classify(error) for error in (by_asyncpg, by_psycopg, by_sqlalchemy)] == [fault] * 3


@pytest.mark.parametrize(("error", "fault"), [
    (ConnectionRefusedError(), LINK), (TimeoutError(), LINK), (asyncio.IncompleteReadError(b"", 1), LINK),
    (asyncpg.InterfaceError("the connection is closed"), LINK), (asyncpg.InternalClientError("state"), LINK),
    (asyncpg.ConnectionDoesNotExistError("closed"), LINK),
    (psycopg.OperationalError("the connection is lost"), LINK),
    (sqlalchemy.exc.DBAPIError("SELECT 1", {}, ConnectionResetError(), connection_invalidated=True), LINK),
    (DatabaseUnreachableError("it", "gone"), LINK), (ConnectionUnusableError("closed"), LINK),
    (MemoryError(), PASSING),
    (PrivilegeError("no"), PRIVILEGE),
    (SchemaVersionError("old"), CODE), (ConfigurationError("bad"), CODE),
    (TypeError(), CODE), (KeyError(), CODE), (AssertionError(), CODE), (OverflowError(), CODE),
])  # fmt: skip
def test_what_does_not_come_from_the_server_is_judged_by_its_class(error: Exception, fault: Fault) -> None:
    assert classify(error) is fault


def test_a_refusal_is_fatal_only_for_what_has_never_worked() -> None:
    for error in (PrivilegeError("no"), asyncpg.InsufficientPrivilegeError("no"), asyncpg.DataError("no")):
        assert is_fatal(error, has_worked=False)
        assert not is_fatal(error, has_worked=True)
        assert not is_passing(error)
    assert is_fatal(TypeError(), has_worked=True)
    assert not is_fatal(asyncpg.SerializationError(), has_worked=False)


def test_pauses_double_up_to_their_limit_and_begin_small_again() -> None:
    backoff = Backoff(1.0, 5.0)
    for longest in (1, 2, 4, 5, 5):
        assert longest / 2 <= backoff.next() <= longest
    assert backoff.tries == 5
    backoff.reset()
    assert backoff.tries == 0
    assert backoff.next() <= 1


def test_tries_say_once_that_they_fail_and_once_that_they_succeed_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "pgbus")
    tries = Tries("claim")
    for _ in range(9):
        tries.pause_after(asyncpg.SerializationError("concurrent update"))
    for _ in range(2):
        tries.worked()
    assert [record.getMessage() for record in caplog.records] == [
        "cannot claim, trying again: SerializationError: concurrent update", "can claim again"
    ]  # fmt: skip


def test_tries_during_a_short_outage_leave_the_logging_to_the_session(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tries = Tries("claim")
    for _ in range(3):
        tries.pause_after(ConnectionRefusedError())
    tries.worked()
    assert caplog.records == []


def test_tries_raise_what_no_further_try_can_mend() -> None:
    error = asyncpg.UndefinedTableError("no such table")
    with pytest.raises(asyncpg.UndefinedTableError) as raised:
        Tries("claim").pause_after(error)
    assert raised.value is error
