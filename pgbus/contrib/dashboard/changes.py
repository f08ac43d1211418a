"""Changes: what each verb of operations is called on a page, who may use it, and the filter that an address names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import get_args

from pgbus.admin import Admin, Condition, OperationFilter
from pgbus.admin.conditions import combine
from pgbus.admin.operations import AT_ONCE
from pgbus.contrib.dashboard.access import Person, Role
from pgbus.database.statements.doctor import read_clock
from pgbus.database.statements.inspection import read_log_head
from pgbus.database.statements.operations import State, Verb
from pgbus.topics import check_pattern


@dataclass(frozen=True, slots=True)
class Field:
    """A part of a filter, in the address and in the form that selects what to change."""

    label: str
    hint: str = ""
    required: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """One verb. `button` is what a person presses, `counted` what the preview counts, `harm` what cannot be undone."""

    verb: Verb
    button: str
    counted: str
    says: str
    role: Role = "operator"
    harm: str = ""
    fields: Mapping[str, Field] = field(default_factory=dict)

    @property
    def at_once(self) -> bool:
        """Whether it needs no batches: it changes one listener or schedule, or the state of the whole bus."""
        return self.verb in AT_ONCE


_LISTENER = {"listener": Field("Listener", required=True)}
_SCHEDULE = {"schedule": Field("Schedule", required=True)}
_WHICH = {
    "topic": Field("Topic or pattern", "orders.*"),
    "key": Field("Key"),
    "since": Field("Since", "2026-01-31T12:00Z"),
    "until": Field("Until", "2026-01-31T13:00Z"),
    "where": Field("Payload", "order_id = 7"),
}
_FAILED = {"listener": Field("Listener"), "error": Field("Error"), **_WHICH}
_LETTERS = {"ids": Field("Dead letters", "1,2,3"), **_FAILED}
_FORCE = {"force": Field("Also while it is used", "1")}

CHANGES: Mapping[str, Change] = {
    one.verb: one
    for one in (
        Change("retry", "Retry", "dead letter",
               "Delivers dead letters to their listeners again, at once.", fields=_LETTERS),
        Change("discard", "Discard", "dead letter", "Takes dead letters away; the history and the operation keep them.",
               harm="Their listeners will not get these events again.", fields=_LETTERS),
        Change("retry_now", "Retry now", "event", "Has events that wait for their next attempt tried at once.",
               fields=_FAILED),
        Change("give_up", "Give up", "event", "Makes dead letters of events that wait for their next attempt.",
               fields=_FAILED),
        Change("replay", "Replay", "event", "Has the listener hear a stretch of the log again.",
               harm="The listener's handler runs again for each: what it sends, it sends again.",
               fields={**_LISTENER, "from": Field("From", "beginning, a position or an instant"),
                       "to": Field("To", "now, a position or an instant"), **_WHICH}),
        Change("reset", "Reset", "listener", "Has the listener go on from another place in the log.",
               harm="What waits for it is dropped; from the place on, it hears everything.",
               fields={**_LISTENER, "to": Field("To", "now, 120 or an instant", required=True)}),
        Change("pause", "Pause", "listener", "Stops deliveries to the listener; its events are kept.",
               fields=_LISTENER),
        Change("resume", "Resume", "listener", "Lets the listener continue.", fields=_LISTENER),
        Change("remove", "Remove", "listener", "Forgets the listener.", role="admin",
               harm="What is owed to it is dropped.", fields={**_LISTENER, **_FORCE}),
        Change("run_schedule", "Run now", "schedule", "Has the schedule run at once.", fields=_SCHEDULE),
        Change("pause_schedule", "Pause", "schedule", "Begins no more runs of the schedule.", fields=_SCHEDULE),
        Change("resume_schedule", "Resume", "schedule", "Lets the schedule continue.", fields=_SCHEDULE),
        Change("remove_schedule", "Remove", "schedule", "Forgets the schedule.", role="admin",
               harm="It does not run again.", fields={**_SCHEDULE, **_FORCE}),
        Change("adopt", "Adopt", "database", "Says that this copy is the one to work in.", role="admin",
               harm="Listeners and schedules that are paused because it is a copy continue."),
    )
}  # fmt: skip


class Refused(ValueError):
    """A selection that cannot be read, with the reason."""


async def read_filter(admin: Admin, change: Change, given: Mapping[str, str]) -> dict[str, object]:
    """The filter that an address names, with its places in the log fixed.

    What came later is not a part of it: a person confirms what the preview has shown. Raises Refused, and
    NotRegisteredError for a listener or schedule that there is not.
    """
    texts = {name: text.strip() for name in change.fields if (text := given.get(name, "")).strip()}
    if missing := [one.label for name, one in change.fields.items() if one.required and name not in texts]:
        raise Refused(f"{missing[0]} is missing")
    try:
        found = {name: value for name, text in texts.items() for name, value in [_read(name, text)]}
        if "schedule" in found:
            await admin.schedules.check(str(found["schedule"]))
        if "listener" in found:
            await admin.listeners.place(str(found["listener"]), "now")
        return found | await _fix(admin, change, found)
    except ValueError as error:
        raise Refused(str(error)) from error


def _read(name: str, text: str) -> tuple[str, object]:
    match name:
        case "ids":
            return name, [int(one) for one in text.split(",")]
        case "topic":
            check_pattern(text)
            return name, text
        case "where":
            return "condition", combine([Condition.parse(text)])
        case "since" | "until":
            return name, _instant(text).isoformat()
        case "force":
            return name, text == "1"
        case _:
            return name, text


async def _fix(admin: Admin, change: Change, found: Mapping[str, object]) -> dict[str, object]:
    """Places in the log as positions, and an end of what failed lately."""
    if change.verb in ("replay", "reset"):
        listener = str(found["listener"])
        ends = {"from": "beginning", "to": "now"} if change.verb == "replay" else {}
        places = {**ends, **{name: str(found[name]) for name in ("from", "to") if name in found}}
        return {name: await _place(admin, listener, text) for name, text in places.items()}
    if change.at_once or "ids" in found or "until" in found:
        return {}
    return {"until": (await read_clock(admin.store)).isoformat()}


async def _place(admin: Admin, listener: str, text: str) -> str:
    if text == "beginning":
        return text
    if text == "now":
        # As a position, which the preview and the operation both end at.
        return str(await read_log_head(admin.store) + 1)
    return await admin.listeners.place(listener, int(text) if text.isdigit() else _instant(text))


def _instant(text: str) -> datetime:
    instant = datetime.fromisoformat(text)
    if instant.tzinfo is None:
        raise ValueError(f"{text} has no time zone: end it with Z or an offset such as +02:00")
    return instant


def may(person: Person, verb: str) -> bool:
    """Whether this person may use the verb."""
    return verb in CHANGES and person.may(CHANGES[verb].role)


STATES: tuple[str, ...] = get_args(State)


def read_operation_filter(given: Mapping[str, str]) -> OperationFilter:
    """The operations that an address asks for; raises Refused."""
    texts = {name: text.strip() for name, text in given.items() if text.strip()}
    try:
        return OperationFilter(
            before=int(texts["before"]) if "before" in texts else None,
            verb=texts.get("verb"),
            who=texts.get("who"),
            subject=texts.get("subject"),
            state=texts.get("state"),
            since=_instant(texts["since"]) if "since" in texts else None,
            until=_instant(texts["until"]) if "until" in texts else None,
        )
    except ValueError as error:
        raise Refused(str(error)) from error
