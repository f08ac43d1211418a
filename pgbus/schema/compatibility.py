"""Finds listeners and callers that a change of code would break, by comparing declarations with stored schemas.

An event is written by the new code and read by the listeners there are; the arguments of a call are written by callers
who know the old parameters, and its result is read by them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from pgbus.schema.compare import find_breaks, says_nothing
from pgbus.schema.documents import Declaration, Stored
from pgbus.schema.keywords import Schema
from pgbus.topics import matches, split_name

_LONG_AGO = datetime.min.replace(tzinfo=UTC)

# Stands for listeners of whom only the events that they get are known.
ANY_LISTENER = Stored(kind="listener", name="*", schema={"events": {"**": {}}})


class Break(msgspec.Struct, frozen=True):
    """Something that code would break: at `name`, an event or procedure, for `whom`, for these reasons."""

    kind: Literal["event", "procedure"]
    name: str
    whom: str
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.kind} {self.name} would break {self.whom}: {'; '.join(self.reasons)}"


class Change(msgspec.Struct, frozen=True):
    """How the code's declaration differs from the version stored last; `details` has a line per field."""

    kind: str
    name: str
    change: Literal["added", "removed", "changed"]
    details: tuple[str, ...] = ()


def in_use(stored: Iterable[Stored]) -> list[Stored]:
    """The versions that count: those of live workers, and of each service the one that it began with last."""
    kept = [one for one in stored if one.is_registered]
    last = latest_by_service(kept)
    return [one for one in kept if one.is_live or one is last[one.kind, one.name, one.service]]


def latest_by_service(stored: Iterable[Stored]) -> dict[tuple[str, str, str], Stored]:
    """By kind, name and service, the version with which a process of the service started last."""
    last: dict[tuple[str, str, str], Stored] = {}
    for one in stored:
        key = (one.kind, one.name, one.service)
        if key not in last or _recency(one) > _recency(last[key]):
            last[key] = one
    return last


def latest(stored: Iterable[Stored]) -> list[Stored]:
    """Of each event, procedure and listener, the version that holds: the one begun with last, by any service."""
    found: dict[tuple[str, str], Stored] = {}
    for one in sorted(stored, key=_recency):
        found[one.kind, one.name] = one
    return list(found.values())


def _recency(one: Stored) -> tuple[datetime, int]:
    return one.published_at or _LONG_AGO, one.version


# -------------------------------------------------------------------------------------------------------------- breaks


def find_broken(
    declared: Sequence[Declaration], stored: Iterable[Stored], *, service: str = "", with_missing: bool = True
) -> list[Break]:
    """Return the stored schemas in use that code with these declarations would break.

    `with_missing`: they are all that the code declares, so callers will miss a procedure that is not among them and was
    its own: of its `service`, or, where services have no names, of an API of which it serves others.
    """
    known = in_use(stored)
    return [
        *(found for one in declared if one.kind == "event" for found in _event_breaks(one, known)),
        *(found for one in declared if one.kind == "procedure" for found in _procedure_breaks(one, known)),
        *(_missing_procedures(declared, known, service=service) if with_missing else ()),
    ]


def find_unreadable(declared: Sequence[Declaration], stored: Iterable[Stored]) -> list[Break]:
    """Return the stored events of other services that listeners among the declarations could not read."""
    own = {one.name for one in declared if one.kind == "event"}
    listeners = [
        Stored(kind="listener", name=one.name, schema=one.schema) for one in declared if one.kind == "listener"
    ]
    events = [
        Declaration("event", one.name, one.schema)
        for one in latest(stored)
        if one.kind == "event" and one.name not in own
    ]
    return find_broken(events, listeners, with_missing=False)


def _event_breaks(event: Declaration, known: Sequence[Stored]) -> Iterator[Break]:
    written = event.schema["parameters"]
    before = [one for one in known if one.kind == "event" and one.name == event.name]
    for listener in known:
        if listener.kind != "listener" or (read := _read_by(listener, (event.name, *event.ancestors))) is None:
            continue
        # Of one that takes anything all that is known is what it gets.
        readers = [_opened(one.schema["parameters"]) for one in before] if says_nothing(read) else [read]
        reasons = _unique(reason for reader in readers for reason in find_breaks(written, reader, fills_defaults=True))
        if reasons:
            yield Break("event", event.name, _listener_words(listener), reasons)


def _read_by(listener: Stored, topics: Sequence[str]) -> Schema | None:
    """Return the schema that the listener reads for an event with these topics, its own first; None if it does not
    match.
    """
    events: dict[str, Schema] = listener.schema["events"]
    for topic in topics:
        if topic in events:
            return events[topic]
    for topic in topics:
        for pattern, schema in events.items():
            if matches(pattern, topic):
                return schema
    return None


