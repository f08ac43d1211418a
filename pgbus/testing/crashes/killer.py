"""The points of one run of a handler, in their order, and the kill at one of them."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from functools import lru_cache

from pgbus.database.sql import bound_as_text, load
from pgbus.testing.crashes.report import Point, When
from pgbus.testing.crashes.wire import ProcessKilled, Session

# The engine's statements that are part of a handler's run: what the handler publishes or marks, and its settlement.
_OF_HANDLER = frozenset(
    {
        "insert_event", "insert_events", "insert_events_once", "cancel_event", "take_events",
        "settle_done", "settle_deliveries",
    }
)  # fmt: skip
_LOCKING = "lock_delivery"
# What asyncpg's pool sends when it gets a connection back.
_OF_POOLS = "SELECT pg_advisory_unlock_all()"

_OF_ENGINE, _IN_TRANSACTION = "engine", "transaction"


@lru_cache(maxsize=8)
def engine_statements(namespace: str) -> Mapping[str, str]:
    """Return the names of the engine's statements by their SQL, as it reaches the server."""
    return {
        _on_one_line(form.asyncpg): name
        for name, statement in load(namespace).items()
        for form in (statement, bound_as_text(statement))
    }


def _on_one_line(statement: str) -> str:
    return " ".join(statement.split())


class Killer:
    """Watches the statements of one process while the handler runs; kills the process at point `kill_at`, if given.

    The engine's own sessions are left out: their statements come at any time, and the project's tests kill there.
    """

    def __init__(self, *, namespace: str, kill_at: int | None = None) -> None:
        self.points: list[Point] = []
        self.killed_at: Point | None = None
        self.effects: list[str] = []
        self.pid: int | None = None
        self._kill_at = kill_at
        self._engine = engine_statements(namespace)
        self._has_begun = False
        self._has_ended = False

    # ----------------------------------------------------------------------------------------- told by the process

    def handler_begins(self) -> None:
        """From now on there are points."""
        self._has_begun = True

    def handler_ends(self) -> None:
        """Only the end of its transaction and its settlement are still points."""
        self._has_ended = True

    def effect_begins(self, effect: str) -> None:
        """The handler is about to do something outside of the database."""
        self._reach("before", effect)
        self.effects.append(effect)

    def effect_ends(self, effect: str) -> None:
        """Note that the external effect has happened."""
        self._reach("after", effect)

    # ------------------------------------------------------------------------------------------- told by the proxy

    def before(self, session: Session, statement: str) -> None:
        """The server is about to get a statement."""
        if self.killed_at:
            raise ProcessKilled
        if what := self._point(session, _on_one_line(statement)):
            self._reach("before", what)

    def after(self, session: Session, statement: str) -> None:
        """The server has carried it out."""
        if self.killed_at:
            raise ProcessKilled
        if what := self._point(session, _on_one_line(statement)):
            self._reach("after", what)

    def _point(self, session: Session, statement: str) -> str | None:
        """Return the point of a statement; None for one that is not the handler's."""
        name = self._engine.get(statement)
        if name == _LOCKING:
            session.notes = {_IN_TRANSACTION}
        elif name and name not in _OF_HANDLER:
            session.notes = {_OF_ENGINE}
        if not self._has_begun or statement.startswith(_OF_POOLS):
            return None
        if name:
            return f"pgbus's {name}" if name in _OF_HANDLER else None
        if _OF_ENGINE in session.notes or (self._has_ended and _IN_TRANSACTION not in session.notes):
            return None
        return statement if len(statement) <= 100 else f"{statement[:97]}..."

    def _reach(self, when: When, what: str) -> None:
        if self.killed_at:
            raise ProcessKilled
        if not self._has_begun:
            return
        self.points.append(point := Point(len(self.points) + 1, when, what))
        if point.number == self._kill_at and self.pid:
            os.kill(self.pid, signal.SIGKILL)
            self.killed_at = point
            raise ProcessKilled
