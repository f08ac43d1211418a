"""The part of `bus.client` that declares what a worker does by the clock, and in the background."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from pgbus.config import Config
from pgbus.config.features import check_features
from pgbus.config.options import NAME, check_options
from pgbus.errors import ConfigurationError, InvalidSchedule
from pgbus.handlers.signatures import default_name
from pgbus.listeners.listener import in_service
from pgbus.registry import Registry
from pgbus.schedules.rules import Cron, Every, Missed, Rule, check_missed, duration, read_job
from pgbus.schedules.schedule import Schedule, make_background, make_task

F = TypeVar("F", bound=Callable[..., Any])


class Tasking:
    """Declares schedules and background tasks for a bus."""

    def __init__(self, registry: Registry, config: Config, bus: object) -> None:
        self._registry = registry
        self._bus = bus
        self._config = config

    def every(
        self,
        *,
        seconds: float = 0,
        minutes: float = 0,
        hours: float = 0,
        days: float = 0,
        weeks: float = 0,
        milliseconds: float = 0,
        also_run_immediately: bool = False,
        name: str | None = None,
        missed: Missed = "once",
    ) -> Callable[[F], F]:
        """Decorator: have a function called at an interval, each time by one worker of all that declare it.

        The function may be async, or plain (it then runs in a thread). It gets the client if it has a parameter for
        it, the bus if that is named `bus`, and a TaskContext if one is annotated so. What it raises is logged and kept
        in the history, and does not stop the worker; the next run is at the next interval. Runs of one schedule never
        overlap.

        - The interval is measured from start to start, and by the database: it goes on while workers come and go.
        - `also_run_immediately`: the first run is at once when the schedule is new to the database, and not after one
          interval.
        - `name`: what all workers know the schedule by; default: the function's qualified name. With a `service_name`
          in the configuration, `{service_name}-{name}`.
        - `missed`: what becomes of runs that were due while no worker was up, or while the one before still ran:
          "once" (default): one run, at once; "skip": none; "all": each of them, one after the other, the last 100.

        Raises InvalidSchedule for an interval of nothing, and DuplicateScheduleName.
        """
        interval = duration(
            seconds=seconds, minutes=minutes, hours=hours, days=days, weeks=weeks, milliseconds=milliseconds
        )
        return self._on(Every(interval), also_run_immediately, name, missed)

    def schedule(
        self,
        schedule: object,
        *,
        timezone: str | None = None,
        also_run_immediately: bool = False,
        name: str | None = None,
        missed: Missed = "once",
    ) -> Callable[[F], F]:
        """Decorator: `every`, at the times of a cron expression.

        - `schedule`: five fields, as in `"0 3 * * *"`, or `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`; or a
          job of the library `schedule` that is a plain interval, as in `schedule.every(1).to(3).seconds`.
        - `timezone`: whose clock the fields are read on, as in `"Europe/Berlin"`; default: UTC.

        Raises InvalidSchedule, which names the field that is wrong.
        """
        return self._on(_rule(schedule, timezone), also_run_immediately, name, missed)

    def _on(self, rule: Rule, run_immediately: bool, name: str | None, missed: str) -> Callable[[F], F]:
        check_options("a schedule", {"name": NAME.or_none()}, {"name": name}, error=InvalidSchedule)
        policy = check_missed(missed)

        def declare(function: F) -> F:
            task = make_task(function, client=self, bus=self._bus)
            own_name = default_name(function) if name is None else name
            self._registry.schedules.add(
                Schedule(
                    name=in_service(self._config.service_name, own_name) if own_name else own_name,
                    rule=rule,
                    task=task,
                    missed=policy,
                    run_immediately=run_immediately,
                )
            )
            return function

        return declare

    def add_background_task(self, coroutine_or_function: object) -> None:
        """Have something run in every worker, from its start to its end, or from now on if it runs already.

        - A function (async, or a plain one in a thread) is called when a worker starts. If it raises, that is logged,
          and it is called again, after a pause that grows from 1 to 60 seconds; when it returns, it is done.
        - A coroutine or another awaitable is awaited by the first worker that starts in this process. If it raises,
          that is logged, and it is over: it cannot be started again.

        It is cancelled when the worker stops, which does not wait for it; a thread has to end by itself.
        """
        self._registry.schedules.add_background(
            make_background(coroutine_or_function, name=_name_of(coroutine_or_function), client=self, bus=self._bus)
        )

    @property
    def features(self) -> frozenset[str]:
        """The features of this bus's workers: any of `events`, `rpcs` and `tasks`."""
        return self._registry.features

    def set_features(self, features: Iterable[str]) -> None:
        """Have workers that start from now on do these things, and no others; raises UnsupportedUse."""
        self._registry.features = check_features(features)


def _rule(schedule: object, timezone: str | None) -> Rule:
    check_options("a schedule", {"timezone": NAME.or_none()}, {"timezone": timezone}, error=InvalidSchedule)
    if isinstance(schedule, str):
        return Cron(schedule, timezone or "UTC")
    if timezone is not None:
        raise InvalidSchedule("timezone belongs to a cron expression; an interval has none")
    return read_job(schedule)


def _name_of(given: Any) -> str:
    if inspect.iscoroutine(given) and given.cr_frame:
        return f"{given.cr_frame.f_globals['__name__']}.{given.__qualname__}".replace(".<locals>", "")
    if inspect.isawaitable(given):
        return type(given).__qualname__
    if not callable(given):
        raise ConfigurationError(f"a background task is a coroutine or a function, not {given!r}")
    return default_name(given)