def _opened(schema: Schema) -> Schema:
    """Return the schema of stored events as that of a reader who ignores other fields."""
    return {name: value for name, value in schema.items() if name != "additionalProperties"}


def _listener_words(listener: Stored) -> str:
    if listener is ANY_LISTENER:
        return "its listeners"
    service = f" of service {listener.service}" if listener.service else ""
    return f"listener {listener.name}{service}"


def _procedure_breaks(procedure: Declaration, known: Sequence[Stored]) -> Iterator[Break]:
    for old in known:
        if old.kind != "procedure" or old.name != procedure.name or old.schema == procedure.schema:
            continue
        new = procedure.schema
        reasons = _unique(
            [
                *find_breaks(old.schema["parameters"], new["parameters"], fills_defaults=False),
                *(
                    f"in the result, {reason}"
                    for reason in find_breaks(new["response"], old.schema["response"], fills_defaults=True)
                ),
            ]
        )
        if reasons:
            yield Break("procedure", procedure.name, f"callers that know its version {old.version}", reasons)


def _missing_procedures(declared: Sequence[Declaration], known: Sequence[Stored], *, service: str) -> Iterator[Break]:
    missed = (one.name for one in known if one.kind == "procedure" and _was_ours(one, declared, service=service))
    served = {one.name for one in declared if one.kind == "procedure"}
    for name in dict.fromkeys(missed):
        if name not in served:
            yield Break("procedure", name, "its callers", ("it is not served any more",))


def _was_ours(old: Stored, declared: Sequence[Declaration], *, service: str) -> bool:
    """Whether it was this code's: of its service; or, where either has no name, of an API of which it has others."""
    if old.service and service:
        return old.service == service
    api = split_name(old.name)[0]
    return any(one.kind == old.kind and split_name(one.name)[0] == api for one in declared)


def _unique(reasons: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(reasons))


# -------------------------------------------------------------------------------------------------------------- changes


def find_changes(declared: Sequence[Declaration], stored: Iterable[Stored], *, service: str = "") -> list[Change]:
    """How the code's events and procedures differ from those that are stored; `service` as in `find_broken`."""
    names = {(one.kind, one.name) for one in declared}
    before = {(one.kind, one.name): one for one in latest(one for one in stored if one.kind != "listener")}
    changes = [
        *(_change(one, before.get((one.kind, one.name))) for one in declared),
        *(
            Change(kind, name, "removed")
            for (kind, name), one in before.items()
            if (kind, name) not in names and _was_ours(one, declared, service=service)
        ),
    ]
    return [change for change in changes if change is not None]


def _change(new: Declaration, old: Stored | None) -> Change | None:
    if old is None:
        return Change(new.kind, new.name, "added")
    if old.schema == new.schema:
        return None
    return Change(new.kind, new.name, "changed", tuple(_differences(old.schema, new.schema)))


def _differences(old: Schema, new: Schema) -> Iterator[str]:
    """A line for each field that came, went, or is another one now."""
    yield from _field_differences(old["parameters"], new["parameters"])
    if "response" in new and old["response"] != new["response"]:
        yield f"~ response: {outline(old['response'])} -> {outline(new['response'])}"


def _field_differences(old: Schema, new: Schema) -> Iterator[str]:
    before, after = old.get("properties", {}), new.get("properties", {})
    required = old.get("required", []), new.get("required", [])
    found = False
    for name in {**before, **after}:
        was, now = (
            f"{outline(fields[name])}{'' if name in needed else ', optional'}" if name in fields else None
            for fields, needed in zip((before, after), required, strict=True)
        )
        if was != now:
            found = True
            yield _line(name, was, now)
    if not found and old != new:
        yield f"~ {_rest(old, new)}"


def _line(name: str, was: str | None, now: str | None) -> str:
    if was is None:
        return f"+ {name}: {now}"
    return f"- {name}: {was}" if now is None else f"~ {name}: {was} -> {now}"


def _rest(old: Schema, new: Schema) -> str:
    changed = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return f"{', '.join('definitions' if name == '$defs' else name for name in changed)} changed"


def outline(part: Any) -> str:
    """A schema in a few words, for people."""
    if not isinstance(part, dict) or says_nothing(part):
        return "any"
    if "$ref" in part:
        return str(part["$ref"]).rsplit("/", 1)[-1]
    if "enum" in part:
        return " | ".join(map(repr, part["enum"]))
    if choices := part.get("anyOf") or part.get("oneOf"):
        return " | ".join(outline(one) for one in choices)
    kind = part.get("type", "any")
    if kind == "array":
        items = part.get("prefixItems")
        inner = ", ".join(map(outline, items)) if items else outline(part.get("items"))
        return f"array[{inner}]"
    if kind == "object" and "title" in part:
        return str(part["title"])
    return str(part.get("format", kind))
