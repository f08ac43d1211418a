"""asyncpg: a connection, or what a pool hands out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from pgbus.database.adapters.executors import connection_closed, transaction_aborted
from pgbus.database.adapters.outside import complain
from pgbus.database.sql import Statement, all_as_text, bound_as_text
from pgbus.database.sql.rights import missing_right


class AsyncpgExecutor:
    """Runs statements on an asyncpg connection: in its transaction, or each in one of its own where there is none."""

    __slots__ = ("_connection", "_required")

    def __init__(self, connection: asyncpg.Connection | PoolConnectionProxy, required: bool = False) -> None:
        self._connection = connection
        self._required = required

    async def fetch(self, statement: Statement, values: Mapping[str, object]) -> Sequence[Sequence[Any]]:
        """Run one statement and return its rows."""
        # As text, and the casts in SQL: the user may have set codecs for uuid or jsonb on this connection.
        bound = bound_as_text(statement)
        try:
            if not self._connection.is_in_transaction() and not self._connection.is_closed():
                complain(
                    statement,
                    "the asyncpg connection",
                    begin="write both within `async with connection.transaction():`",
                    required=self._required,
                )
            # Not the user's class of records, which may have other keys than numbers.
            rows: list[Any] = await self._connection.fetch(
                bound.asyncpg, *all_as_text(bound.arguments(values)), record_class=asyncpg.Record
            )
        except asyncpg.InFailedSQLTransactionError as error:
            raise transaction_aborted(error) from error
        except asyncpg.InsufficientPrivilegeError as error:
            raise missing_right(statement, error) from error
        except asyncpg.InternalClientError as error:
            # The server closed it, and the driver is half way through noticing that.
            raise connection_closed(error) from error
        except (asyncpg.InterfaceError, asyncpg.PostgresConnectionError, OSError) as error:
            if self._is_closed():
                raise connection_closed(error) from error
            raise
        return rows

    def _is_closed(self) -> bool:
        try:
            return self._connection.is_closed()
        except asyncpg.InterfaceError:  # the pool has it back
            return True
