"""When the parts of a worker that failed by a fault of code begin again: each after a pause of its own, which grows."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from pgbus.aio.backoff import RestartBackoff
from pgbus.telemetry import PartFailed, Telemetry
from pgbus.telemetry.figures import duration

logger = logging.getLogger("pgbus")

# Length, in characters, of an error that is stored for operators.
_ERROR_LENGTH = 500


class Restarts:
    """The failed parts of one worker, by names such as `listener mailer`, `calls`, `schedules` and `leader`.

    `wake` is called when a part may begin again.
    """

    def __init__(self, *, telemetry: Telemetry, wake: Callable[[], None]) -> None:
        self._telemetry = telemetry
        self._wake = wake
        # Set by `note_failure`, and ended by a timer of its own for each part; what begins the parts asks for it.
        self._resting: dict[str, str] = {}
        self._backoffs: dict[str, RestartBackoff] = {}

    @property
    def resting(self) -> Mapping[str, str]:
        """The parts that wait to begin again, and why: one line for each."""
        return self._resting

    def is_resting(self, part: str) -> bool:
        """Whether this part has to wait."""
        return part in self._resting

    def note_failure(self, part: str, error: BaseException, *, age: float) -> None:
        """Log that a part has failed after it had run for `age` seconds, and let it begin again after a pause."""
        pause = self._backoffs.setdefault(part, RestartBackoff()).next_after(age=age)
        logger.critical("%s failed, and restarts in %s", part, duration(pause), exc_info=error)
        self._telemetry.emit(PartFailed(part, str(error)))
        self._resting[part] = _one_line(error)
        asyncio.get_running_loop().call_later(pause, self._end_rest, part)

    def _end_rest(self, part: str) -> None:
        self._resting.pop(part, None)
        self._wake()


def _one_line(error: BaseException) -> str:
    # ASCII: a database in any encoding stores it.
    text = f"{type(error).__name__}: {error}".encode("ascii", "backslashreplace").decode().replace("\x00", "\\x00")
    return " ".join(text.split())[:_ERROR_LENGTH]
