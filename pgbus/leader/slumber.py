"""The sleep of the bus, as one worker hears of it: then nobody asks anything, until a notification or a known instant.

    awake --"dozing"--> quiet --"asleep"--> asleep --a notification, or the instant--> awake

The leader says that it dozes, looks once more, and says that the bus is asleep. Notifications come in the order of the
commits: who has heard any other one in between stays awake, and so does who hears nothing more of the leader.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from pgbus.aio.clock import now

# Seconds that the bus is quiet for before it sleeps. More than a poll of each worker takes.
QUIET = 10.0
# Seconds that it sleeps at most: what nobody waits for, such as retention, is looked after once a day.
LONGEST = 86_400.0
# Seconds after which a leader that dozed, and has not said that it fell asleep, may be gone.
DOZE_LIMIT = 2.0


class Slumber:
    """The sleep of one worker; `waking` is called by the first `stir` after the leader dozed."""

    def __init__(self, *, waking: Callable[[], None]) -> None:
        self._waking = waking
        self._stirred = True
        self._stirred_at = self._last_at = self._looked_at = now()
        self._alarm: asyncio.TimerHandle | None = None
        self.is_asleep = False
        """Whether the bus sleeps, and this worker asks nothing."""
        self.awake = asyncio.Event()
        """Set while it does not."""
        self.awake.set()

    @property
    def quiet_for(self) -> float:
        """Seconds since something was heard or moved last."""
        return now() - self._last_at

    @property
    def up_for(self) -> float:
        """Seconds for which somebody should have led; 0 when the leader dozes, or the bus sleeps."""
        return now() - self._stirred_at if self._stirred else 0.0

    @property
    def has_looked(self) -> bool:
        """Whether this worker has looked for lost work since it was woken."""
        return self._looked_at >= self._stirred_at

    def note_look(self) -> None:
        """Note that this worker has looked for lost work."""
        self._looked_at = now()

    def stir(self) -> None:
        """Be awake: an event, a call or a change was heard of, or is due."""
        self._last_at = now()
        if self._stirred:
            return
        self._stirred, self._stirred_at = True, self._last_at
        self.is_asleep = False
        self.awake.set()
        self._stop_alarm()
        self._waking()

    def lie_down(self) -> None:
        """Note that the leader dozes: if it hears of nothing more, the bus falls asleep."""
        if not self.is_asleep:
            self._stirred = False
            self._set_alarm(DOZE_LIMIT)

    def fall_asleep(self, seconds: float) -> None:
        """Sleep for this many seconds at most, unless something was heard of since the leader dozed."""
        if self._stirred or self.is_asleep:
            return
        self.is_asleep = True
        self.awake.clear()
        self._set_alarm(min(max(0.0, seconds), LONGEST))

    def close(self) -> None:
        """Cancel the alarm: the worker ends."""
        self._stop_alarm()

    def _set_alarm(self, seconds: float) -> None:
        self._stop_alarm()
        self._alarm = asyncio.get_running_loop().call_later(seconds, self.stir)

    def _stop_alarm(self) -> None:
        if self._alarm:
            self._alarm.cancel()
            self._alarm = None
