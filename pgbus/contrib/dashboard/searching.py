"""A search for events, as an address asks for it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import get_args
from urllib.parse import urlencode
from uuid import UUID

from pgbus.admin import Condition, EventFilter
from pgbus.contrib.dashboard.visits import Visit
from pgbus.database.statements import dashboard, inspection
from pgbus.database.statements.inspection import Outcome
from pgbus.topics import check_pattern

WINDOW = 20_000
"""Events of the log that one page looks through for what no index finds; a link goes on with those before."""

FIELDS = ("topic", "key", "id", "where", "service", "outcome", "since", "until", "owed_to", "dead")
# By these an index finds the events.
_INDEXED = ("key", "id", "owed_to", "dead")
_SCANNED = ("topic", "where", "service", "outcome")


@dataclass(frozen=True, slots=True)
class Search:
    """The filter of a page. It looks at the log back to `reached_at`, the position `reached`; None: to its beginning.

    `again` is the query of the same search, to which a page adds where to go on.
    """

    wanted: EventFilter
    again: str
    reached: int | None = None
    reached_at: datetime | None = None


async def read_search(visit: Visit) -> Search:
    """The search that an address asks for; what cannot be read is the visit's problem."""
    asked = {name: value for name in FIELDS if (value := visit.asked(name)) is not None}
    begin, before = await _bounds(visit)
    window = None
    if any(name in asked for name in _SCANNED) and not any(name in asked for name in _INDEXED):
        window = await dashboard.find_window(visit.admin.store, before=before, events=WINDOW)
        if window is not None and begin is not None and begin >= window[0]:
            window = None
    wanted = EventFilter(
        topic=visit.read("topic", check_pattern),
        key=asked.get("key"),
        event_id=visit.read("id", UUID),
        where=tuple(filter(None, [visit.read("where", Condition.parse)])),
        service=asked.get("service"),
        outcome=visit.read("outcome", _outcome),
        owed_to=asked.get("owed_to"),
        dead="dead" in asked,
        after=window[0] if window else begin,
        before=before,
    )
    again = urlencode(asked)
    return Search(wanted, again, window[0] + 1, window[1]) if window else Search(wanted, again)


async def _bounds(visit: Visit) -> tuple[int | None, int | None]:
    """The positions between which the search lies, without them; None: no bound."""
    since, until = visit.read("since", read_instant), visit.read("until", read_instant)
    before: int | None = visit.read("before", int)
    if until is not None:
        end = await inspection.find_position_at(visit.admin.store, instant=until)
        before = end if before is None else min(before, end)
    if since is None:
        return None, before
    return await inspection.find_position_at(visit.admin.store, instant=since) - 1, before


def read_instant(text: str) -> datetime:
    """An instant as a browser's field gives it, in UTC unless it has a zone; raises ValueError."""
    instant = datetime.fromisoformat(text)
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)


def _outcome(text: str) -> Outcome:
    outcomes: tuple[Outcome, ...] = get_args(Outcome)
    for one in outcomes:
        if one == text:
            return one
    raise ValueError(f"{text!r} is not one of {', '.join(outcomes)}")
