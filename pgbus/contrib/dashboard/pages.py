"""The pages: each reads what it shows, and names its template."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias
from uuid import UUID

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from pgbus.admin import Admin, CallFilter, Condition, DeadFilter, EventFilter, Names
from pgbus.contrib.dashboard.access import Person
from pgbus.contrib.dashboard.forms import FormKey
from pgbus.contrib.dashboard.journey import draw_journey
from pgbus.contrib.dashboard.showing import duration_chart, flow_map, masked, rate_chart
from pgbus.database.statements import dashboard
from pgbus.doctor import examine
from pgbus.errors import InvalidEventError, NotRegisteredError
from pgbus.topics import check_pattern

Shown: TypeAlias = Response | tuple[str, Mapping[str, Any]]
"""A response, or a template with its values."""
Page: TypeAlias = Callable[["Visit"], Awaitable[Shown]]

LIMIT = 50
"""Rows on a page; more follow on the next one."""


class Visit:
    """One request of a page by a person, with an Admin for it, and the payload fields that nobody sees.

    `form` has the fields of a form that was sent, and was found to be one of ours.
    """

    def __init__(
        self,
        request: Request,
        admin: Admin,
        *,
        person: Person,
        key: FormKey,
        form: Mapping[str, str],
        hidden: frozenset[str],
    ) -> None:
        self.request = request
        self.admin = admin
        self.person = person
        self.key = key
        self.form = form
        self.hidden = hidden
        self.problem = ""

    @property
    def root(self) -> str:
        """The path of the dashboard, where it is mounted."""
        return str(self.request.scope.get("root_path", ""))

    def asked(self, name: str) -> str | None:
        """A parameter of the address; None for one that is empty."""
        return self.request.query_params.get(name, "").strip() or None

    def path(self, name: str) -> str:
        """A part of the address."""
        return str(self.request.path_params[name])

    def read(self, name: str, reader: Callable[[str], Any]) -> Any:
        """A parameter as a value; the page says which cannot be read, and does not use it."""
        if (text := self.asked(name)) is None:
            return None
        try:
            return reader(text)
        except (ValueError, InvalidEventError) as error:
            self.problem = f"{name}: {error}"
            return None


async def overview(visit: Visit) -> tuple[str, Mapping[str, Any]]:
    """The whole bus at a glance."""
    status = await visit.admin.status()
    rates = await dashboard.read_rates(visit.admin.store)
    flows = await dashboard.read_flow(visit.admin.store)
    lags = {one.listener_name: one.lag_seconds for one in status.listeners}
    return "overview.html", {
        "status": status,
        "live": [worker for worker in status.workers if worker.live],
        "handled": sum(one.done for one in rates[-5:-1]) / 60,
        "failed": sum(one.failed for one in rates[-5:-1]),
        "chart": rate_chart(rates),
        "flow": flow_map(flows, lags),
        "flows": flows,
    }


async def listeners(visit: Visit) -> tuple[str, Mapping[str, Any]]:
    """Every listener with its lag."""
    status = await visit.admin.status()
    staffed = {name for worker in status.workers if worker.live for name in worker.listeners}
    return "listeners.html", {"listeners": status.listeners, "staffed": staffed}


async def listener(visit: Visit) -> tuple[str, Mapping[str, Any]]:
    """One listener: its rates, what it handles now, and its last dead letters."""
    name = visit.path("name")
    status = await visit.admin.status()
    found = next((one for one in status.listeners if one.listener_name == name), None)
    if found is None:
        raise HTTPException(404, f"there is no listener {name!r}")
    rates = await dashboard.read_rates(visit.admin.store, listener_name=name)
    return "listener.html", {
        "listener": found,
        "workers": [worker for worker in status.workers if worker.live and name in worker.listeners],
        "chart": rate_chart(rates),
        "durations": duration_chart(rates),
        "running": [
            one for one in (await visit.admin.activity()).running if (one.kind, one.name) == ("listener", name)
        ],
        "dead": await visit.admin.dead_letters.find(DeadFilter(listener_name=name), limit=10),
    }


async def events(visit: Visit) -> tuple[str, Mapping[str, Any]]:
    """Events of the log, found by their topic, key, id or payload, the newest first."""
    wanted = EventFilter(
        topic=visit.read("topic", check_pattern),
        key=visit.asked("key"),
        event_id=visit.read("id", UUID),
        before=visit.read("before", int),
        where=tuple(filter(None, [visit.read("where", Condition.parse)])),
        owed_to=visit.asked("owed_to"),
        dead=visit.asked("dead") is not None,
    )
    try:
        found = [] if visit.problem else await visit.admin.find_events(wanted, limit=LIMIT)
    except NotRegisteredError as error:
        visit.problem, found = str(error), []
    return "events.html", {"events": found, "limit": LIMIT, "problem": visit.problem}


async def event(visit: Visit) -> tuple[str, Mapping[str, Any]]:
    """The journey of one event: published, logged, each attempt of each listener."""
    try:
        wanted = EventFilter(event_id=UUID(visit.path("event_id")))
    except ValueError:
        raise HTTPException(404, "an event's id is a UUID") from None
    found = await visit.admin.find_events(wanted, limit=1)
    if not found:
        raise HTTPException(
            404, "there is no such event in the log; one that waits for its deliver_at is not in it yet"
        )
    record = found[0]
    return "event.html", {
        "record": record,
        "event": record.event,
        "payload": masked(record.event.raw, visit.hidden),
        "headers": masked(record.event.raw_headers, visit.hidden),
        "journey": draw_journey(record),
    }


async def dead(visit: Visit) -> tuple[str, Mapping[str, Any]]:
    """Dead letters in groups, of all listeners or one, or of one group."""
    name, error_ = visit.asked("listener"), visit.asked("error")
    wanted = DeadFilter(listener_name=name, error=error_)
    try:
        letters = await visit.admin.dead_letters.find(wanted, limit=LIMIT)
        groups = await visit.admin.dead_letters.summarize(wanted)
    except NotRegisteredError as error:
        visit.problem, letters, groups = str(error), [], []
    return "dead.html", {
        "groups": groups,
        "letters": letters,
        "limit": LIMIT,
        "listener_name": name,
        "error": error_,
        "problem": visit.problem,
    }


async def calls(visit: Visit) -> tuple[str, Mapping[str, Any]]:
    """Calls of procedures, the newest first."""
    wanted = CallFilter(names=visit.read("procedure", _procedure) or Names())
    return "calls.html", {"calls": await visit.admin.find_calls(wanted, limit=LIMIT), "limit": LIMIT,
                          "problem": visit.problem}  # fmt: skip


def _procedure(text: str) -> Names:
    api, _, word = text.rpartition(".")
    return Names(apis=(api,) if api else (), words=(word or "*",))


async def schedules(visit: Visit) -> tuple[str, Mapping[str, Any]]:
    """Every schedule with its next run and its newest one."""
    return "schedules.html", {"schedules": await visit.admin.schedules.list()}


async def schedule(visit: Visit) -> tuple[str, Mapping[str, Any]]:
    """The runs of one schedule."""
    name = visit.path("name")
    try:
        runs = await visit.admin.schedules.history(name, limit=LIMIT)
    except NotRegisteredError as error:
        raise HTTPException(404, str(error)) from None
    return "schedule.html", {"name": name, "runs": runs, "limit": LIMIT}


async def schemas(visit: Visit) -> tuple[str, Mapping[str, Any]]:
    """Every version of every schema, and who uses it."""
    return "schemas.html", {"schemas": await visit.admin.schemas()}


async def workers(visit: Visit) -> tuple[str, Mapping[str, Any]]:
    """Every process that works or did lately."""
    return "workers.html", {"workers": await visit.admin.workers()}


async def doctor(visit: Visit) -> tuple[str, Mapping[str, Any]]:
    """The findings of `pgbus doctor`."""
    found = await examine(visit.request.app.state.desk.config)
    return "doctor.html", {"findings": found.findings, "examination": found}
