"""When a schedule is due: intervals and cron expressions, and what becomes of runs that were missed. No I/O."""

from __future__ import annotations

import functools
import math
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Literal, TypeAlias, get_args

import msgspec

from pgbus.errors import InvalidSchedule

Missed: TypeAlias = Literal["once", "skip", "all"]

# How late a run may begin and not count as missed, unless the next one is due by then.
PUNCTUAL = timedelta(seconds=10)
# With `missed="all"`, the largest number of missed runs that are made up for: the latest ones.
MAX_MISSED = 100
# A hundred years: further on, the next run might lie beyond the last year of a datetime.
LONGEST = timedelta(days=36_500)

ALIASES: Mapping[str, str] = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
FIELDS = {
    "minute": "0 to 59",
    "hour": "0 to 23",
    "day-of-month": "1 to 31",
    "month": "1 to 12",
    "day-of-week": "0 to 7",
}

_UNITS = ("seconds", "minutes", "hours", "days", "weeks")
_EVERY = re.compile(r"every (\S+)(?: to (\S+))? s")


@dataclass(frozen=True, slots=True)
class Every:
    """An interval from start to start; with `up_to`, a random one between the two each time."""

    interval: timedelta
    up_to: timedelta | None = None

    def __post_init__(self) -> None:
        if not timedelta(0) < self.interval <= (self.up_to or LONGEST) <= LONGEST:
            raise InvalidSchedule(
                "an interval is more than 0, and at most 36500 days; "
                "the second limit of a random one is larger than the first"
            )

    def __str__(self) -> str:
        upper = f" to {_seconds(self.up_to)}" if self.up_to else ""
        return f"every {_seconds(self.interval)}{upper} s"

    def after(self, instant: datetime) -> datetime:
        """When it is due next, if it was due then."""
        if self.up_to is None:
            return instant + self.interval
        return instant + self.interval + random.random() * (self.up_to - self.interval)  # noqa: S311 - no secret

    def resume(self, due_at: datetime, now: datetime) -> datetime:
        """When it is due next after now, in the rhythm that it had; a random interval has none."""
        if self.up_to is not None or now < due_at:
            return self.after(now)
        return due_at + ((now - due_at) // self.interval + 1) * self.interval

    def within_reach(self, due_at: datetime, now: datetime) -> datetime:
        """The first of the runs due since `due_at` that is one of the last MAX_MISSED."""
        missed = max(0, (now - due_at) // self.interval)
        return due_at + max(0, missed + 1 - MAX_MISSED) * self.interval


@dataclass(frozen=True, slots=True)
class Cron:
    """A cron expression of five fields, as Debian's cron reads it, in a time zone.

    A time of day that the clock skips in spring counts for the first one after it; one that comes twice in autumn
    counts once, unless the minute or the hour is a star.
    """

    expression: str
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        object.__setattr__(self, "expression", _checked_expression(self.expression))
        zone(self.timezone)
        try:
            self.after(datetime(2000, 1, 1, tzinfo=UTC))
        except StopIteration:
            raise InvalidSchedule(f"{self.expression!r} is never due: there is no such day") from None

    def __str__(self) -> str:
        return f"{self.expression} in {self.timezone}"

    def after(self, instant: datetime) -> datetime:
        """When it is due next after an instant."""
        dates = _dates(self.expression, instant.astimezone(zone(self.timezone)))
        # In the hour that comes twice, the library may name the first one when we are in the second.
        return next(utc for date in dates if (utc := date.astimezone(UTC)) > instant)

    def resume(self, due_at: datetime, now: datetime) -> datetime:  # noqa: ARG002 - its rhythm is the calendar's
        """When it is due next after now."""
        return self.after(now)

    def within_reach(self, due_at: datetime, now: datetime) -> datetime:
        """The first of the runs due since `due_at` that is one of the last MAX_MISSED."""
        back = _dates(self.expression, now.astimezone(zone(self.timezone)) + timedelta(seconds=1), reverse=True)
        earliest = due_at
        for _, date in zip(range(MAX_MISSED), back, strict=False):
            earliest = date.astimezone(UTC)
            if earliest <= due_at:
                return due_at
        return earliest


Rule: TypeAlias = Every | Cron


class Turn(msgspec.Struct, frozen=True):
    """The decision about a due schedule: which run it is, whether it is executed, and when the next one is due."""

    due_at: datetime
    runs: bool
    next_run_at: datetime


def take_turn(rule: Rule, *, missed: Missed, due_at: datetime, now: datetime, again: bool = False) -> Turn:
    """Decide what is done about a schedule that was due at `due_at`, which is not after `now`.

    What was missed meanwhile is run once (`once`), is left out (`skip`), or follows run by run (`all`). A run is missed
    if it could not begin before the next was due, or within 10 seconds. `again`: this run was begun before, and was
    interrupted; it does not count as missed.
    """
    following = rule.after(due_at)
    if missed == "all":
        if not again:
            due_at = rule.within_reach(due_at, now)
        return Turn(due_at, runs=True, next_run_at=rule.after(due_at))
    if missed == "skip" and not again and (following <= now or now - due_at > PUNCTUAL):
        return Turn(due_at, runs=False, next_run_at=rule.resume(due_at, now))
    if following <= now:
        # It begins so late that its interval is over: the next one is measured from here.
        following = rule.after(now)
    return Turn(due_at, runs=True, next_run_at=following)


def duration(**units: float) -> timedelta:
    """Return the interval as a timedelta; raises InvalidSchedule."""
    try:
        return timedelta(**units)
    except (ValueError, OverflowError, TypeError) as error:
        raise InvalidSchedule(f"an interval is numbers of its units: {error}") from None


def parse_rule(text: str) -> Rule:
    """The rule that `str(rule)` wrote. Raises InvalidSchedule."""
    if found := _EVERY.fullmatch(text):
        try:
            return Every(*(duration(seconds=float(one)) for one in found.groups() if one))
        except ValueError as error:
            raise InvalidSchedule(f"{text!r} is not an interval: {error}") from None
    expression, _, timezone = text.rpartition(" in ")
    return Cron(expression, timezone)


def read_job(job: object) -> Rule:
    """The rule of a job of the library `schedule`, known by its attributes; raises InvalidSchedule.

    A time of day is refused: the library reads it on the clock of whatever process it runs in.
    """
    unit, count, latest = (getattr(job, name, None) for name in ("unit", "interval", "latest"))
    if unit not in _UNITS or not isinstance(count, int | float):
        raise InvalidSchedule(
            f"schedule takes a cron expression, or a job of the library `schedule` that has a unit, not {job!r}"
        )
    if any(getattr(job, name, None) is not None for name in ("at_time", "start_day", "cancel_after")):
        raise InvalidSchedule(
            "a job with a time of day, a weekday or an end is written as a cron expression here: "
            '`schedule("30 10 * * *", timezone="Europe/Berlin")` is every day at half past ten'
        )
    return Every(duration(**{unit: count}), None if latest is None else duration(**{unit: latest}))


def check_missed(missed: str) -> Missed:
    """Return the policy for missed runs; raises InvalidSchedule."""
    if missed not in get_args(Missed):
        raise InvalidSchedule(f"missed is 'once', 'skip' or 'all', not {missed!r}")
    return missed  # type: ignore[return-value]


@functools.cache
def zone(name: str) -> tzinfo:
    """A time zone by its name in the tz database; raises InvalidSchedule."""
    if name == "UTC":
        return UTC  # is there without the database, too
    import zoneinfo  # reads how Python was built, for the folders that have time zones

    try:
        return zoneinfo.ZoneInfo(name)
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
        raise InvalidSchedule(
            f"timezone: there is no time zone {name!r}, such as 'Europe/Berlin'; where the system has no time zones, "
            "install the package tzdata"
        ) from None


def _checked_expression(given: str) -> str:
    expression = " ".join(given.split())
    if expression.startswith("@"):
        if expression.lower() not in ALIASES:
            raise InvalidSchedule(f"there is no {given!r}; there are {', '.join(ALIASES)}")
        return ALIASES[expression.lower()]
    fields = expression.split(" ")
    if len(fields) != len(FIELDS):
        raise InvalidSchedule(f"{given!r} has {len(fields)} fields; a cron expression has 5: {', '.join(FIELDS)}")
    for position, ((name, values), value) in enumerate(zip(FIELDS.items(), fields, strict=True)):
        # Alone among stars, so that what is wrong is this field.
        alone = ["*"] * len(FIELDS)
        alone[position] = value
        _check(" ".join(alone), f"{given!r}: {name} must be {values}, not {value}")
    _check(expression, f"{given!r} is never due: there is no such day")
    return expression


def _dates(expression: str, start: datetime, *, reverse: bool = False) -> Iterator[datetime]:
    from cronsim import CronSim  # and its calendar: a bus without cron expressions does not wait for them

    return CronSim(expression, start, reverse=reverse)


def _check(expression: str, complaint: str) -> None:
    from cronsim import CronSimError

    try:
        _dates(expression, datetime(2000, 1, 1, tzinfo=UTC))
    except (CronSimError, AssertionError, TypeError, ValueError, IndexError):
        raise InvalidSchedule(complaint) from None


def _seconds(duration: timedelta) -> str:
    seconds = duration.total_seconds()
    return str(int(seconds)) if seconds == math.floor(seconds) else repr(seconds)
