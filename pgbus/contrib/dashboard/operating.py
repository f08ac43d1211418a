"""The pages on which people change things: preview, confirmation, progress of the operation, and the audit trail."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any, get_args
from urllib.parse import urlencode

import msgspec
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from pgbus.admin import EventFilter, Operation, OperationItem
from pgbus.contrib.dashboard.access import Role
from pgbus.contrib.dashboard.changes import CHANGES, STATES, Change, Refused, read_filter, read_operation_filter
from pgbus.contrib.dashboard.showing import masked
from pgbus.contrib.dashboard.visits import LIMIT, Shown, Visit
from pgbus.database.faults import DataError, UndefinedObject, hint_of
from pgbus.database.statements.operations import Verb, Why
from pgbus.errors import InUseError, NotRegisteredError, OperationNotFound

SAMPLES = 10
LONGEST_REASON = 1000
"""Characters."""
_NO_REASON = f"give a reason, of at most {LONGEST_REASON} characters: it is kept with the operation"
ITEMS = 200
"""Events that the page of an operation shows."""
# A filter that no page of ours has written.
_WRONG = (DataError, UndefinedObject)


async def preview(visit: Visit) -> Shown:
    """A count and a sample of all that a change applies to, and the form that confirms it."""
    change = _change(visit)
    given = dict(visit.request.query_params)
    try:
        filter_ = await read_filter(visit.admin, change, given)
    except NotRegisteredError as error:
        raise HTTPException(404, str(error)) from None
    except Refused as error:
        return _form(change, given, problem=str(error) if given else "")
    return await _preview(visit, change, given, filter_)


async def change(visit: Visit) -> Shown:
    """Record an operation, and carry it out: at once, or in the background."""
    change = _change(visit)
    filter_, reason = _read_filter(visit.form), _read_reason(visit.form)
    given = {name: str(value) for name, value in filter_.items()}
    if reason is None:
        return await _preview(visit, change, given, filter_, problem=_NO_REASON)
    operations = visit.admin.operations
    try:
        if change.at_once:
            done = await operations.run(change.verb, filter_, reason=reason, person=visit.person.name)
            return see(visit, done.id)
        number = await operations.begin(change.verb, filter_, reason=reason, person=visit.person.name)
    except InUseError as error:
        return _form(change, given, problem=str(error))
    except _WRONG as error:
        raise HTTPException(400, _first_line(error)) from None
    visit.request.app.state.carrier.start(number)
    return see(visit, number)


async def ask_step(visit: Visit) -> Shown:
    """The form that confirms that an operation is cancelled or continued."""
    return "step.html", {"operation": await _stepped(visit), "step": visit.path("step"), "problem": ""}


async def take_step(visit: Visit) -> Shown:
    """Stop an operation after its batch, or carry out the rest of one that was broken off."""
    found, reason = await _stepped(visit), _read_reason(visit.form)
    if reason is None:
        return "step.html", {"operation": found, "step": visit.path("step"), "problem": _NO_REASON}
    why = Why(reason=reason, person=visit.person.name)
    if visit.path("step") == "cancel":
        await visit.admin.operations.cancel(found.id, **why)
    else:
        visit.request.app.state.carrier.start(found.id, continued=why)
    return see(visit, found.id)


async def operation(visit: Visit) -> Shown:
    """One operation: who, when, why, how far it is, and what it has touched."""
    found = await _operation(visit)
    items = await visit.admin.operations.items(found.id, limit=ITEMS)
    return "operation.html", {
        "operation": found,
        "filter": masked(msgspec.json.encode(found.filter).decode(), visit.hidden),
        "items": items,
        "limit": ITEMS,
        "carried": visit.request.app.state.carrier.carries(found.id),
        "probe": await _probe(visit, found, items),
    }


async def operations(visit: Visit) -> Shown:
    """The audit trail: every change that a person has made, the newest first."""
    problem, found = "", []
    try:
        wanted = read_operation_filter(visit.request.query_params)
        found = await visit.admin.operations.list(wanted, limit=LIMIT)
    except Refused as error:
        problem = str(error)
    asked = {name: text for name, text in visit.request.query_params.items() if text}
    return "operations.html", {
        "operations": found,
        "limit": LIMIT,
        "problem": problem,
        "verbs": get_args(Verb),
        "states": STATES,
        "asked": urlencode(asked),
        "kept": urlencode({name: text for name, text in asked.items() if name != "before"}),
    }


async def export_json(visit: Visit) -> Shown:
    """The audit trail as JSON: all operations that the filter accepts."""
    return _json([_exported(one, visit) for one in await _asked(visit)], "operations")


async def export_csv(visit: Visit) -> Shown:
    """The audit trail as CSV."""
    return _csv([_exported(one, visit) for one in await _asked(visit)], Operation, "operations")


async def export_items_json(visit: Visit) -> Shown:
    """All that one operation has touched, as JSON."""
    found = await _operation(visit)
    items = await visit.admin.operations.items(found.id)
    return _json([_fields(one) for one in items], f"operation-{found.id}")


async def export_items_csv(visit: Visit) -> Shown:
    """All that one operation has touched, as CSV."""
    found = await _operation(visit)
    items = await visit.admin.operations.items(found.id)
    return _csv([_fields(one) for one in items], OperationItem, f"operation-{found.id}")


# ------------------------------------------------------------------------------------------------------------- reading


def _change(visit: Visit) -> Change:
    found = CHANGES.get(visit.path("verb"))
    if found is None:
        raise HTTPException(404, "there is no such change")
    need(visit, found.role)
    return found


def need(visit: Visit, role: Role) -> None:
    """Raise HTTPException unless the person has this role, or one that may do more."""
    if not visit.person.may(role):
        raise HTTPException(403, f"{visit.person.name} is a {visit.person.role}; this needs the role {role}")


def _read_filter(form: Mapping[str, str]) -> dict[str, object]:
    """The filter as the preview has written it into the form."""
    try:
        found = msgspec.json.decode(form.get("filter", ""), type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError):
        raise HTTPException(400, "this form cannot be read") from None
    return found


def _read_reason(form: Mapping[str, str]) -> str | None:
    """The reason in the form; None if there is none, or it is too long."""
    reason = form.get("reason", "").strip()
    return reason if 1 <= len(reason) <= LONGEST_REASON else None


async def _operation(visit: Visit) -> Operation:
    try:
        return await visit.admin.operations.show(visit.request.path_params["operation_id"])
    except OperationNotFound as error:
        raise HTTPException(404, str(error)) from None


async def _stepped(visit: Visit) -> Operation:
    """The operation that the person may cancel or continue."""
    if visit.path("step") not in ("cancel", "continue"):
        raise HTTPException(404, "there is no such step")
    need(visit, "operator")
    found = await _operation(visit)
    if visit.path("step") == "continue" and found.verb in CHANGES:
        need(visit, CHANGES[found.verb].role)
    return found


async def _asked(visit: Visit) -> list[Operation]:
    try:
        return await visit.admin.operations.list(read_operation_filter(visit.request.query_params), limit=None)
    except Refused as error:
        raise HTTPException(400, str(error)) from None


async def _probe(visit: Visit, found: Operation, items: list[OperationItem]) -> Mapping[str, Any] | None:
    """The state of the one dead letter that was retried to see whether the others may be; None for other operations."""
    if found.verb != "retry" or found.matched != 1 or len(items) != 1 or items[0].event_id is None:
        return None
    item = items[0]
    records = await visit.admin.find_events(EventFilter(event_id=item.event_id), limit=1)
    state = records[0].states.get(item.listener_name, "") if records else ""
    return {"item": item, "state": state, "error": item.fingerprint}


# ------------------------------------------------------------------------------------------------------------- showing


async def _preview(
    visit: Visit, change: Change, given: Mapping[str, str], filter_: Mapping[str, object], *, problem: str = ""
) -> Shown:
    try:
        found = await visit.admin.operations.preview(change.verb, filter_, samples=SAMPLES)
    except _WRONG as error:
        raise HTTPException(400, _first_line(error)) from None
    return _form(change, given, problem=problem, found=found, filter=msgspec.json.encode(filter_).decode())


def _form(change: Change, given: Mapping[str, str], **found: Any) -> Shown:
    return "change.html", {
        "change": change,
        "given": given,
        "problem": "",
        "found": None,
        "filter": "",
        **found,
    }


def see(visit: Visit, operation_id: int) -> Response:
    """Send the browser to the page of an operation."""
    return RedirectResponse(f"{visit.root}/operations/{operation_id}", status_code=303)


def _exported(one: Operation, visit: Visit) -> dict[str, object]:
    return {
        **_fields(one),
        "filter": msgspec.json.decode(masked(msgspec.json.encode(one.filter).decode(), visit.hidden)),
    }


def _fields(one: Operation | OperationItem) -> dict[str, object]:
    return {name: getattr(one, name) for name in one.__dataclass_fields__}


def _json(rows: Sequence[Mapping[str, object]], name: str) -> Response:
    return _file(msgspec.json.format(msgspec.json.encode(rows), indent=2), "application/json", f"{name}.json")


def _csv(rows: Sequence[Mapping[str, object]], kind: type[Operation | OperationItem], name: str) -> Response:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(kind.__dataclass_fields__), lineterminator="\r\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({field: _cell(value) for field, value in row.items()})
    return _file(text.getvalue().encode(), "text/csv; charset=utf-8", f"{name}.csv")


def _cell(value: object) -> str:
    """A value as a cell, which no spreadsheet takes for a formula."""
    text = value if isinstance(value, str) else "" if value is None else msgspec.json.encode(value).decode().strip('"')
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def _file(body: bytes, media_type: str, name: str) -> Response:
    headers = {"content-disposition": f'attachment; filename="{name}"', "cache-control": "no-store"}
    return Response(body, media_type=media_type, headers=headers)


def _first_line(error: Exception) -> str:
    hint = hint_of(error)
    return str(error).partition("\n")[0] + (f"; {hint}" if hint else "")
