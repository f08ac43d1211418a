"""The pages: each reads what it shows, and names its template."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from starlette.exceptions import HTTPException

from pgbus.admin import BusStatus, CallFilter, DeadFilter, EventFilter, Names
from pgbus.contrib.dashboard.catalog import next_runs, read_subjects
from pgbus.contrib.dashboard.charts import failure_share, flow_map, lag_strip, listener_charts, rate_chart
from pgbus.contrib.dashboard.chronicle import Chronicle
from pgbus.contrib.dashboard.journey import draw_journey
from pgbus.contrib.dashboard.searching import read_instant, read_search
from pgbus.contrib.dashboard.sequence import draw_sequence
from pgbus.contrib.dashboard.showing import masked
from pgbus.contrib.dashboard.visits import LIMIT, Visit
from pgbus.database.statements import dashboard
from pgbus.errors import NotRegisteredError
from pgbus.schema.compatibility import latest

TREE = 200
"""Rows of a tree that are shown."""


async def overview(visit: Visit) -> tuple[str, Mapping[str, Any]]:
    """The whole bus at a glance."""
    status = await visit.admin.status()
    chronicle = await visit.desk.chronicler.read(visit.admin.store)
    flows = await dashboard.read_flow(visit.admin.store)
    lags = {one.listener_name: one.lag_seconds if one.lag_events else 0.0 for one in status.listeners}
    last_minute = chronicle.instants[-4:]
    return "overview.html", {
        **_listener_rows(status, chronicle),
        "status": status,
        "live": [worker for worker in status.workers if worker.live],
        "handled": sum(map(chronicle.done, last_minute)) / 60,
        "failed": sum(map(chronicle.failed, last_minute)),
        "chart_of_rates": rate_chart(chronicle),
        "flow": flow_map(flows, lags),
        "flows": flows,
        "report": visit.desk.checkup.latest(),
    }


async def listeners(visit: Visit) -> tuple[str, Mapping[str, Any]]:
    """Every listener with its lag."""
    status = await visit.admin.status()
    return "listeners.html", _listener_rows(status, await visit.desk.chronicler.read(visit.admin.store))


def _listener_rows(status: BusStatus, chronicle: Chronicle) -> Mapping[str, Any]:
    """The rows of the table of listeners."""
    return {
        "listeners": status.listeners,
        "staffed": {name for worker in status.workers if worker.live for name in worker.listeners},
        "strips": {
            one.listener_name: lag_strip(chronicle, one.listener_name, now=one.lag_seconds if one.lag_events else 0.0)
            for one in status.listeners
        },
    }


async def listener(visit: Visit) -> tuple[str, Mapping[str, Any]]:
    """One listener: its rates, durations, failures and lag, what it handles now, its last errors, and its options."""
    name = visit.path("name")
    status = await visit.admin.status()
    found = next((one for one in status.listeners if one.listener_name == name), None)
    if found is None:
        raise HTTPException(404, f"there is no listener {name!r}")
    chronicle = await visit.desk.chronicler.read(visit.admin.store)
    last_minute = [one for one in chronicle.of(name)[-4:] if one]
    return "listener.html", {
        "listener": found,
        "workers": [worker for worker in status.workers if worker.live and name in worker.listeners],
        "rate": sum(one.done for one in last_minute) / 60,
        "failure_share": failure_share(last_minute),
        "charts": listener_charts(chronicle, name),
        "running": [
            one for one in (await visit.admin.activity()).running if (one.kind, one.name) == ("listener", name)
        ],
        "failures": await visit.admin.failures(name, window=3600.0),
        "dead": await visit.admin.dead_letters.find(DeadFilter(listener_name=name), limit=10),
        "declared": await dashboard.read_options(visit.admin.store, name),
        "schema": next(
            (one for one in latest(await visit.admin.schemas()) if (one.kind, one.name) == ("listener", name)), None
        ),
    }


async def events(visit: Visit) -> tuple[str, Mapping[str, Any]]:
    """Events of the log, found by what they are and by what became of them, the newest first."""
    search = await read_search(visit)
    try:
        found = [] if visit.problem else await visit.admin.find_events(search.wanted, limit=LIMIT)
    except NotRegisteredError as error:
        visit.problem, found = str(error), []
    return "events.html", {"events": found, "search": search, "full": len(found) == LIMIT, "problem": visit.problem}


async def event(visit: Visit) -> tuple[str, Mapping[str, Any]]:
    """The journey of one event: published, logged, each attempt of each listener, and what caused what."""
    event_id = visit.uuid("event_id")
    found = await visit.admin.find_events(EventFilter(event_id=event_id), limit=1)
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
        **await _causes(visit, event_id),
    }


async def _causes(visit: Visit, own_id: UUID) -> Mapping[str, Any]:
    """The tree that an event or call is part of, and its sequence diagram."""
    tree = await dashboard.read_tree(visit.admin.store, member_id=own_id, limit=TREE + 1)
    return {"tree": tree[:TREE], "has_more": len(tree) > TREE, "own_id": own_id, "diagram": draw_sequence(tree[:TREE])}


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
    wanted = CallFilter(
        names=visit.read("procedure", _procedure) or Names(),
        call_id=visit.read("id", UUID),
        error=visit.asked("error"),
        since=visit.read("since", read_instant),
    )
    found = [] if visit.problem else await visit.admin.find_calls(wanted, limit=LIMIT)
    return "calls.html", {"calls": found, "limit": LIMIT, "problem": visit.problem}


async def call(visit: Visit) -> tuple[str, Mapping[str, Any]]:
    """One call: its arguments, its answer, and what caused what."""
    call_id = visit.uuid("call_id")
    found = await visit.admin.find_calls(CallFilter(call_id=call_id), limit=1)
    if not found:
        raise HTTPException(404, "there is no such call, or it was pruned")
    return "call.html", {
        "call": found[0],
        "arguments": masked(found[0].arguments, visit.hidden),
        "result": masked(found[0].result, visit.hidden),
        **await _causes(visit, call_id),
    }


def _procedure(text: str) -> Names:
    api, _, word = text.rpartition(".")
    return Names(apis=(api,) if api else (), words=(word or "*",))


async def schedules(visit: Visit) -> tuple[str, Mapping[str, Any]]:
    """Every schedule with its next run and its newest one."""
    return "schedules.html", {"schedules": await visit.admin.schedules.list()}


async def schedule(visit: Visit) -> tuple[str, Mapping[str, Any]]:
    """The last runs of one schedule, and the next ones."""
    name = visit.path("name")
    try:
        runs = await visit.admin.schedules.history(name, limit=LIMIT)
    except NotRegisteredError as error:
        raise HTTPException(404, str(error)) from None
    found = next((one for one in await visit.admin.schedules.list() if one.schedule_name == name), None)
    return "schedule.html", {
        "name": name,
        "schedule": found,
        "runs": runs,
        "limit": LIMIT,
        "coming": next_runs(found) if found else [],
    }


async def schemas(visit: Visit) -> tuple[str, Mapping[str, Any]]:
    """Every event, procedure and listener whose schema is stored, and whether the stored versions fit together."""
    return "schemas.html", {"subjects": read_subjects(await visit.admin.schemas())}


async def schema(visit: Visit) -> tuple[str, Mapping[str, Any]]:
    """The versions of one schema, what each of them changed, and who uses it."""
    kind, name = visit.path("kind"), visit.path("name")
    stored = await visit.admin.schemas()
    found = next((one for one in read_subjects(stored) if (one.kind, one.name) == (kind, name)), None)
    if found is None:
        raise HTTPException(404, f"no schema of {kind} {name!r} is stored")
    return "schema.html", {"subject": found}


async def workers(visit: Visit) -> tuple[str, Mapping[str, Any]]:
    """Every process that works or did lately, and what it is at."""
    found = await visit.admin.activity()
    return "workers.html", {"workers": found.status.workers, "running": found.running}


async def doctor(visit: Visit) -> tuple[str, Mapping[str, Any]]:
    """The findings of `pgbus doctor`, made now."""
    return "doctor.html", {"report": await visit.desk.checkup.now()}
