"""The tasks declared in this process: functions on a schedule, and what runs in the background of a worker."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import msgspec

from pgbus.aio.returned import finish
from pgbus.config.features import FEATURES
from pgbus.config.options import FLAG, NAME, check_options, one_of
from pgbus.errors import ConfigurationError, DuplicateScheduleName, InvalidSchedule
from pgbus.handlers.contexts import TaskContext
from pgbus.handlers.declared import Declared, is_chosen
from pgbus.handlers.signatures import describe, is_async, type_hints, wants_bus, why_not_handler
from pgbus.schedules.rules import Missed, Rule

_OPTIONS = {"name": NAME, "missed": one_of("once", "skip", "all"), "also_run_immediately": FLAG}

TaskFunction: TypeAlias = Callable[..., Any]


class Task(msgspec.Struct, frozen=True):
    """A function and what it is called with: arguments, and the name of its parameter for the context, if any."""

    function: TaskFunction
    is_async: bool
    arguments: Mapping[str, object]
    context_parameter: str | None

    def call(self, context: TaskContext | None = None) -> Any:
        """Call it; what it returns is for `finish`."""
        return self.function(**self.arguments, **({self.context_parameter: context} if self.context_parameter else {}))

    async def finish(self, returned: Any) -> None:
        """Await what a call has returned, if that can be; raises ConfigurationError if nothing of it has run."""
        await finish(returned, f"the task {describe(self.function)}")


def make_task(function: TaskFunction, *, client: object, bus: object, has_context: bool = True) -> Task:
    """A task from a function; raises InvalidSchedule for one that pgbus cannot call.

    It may take the client, as its first parameter or as `client`, the bus as `bus`, and a TaskContext, by annotation.
    """
    if reason := why_not_handler(function):
        raise InvalidSchedule(f"a task is a function: {reason}")
    parameters = [
        one
        for one in inspect.signature(function).parameters.values()
        if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    ]
    hints = _hints(function) if parameters else {}
    roles: dict[str, str] = {}
    for number, parameter in enumerate(parameters):
        parameter = parameter.replace(annotation=hints.get(parameter.name, parameter.annotation))
        role = _role(parameter, is_first=number == 0)
        if role != "context" and wants_bus(parameter, bus=bus, client=client):
            role = "bus"
        if role == "context" and not has_context:
            role = None
        if parameter.kind is parameter.POSITIONAL_ONLY or role is None or role in roles:
            if parameter.default is not parameter.empty:
                continue
            raise InvalidSchedule(
                f"task {describe(function)}: pgbus does not know what to pass as {parameter.name!r}; a task may take "
                "the client or the bus, and on a schedule a TaskContext by annotation, each by name"
            )
        roles[role] = parameter.name
    given = {"client": client, "bus": bus}
    arguments = {name: given[role] for role, name in roles.items() if role in given}
    return Task(function, is_async(function), arguments, roles.get("context"))


def _hints(function: TaskFunction) -> Mapping[str, Any]:
    """Its annotations; as they are written where a name is only there for the type checker."""
    try:
        return type_hints(function)
    except ConfigurationError:
        return {}


def _role(parameter: inspect.Parameter, *, is_first: bool) -> str | None:
    annotation = parameter.annotation
    if annotation is TaskContext or (isinstance(annotation, str) and annotation.split(".")[-1] == "TaskContext"):
        return "context"
    if parameter.name == "client":
        return "client"
    is_required = parameter.default is parameter.empty
    return "client" if is_first and is_required and parameter.kind is not parameter.KEYWORD_ONLY else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A task and its rule; for the options see `bus.client.every`."""

    name: str
    rule: Rule
    task: Task
    missed: Missed = "once"
    run_immediately: bool = False

    def __post_init__(self) -> None:
        given = {"name": self.name, "missed": self.missed, "also_run_immediately": self.run_immediately}
        check_options(f"schedule {self.name!r}", _OPTIONS, given, error=InvalidSchedule)
        if self.name in FEATURES:
            raise InvalidSchedule(f"schedule {self.name!r}: that is the name of a feature; choose another `name`")


@dataclass(slots=True, eq=False)
class Background:
    """A background task, from a worker's start to its end: a function, or an awaitable, which can run only once."""

    name: str
    task: Task | None = None
    awaitable: Awaitable[object] | None = field(default=None, repr=False)

    def take(self) -> Awaitable[object] | None:
        """Return the awaitable at the first call, then None."""
        taken, self.awaitable = self.awaitable, None
        return taken


def make_background(given: object, *, name: str, client: object, bus: object) -> Background:
    """A background task from a coroutine, another awaitable, or a function; raises ConfigurationError."""
    if inspect.isawaitable(given):
        return Background(name, awaitable=given)
    if not callable(given):
        raise ConfigurationError(f"a background task is a coroutine or a function, not {given!r}")
    return Background(name, task=make_task(given, client=client, bus=bus, has_context=False))


class Schedules(Declared[Schedule]):
    """The schedules of one bus, and its background tasks, each in the order of their declaration."""

    def __init__(self) -> None:
        super().__init__(duplicate=DuplicateScheduleName)
        self._background: list[Background] = []

    def add_background(self, background: Background) -> None:
        """Add a background task, also to workers that run already."""
        self._background.append(background)
        self._tell(background.name)

    def select_background(
        self, *, only: Sequence[str] | None = None, skip: Sequence[str] | None = None
    ) -> list[Background]:
        """The background tasks named in `only` (default: all) but not in `skip`."""
        return [one for one in self._background if is_chosen(one.name, only=only, skip=skip)]

    def close_background(self) -> None:
        """Close the coroutines that nobody is going to run, so that Python does not warn of them."""
        for one in self._background:
            if (taken := one.take()) and inspect.iscoroutine(taken):
                taken.close()

    @property
    def names(self) -> list[str]:
        """The names of the schedules and background tasks."""
        return list(dict.fromkeys([*super().names, *(one.name for one in self._background)]))
