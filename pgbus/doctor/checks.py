"""A check: a pure judgement of evidence, which its group has read in one or a few statements."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

from pgbus.config import Config
from pgbus.database.connections import Connection
from pgbus.database.store import Store

Verdict = Literal["ok", "warning", "fault", "skipped"]

_E = TypeVar("_E")
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict with its evidence; `remedy` is a command, or a setting and its value."""

    verdict: Verdict
    evidence: str
    remedy: str | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check. `skipped`: it could not be made, and `evidence` says why; that is not `ok`."""

    check: str
    group: str
    verdict: Verdict
    evidence: str
    remedy: str | None = None


@dataclass(frozen=True, slots=True)
class Check(Generic[_E]):
    """One question. `meaning` says what it looks for, and what harm that does."""

    name: str
    meaning: str
    judge: Callable[[_E], Judgement]


@dataclass(frozen=True, slots=True)
class Patient:
    """The bus that is examined: its settings, as this process has them, and a session of its database."""

    config: Config
    connection: Connection
    store: Store
    server_version: int
    """The major version of the server."""
    clock: Callable[[], datetime]


@dataclass(frozen=True, slots=True)
class Group(Generic[_E]):
    """Checks that judge the same evidence, which `read` gets from the server."""

    name: str
    read: Callable[[Patient], Awaitable[_E]]
    checks: Sequence[Check[_E]]

    def judge(self, evidence: _E) -> list[Finding]:
        """Return the finding of each check."""
        return [self._finding(check, check.judge(evidence)) for check in self.checks]

    def skip(self, reason: str) -> list[Finding]:
        """Return a finding of each check that says why it could not be made."""
        return [self._finding(check, skipped(reason)) for check in self.checks]

    def _finding(self, check: Check[_E], found: Judgement) -> Finding:
        return Finding(check.name, self.name, found.verdict, found.evidence, found.remedy)


AnyGroup = Group[Any]


def ok(evidence: str) -> Judgement:
    """Return a judgement that nothing is wrong."""
    return Judgement("ok", evidence)


def warning(evidence: str, remedy: str) -> Judgement:
    """Return a judgement that someone should look at this in the next days."""
    return Judgement("warning", evidence, remedy)


def fault(evidence: str, remedy: str) -> Judgement:
    """Return a judgement that this is wrong now."""
    return Judgement("fault", evidence, remedy)


def skipped(reason: str) -> Judgement:
    """Return a judgement that the check could not be made."""
    return Judgement("skipped", reason)


def listed(names: Sequence[str]) -> str:
    """The first names, and the number of those that follow."""
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more:,} more" if more > 0 else "")


def literal(text: str) -> str:
    """The text as an SQL literal, in a command for people."""
    return "'" + text.replace("'", "''") + "'"
