"""Facts about stored schemas and schedules that follow from what was read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

import msgspec

from pgbus.admin import ScheduleStatus
from pgbus.errors import InvalidSchedule
from pgbus.schedules.rules import parse_rule
from pgbus.schema import Declaration, Stored
from pgbus.schema.compatibility import find_broken, find_changes, in_use, latest
from pgbus.topics import matches

RUNS = 5
"""Coming runs that are shown."""


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a schema, how it differs from the one before, and its JSON."""

    stored: Stored
    changes: tuple[str, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Subject:
    """An event, procedure or listener with all its versions, the newest first.

    `publishers` are the services that declare it, `hearers` the listeners whose stored patterns match it, and
    `problems` say whom of those in use its newest version breaks.
    """

    kind: str
    name: str
    versions: tuple[Version, ...]
    publishers: tuple[str, ...]
    hearers: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def newest(self) -> Stored:
        """The version that holds now."""
        return self.versions[0].stored


def read_subjects(stored: Sequence[Stored]) -> list[Subject]:
    """All that is stored, by kind and name."""
    known = in_use(stored)
    subjects = []
    for one in sorted(latest(stored), key=lambda one: (one.kind, one.name)):
        versions = [two for two in stored if (two.kind, two.name) == (one.kind, one.name)]
        subjects.append(
            Subject(
                one.kind,
                one.name,
                tuple(_versions(versions, one)),
                tuple(sorted({two.service for two in versions if two.service})),
                tuple(_hearers(one, known)),
                tuple(_problems(one, known)),
            )
        )
    return subjects


def _versions(versions: Iterable[Stored], newest: Stored) -> list[Version]:
    """All versions of one name, each compared with the one before it."""
    ordered = sorted(versions, key=lambda one: (one is newest, one.first_seen_at or one.version, one.version))
    changes: list[tuple[str, ...]] = [(), *(_changes(before, after) for before, after in pairwise(ordered))]
    return [Version(one, lines, _text(one)) for one, lines in reversed(list(zip(ordered, changes, strict=True)))]


def _changes(before: Stored, after: Stored) -> tuple[str, ...]:
    if before.schema == after.schema:
        return ("the same, declared by another service",) if before.service != after.service else ()
    if after.kind == "listener":
        names = {**before.schema["events"], **after.schema["events"]}
        return tuple(
            _line(name, name in before.schema["events"], name in after.schema["events"])
            for name in names
            if before.schema["events"].get(name) != after.schema["events"].get(name)
        )
    found = find_changes([Declaration(after.kind, after.name, after.schema)], [before])
    return tuple(line for change in found if change.name == after.name for line in change.details)


def _line(name: str, was: bool, is_: bool) -> str:
    return f"~ {name}: another payload" if was and is_ else f"{'+' if is_ else '-'} {name}"


def _text(one: Stored) -> str:
    return msgspec.json.format(msgspec.json.encode(one.schema), indent=2).decode()


def _hearers(one: Stored, known: Iterable[Stored]) -> list[str]:
    if one.kind != "event":
        return []
    return sorted(
        {
            listener.name
            for listener in known
            if listener.kind == "listener" and any(matches(pattern, one.name) for pattern in listener.schema["events"])
        }
    )


def _problems(one: Stored, known: Sequence[Stored]) -> list[str]:
    if one.kind == "listener":
        return []
    declared = [Declaration(one.kind, one.name, one.schema)]
    broken = find_broken(declared, known, service=one.service, with_missing=False)
    return [f"breaks {found.whom}: {'; '.join(found.reasons)}" for found in broken]


def next_runs(schedule: ScheduleStatus) -> list[datetime]:
    """When it is due next, several times; nothing for one that is paused, and one instant where the rest is chance."""
    if schedule.next_run_at is None or schedule.state == "paused":
        return []
    coming = [schedule.next_run_at]
    try:
        rule = parse_rule(schedule.rule)
    except InvalidSchedule:
        return coming
    if getattr(rule, "up_to", None) is None:
        while len(coming) < RUNS:
            coming.append(rule.after(coming[-1]))
    return coming
