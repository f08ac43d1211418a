"""The contract of a bus: which service publishes which events, who hears them, and who serves which procedures.

It is read from the stored schemas, so it says what is deployed, of all services at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from pgbus.database.statements.schemas import Kind
from pgbus.errors import SchemaNotFound
from pgbus.schema.compatibility import latest_by_service
from pgbus.schema.documents import Stored
from pgbus.topics import matches

_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Contract:
    """The version that holds of each service's events, procedures and listeners, sorted by name and service.

    `version` counts the schemas that were ever stored: it grows with each new one. `published` are the events of all
    services, also in the contract of one.
    """

    version: int
    events: tuple[Stored, ...]
    procedures: tuple[Stored, ...]
    listeners: tuple[Stored, ...]
    published: tuple[Stored, ...]

    def topics_of(self, listener: Stored) -> list[str]:
        """The published topics that a listener hears, and its patterns that match none of them."""
        published = sorted({one.name for one in self.published})
        heard: dict[str, None] = {}
        for pattern in listener.schema["events"]:
            found = [topic for topic in published if matches(pattern, topic)]
            heard.update(dict.fromkeys(found or [pattern]))
        return sorted(heard)

    def schema_heard(self, listener: Stored, topic: str) -> object:
        """The schema with which a listener reads a topic: its own, else that of the first pattern that matches."""
        events: dict[str, object] = listener.schema["events"]
        if topic in events:
            return events[topic]
        return next((schema for pattern, schema in events.items() if matches(pattern, topic)), True)

    def publishers_of(self, topic: str) -> list[Stored]:
        """The events of that topic, one for each service that publishes it."""
        return [one for one in self.published if one.name == topic]

    @property
    def services(self) -> list[str]:
        """The services that have a name."""
        stored = (*self.events, *self.procedures, *self.listeners)
        return sorted({one.service for one in stored if one.service})


def contract_of(stored: Sequence[Stored], *, service: str | None = None, version: int | None = None) -> Contract:
    """The contract, or the part of it that is one service's; at an earlier `version`, as far as it can be known.

    A service that went back to an old schema is shown with the newest one that there was at that version. Raises
    SchemaNotFound for a service or a version that there never was.
    """
    ordered = sorted(stored, key=_age)
    newest = len(ordered)
    if version is not None and not 0 < version <= newest:
        raise SchemaNotFound(f"the contract has the versions 1 to {newest}, and none that is {version}")
    registered = [one for one in ordered[:version] if one.is_registered]
    if version is None:
        held = list(latest_by_service(registered).values())
    else:
        held = list({(one.kind, one.name, one.service): one for one in registered}.values())
    if service is not None and service not in {one.service for one in held}:
        known = ", ".join(sorted({one.service for one in held if one.service})) or "none"
        raise SchemaNotFound(f"no service {service!r} has stored a schema; there are: {known}")
    held.sort(key=lambda one: (one.name, one.service))

    def of_kind(kind: Kind, *, of_all: bool = False) -> tuple[Stored, ...]:
        return tuple(one for one in held if one.kind == kind and (of_all or service in (None, one.service)))

    return Contract(
        version or newest,
        events=of_kind("event"),
        procedures=of_kind("procedure"),
        listeners=of_kind("listener"),
        published=of_kind("event", of_all=True),
    )


def _age(one: Stored) -> tuple[datetime, str, str, str, int]:
    return one.first_seen_at or _LONG_AGO, one.kind, one.name, one.service, one.version
