"""The sleep of the bus, as one worker hears of it: then nobody asks anything, until a notification or a known instant.

    awake --"dozing"--> quiet --"asleep"--> asleep --a notification, or the instant--> awake

The leader says that it dozes, looks once more, and says that the bus is asleep. Notifications come in the order of the
commits: who has heard any other one in between stays awake, and so does who hears nothing more of the leader.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from pgbus.aio.clock import now

# Seconds that the bus is quiet for before it sleeps. More than a poll of each worker takes.
QUIET = 10.0
# Seconds that it sleeps at most: what nobody waits for, such as retention, is looked after once a day.
LONGEST = 86_400.0
# Seconds after which a leader that dozed, and has not said that it fell asleep, may be gone.
DOZE_LIMIT = 2.0
# Seconds between looks at the clock, which ask nobody: that of the event loop stands still while the host is suspended.
CLOCK_INTERVAL = 30.0


class Slumber:
    """The sleep of one worker; `waking` is called by the first `stir` after the leader dozed."""

    def __init__(self, *, waking: Callable[[], None]) -> None:
        self._waking = waking
        self._stirred_at = self._last_at = self._looked_at = now()
        self._alarm: asyncio.TimerHandle | None = None
        # When it rings, by the event loop's clock and by the host's: by whichever is the first.
        self._rings_at = self._rings_at_by_host = 0.0
        self.awake = asyncio.Event()
        """Set while it does not."""
        self.awake.set()
        self.asleep = asyncio.Event()
        """Set while it does."""
        self.lying = asyncio.Event()
        """Set while the leader dozes or the bus sleeps, and nothing else was heard since."""

    @property
    def is_asleep(self) -> bool:
        """Whether the bus sleeps, and this worker asks nothing."""
        return self.asleep.is_set()

    @property
    def heard_at(self) -> float:
        """When something was heard or moved last, by the engine's clock."""
        return self._last_at

    @property
    def quiet_for(self) -> float:
        """Seconds since something was heard or moved last."""
        return now() - self._last_at

    @property
    def up_for(self) -> float:
        """Seconds for which somebody should have led; 0 when the leader dozes, or the bus sleeps."""
        return 0.0 if self.lying.is_set() else now() - self._stirred_at

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
        if not self.lying.is_set():
            return
        self._stirred_at = self._last_at
        self.asleep.clear()
        self.lying.clear()
        self.awake.set()
        self._stop_alarm()
        self._waking()

    def lie_down(self) -> None:
        """Note that the leader dozes: if it hears of nothing more, the bus falls asleep."""
        if not self.is_asleep:
            self.lying.set()
            self._set_alarm(DOZE_LIMIT)

    def fall_asleep(self, seconds: float) -> None:
        """Sleep for this many seconds at most, unless something was heard of since the leader dozed."""
        if self.is_asleep or not self.lying.is_set():
            return
        self.asleep.set()
        self.awake.clear()
        self._set_alarm(min(max(0.0, seconds), LONGEST))

    def close(self) -> None:
        """Cancel the alarm: the worker ends."""
        self._stop_alarm()

    def _set_alarm(self, seconds: float) -> None:
        self._rings_at, self._rings_at_by_host = now() + seconds, time.time() + seconds
        self._look_at_clock()

    def _look_at_clock(self) -> None:
        self._stop_alarm()
        left = min(self._rings_at - now(), self._rings_at_by_host - time.time())
        ring = self.stir if left <= CLOCK_INTERVAL else self._look_at_clock
        self._alarm = asyncio.get_running_loop().call_later(max(0.0, min(left, CLOCK_INTERVAL)), ring)

    def _stop_alarm(self) -> None:
        if self._alarm:
            self._alarm.cancel()
            self._alarm = None
