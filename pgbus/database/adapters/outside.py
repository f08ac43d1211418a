"""Warning of what is published where no transaction holds it together with the user's rows.

A Python warning, and no log record: it belongs to a line of the user's code, Python shows each such line once, and
tests that turn warnings into errors find it.
"""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass
from typing import Any

from pgbus.database.sql import Statement
from pgbus.errors import ConnectionUnusableError, NoTransactionWarning

# The statements that publish; settling and reading run on such connections too, and say what is wrong in another way.
_PUBLISHING = frozenset({"insert_event", "insert_lines", "insert_events", "insert_events_once"})
_NOT_THE_USERS = ("pgbus.", "sqlalchemy.", "contextlib")

AUTOCOMMIT = (
    "{what} is in no transaction, so the event is published at once, whatever becomes of your rows: {begin}; or leave "
    "`using` out, if the event is to stand alone"
)


def complain(statement: Statement, what: str, *, begin: str, required: bool) -> None:
    """Warn that this statement, if it publishes, is in no transaction; raise ConnectionUnusableError if it has to be.

    One of the inbox always has to be. `begin` says how a transaction is begun there.
    """
    if statement.name == "take_events":
        raise ConnectionUnusableError(f"{what} has no open transaction, which the inbox needs: {begin}")
    if not publishes(statement):
        return
    if required:
        raise ConnectionUnusableError(f"{what} is in no transaction, and require_transaction asks for one: {begin}")
    Place.here().warn(AUTOCOMMIT.format(what=what, begin=begin))


def publishes(statement: Statement) -> bool:
    """Whether it is one that publishes."""
    return statement.name in _PUBLISHING


@dataclass(frozen=True, slots=True)
class Place:
    """A line of the user's code."""

    filename: str
    line: int
    module: str
    registry: dict[Any, Any]

    @classmethod
    def here(cls) -> Place:
        """The innermost line that is neither ours nor SQLAlchemy's."""
        frame = sys._getframe(1)
        while frame.f_back and str(frame.f_globals.get("__name__")).startswith(_NOT_THE_USERS):
            frame = frame.f_back
        names = frame.f_globals
        # Where `warnings.warn` too notes what was shown.
        registry = names.setdefault("__warningregistry__", {})
        return cls(frame.f_code.co_filename, frame.f_lineno, str(names.get("__name__")), registry)

    def warn(self, message: str) -> None:
        """Warn of something at this line."""
        warnings.warn_explicit(
            message, NoTransactionWarning, self.filename, self.line, module=self.module, registry=self.registry
        )
