"""The page on which an event is published again with another payload: a new event, which names the old one."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec
from starlette.exceptions import HTTPException

from pgbus.admin import EventFilter
from pgbus.contrib.dashboard.operating import LONGEST_REASON, need, see
from pgbus.contrib.dashboard.showing import HIDDEN, masked
from pgbus.contrib.dashboard.visits import Shown, Visit
from pgbus.errors import ConfigurationError, InvalidEventError, ValidationError
from pgbus.messages import EventMessage


async def edit(visit: Visit) -> Shown:
    """The form with the payload of the old event, in which hidden fields stay hidden."""
    event = await _event(visit)
    return _form(event, masked(event.raw, visit.hidden))


async def republish(visit: Visit) -> Shown:
    """Publish the new event, if its payload fits the stored schema."""
    event = await _event(visit)
    text, reason = visit.form.get("payload", ""), visit.form.get("reason", "").strip()
    if not 1 <= len(reason) <= LONGEST_REASON:
        return _form(event, text, reason=reason, problem=f"give a reason, of at most {LONGEST_REASON} characters")
    try:
        payload = _reveal(msgspec.json.decode(text), msgspec.json.decode(event.raw), visit.hidden)
        done = await visit.admin.republish(_id(visit), payload, reason=reason, person=visit.person.name)
    except (msgspec.MsgspecError, RecursionError) as error:
        return _form(event, text, reason=reason, problem=f"this is not JSON: {error}")
    except (ValidationError, InvalidEventError, ConfigurationError) as error:
        return _form(event, text, reason=reason, problem=str(error))
    return see(visit, done.id)


def _form(event: EventMessage, text: str, **found: str) -> Shown:
    return "again.html", {"event": event, "text": text, "reason": "", "problem": "", **found}


def _id(visit: Visit) -> UUID:
    try:
        return UUID(visit.path("event_id"))
    except ValueError:
        raise HTTPException(404, "an event's id is a UUID") from None


async def _event(visit: Visit) -> EventMessage:
    need(visit, "operator")
    found = await visit.admin.find_events(EventFilter(event_id=_id(visit)), limit=1)
    if not found:
        raise HTTPException(404, "there is no such event in the log")
    return found[0].event


def _reveal(edited: Any, original: Any, hidden: frozenset[str]) -> Any:
    """The edited value, in which fields that were hidden from its editor and left so keep their values."""
    if isinstance(edited, dict):
        old = original if isinstance(original, dict) else {}
        return {
            name: old[name] if name in hidden and one == HIDDEN and name in old else _reveal(one, old.get(name), hidden)
            for name, one in edited.items()
        }
    if isinstance(edited, list):
        before = original if isinstance(original, list) else []
        return [_reveal(one, before[at] if at < len(before) else None, hidden) for at, one in enumerate(edited)]
    return edited
