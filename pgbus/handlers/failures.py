"""How failures of handlers, procedures and tasks are logged: a line for each, and the traceback once for each kind."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping
from types import TracebackType
from typing import TypeAlias

from pgbus.aio.clock import now
from pgbus.handlers.outcomes import error_text, handlers_part

logger = logging.getLogger("pgbus")

# Seconds after which the traceback of a kind of failure is logged again: a log that was rotated has one, too.
REPEAT_AFTER = 600.0
# Kinds that are remembered; of more, the one seen longest ago is forgotten.
MOST_KINDS = 1_000

Kind: TypeAlias = tuple[str, type[BaseException], str, int]


class Failures:
    """Logs the failures of listeners, procedures and tasks.

    The traceback comes with the first failure of a kind, and again after 10 minutes: 500 events that fail in one place
    make 500 lines and one traceback. Dead letters and the history of schedules keep every traceback.
    """

    def __init__(self) -> None:
        self._told: OrderedDict[Kind, float] = OrderedDict()

    def log(
        self, level: int, subject: str, ending: str, *, error: BaseException | None, fields: Mapping[str, object]
    ) -> None:
        """Log one line, `subject ending`, with these fields; `error` is None for one whose traceback says nothing."""
        shown = error if error and is_writable(error) and self.is_new(subject, error, at=now()) else None
        # As an argument: what others wrote may have a percent sign in it.
        logger.log(level, "%s", on_one_line(f"{subject} {ending}"), exc_info=_exc_info(shown), extra=dict(fields))

    def is_new(self, subject: str, error: BaseException, *, at: float) -> bool:
        """Whether no failure of its kind was logged in the 10 minutes before `at`, in seconds; from now on one was."""
        kind = kind_of(subject, error)
        told_at = self._told.get(kind)
        if told_at is not None and at - told_at < REPEAT_AFTER:
            return False
        self._told[kind] = at
        self._told.move_to_end(kind)
        if len(self._told) > MOST_KINDS:
            self._told.popitem(last=False)
        return True


def kind_of(subject: str, error: BaseException) -> Kind:
    """Who failed, the type of the error, and where it was raised, by file and line: messages differ each time."""
    trace: TracebackType | None = error.__traceback__
    if trace is None:
        return subject, type(error), "", 0
    while trace.tb_next:
        trace = trace.tb_next
    return subject, type(error), trace.tb_frame.f_code.co_filename, trace.tb_lineno


def _exc_info(error: BaseException | None) -> tuple[type[BaseException], BaseException, TracebackType | None] | None:
    """The error and its traceback from the handler on, as `logging` takes them."""
    return (type(error), error, handlers_part(error.__traceback__)) if error else None


def is_writable(error: BaseException) -> bool:
    """Whether the error's text can be encoded: a stream refuses a record that has half of a surrogate pair."""
    try:
        error_text(error).encode()
    except UnicodeEncodeError:
        return False
    return True


def on_one_line(text: str) -> str:
    """The text without line breaks, and with an escape for what cannot be encoded."""
    writable = text.encode(errors="backslashreplace").decode()
    return " ".join(line.strip() for line in writable.splitlines())
