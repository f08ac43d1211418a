"""Workers that run a listener of one name: whether they are versions of one service, or strangers to each other.

Pure decisions; `registration` reads what is declared, and acts on them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

import msgspec

_NEVER = datetime.max.replace(tzinfo=UTC)


class Neighbour(msgspec.Struct, frozen=True):
    """A live worker, as people find it."""

    name: str
    host: str
    pid: int

    def __str__(self) -> str:
        return f"{self.name} (process {self.pid} on {self.host})"


class Declaration(msgspec.Struct, frozen=True, kw_only=True):
    """The sorted patterns and the options that one version of a service declares for a listener; and a live worker that
    runs it, if any.

    `home` is the folder that the service has its name from; None where the name was given. `is_recent`: a worker that
    declares it was seen not long ago.
    """

    service: str
    home: str | None
    patterns: tuple[str, ...]
    options: Mapping[str, object]
    first_seen_at: datetime = _NEVER
    is_recent: bool = True
    worker: Neighbour | None = None

    def is_same_version(self, other: Declaration) -> bool:
        """Whether both declare the same."""
        return self.patterns == other.patterns and self.options == other.options


def is_outdated(ours: Declaration, known: Sequence[Declaration]) -> bool:
    """Whether a live worker runs a version of our service that is newer than ours: then its options hold.

    Without one, ours may be a deploy that was rolled back.
    """
    seen = [one.first_seen_at for one in known if one.service == ours.service and one.is_same_version(ours)]
    return any(one.worker and one.service == ours.service and seen and one.first_seen_at > min(seen) for one in known)


def subscribed_patterns(ours: Declaration, known: Sequence[Declaration]) -> list[str]:
    """Return the patterns to subscribe to: ours, those of live workers, and those of a version newer than ours.

    A declaration that was never seen before is the newest, and then what only dead workers declared goes. One that
    comes back is an older worker restarting in the middle of a deploy, or a deploy that was rolled back.
    """
    live = [one for one in known if one.worker]
    versions = [one for one in known if one.service == ours.service and one.is_recent]
    comes_back = any(one.is_same_version(ours) for one in versions)
    kept = [*live, max(versions, key=lambda one: one.first_seen_at)] if comes_back else live
    return sorted({*ours.patterns, *(pattern for one in kept for pattern in one.patterns)})


def find_conflict(ours: Declaration, known: Iterable[Declaration]) -> str | None:
    """How a live worker of another service declares the listener otherwise, in words; None if none does."""
    for one in known:
        if one.worker and one.patterns != ours.patterns and not _is_same_service(ours, one):
            return (
                f"{one.worker} of {_service(one)} runs it for {', '.join(one.patterns)}, and this process, of "
                f"{_service(ours)}, declares it for {', '.join(ours.patterns)}. {_WAYS_OUT}, or stop that worker first"
            )
    return None


def find_sharing(ours: Declaration, known: Iterable[Declaration]) -> str | None:
    """Return a warning about workers of other services that run the listener; None if there are none."""
    for one in known:
        if one.worker and not _is_same_service(ours, one):
            return (
                f"{one.worker} of {_service(one)} runs it too, and this process is of {_service(ours)}, so they split "
                f"its events between them. {_WAYS_OUT}"
            )
        if one.worker and not (set(one.patterns) <= set(ours.patterns) or set(ours.patterns) <= set(one.patterns)):
            return (
                f"{one.worker} runs it for {', '.join(one.patterns)}, and this process for {', '.join(ours.patterns)}; "
                f"each leaves to the other what only that declares. {_WAYS_OUT}"
            )
    return None


_WAYS_OUT = (
    "If they are two services, give each its own service_name, or the listener another name; if they are one, give "
    "both the same service_name"
)


def _is_same_service(ours: Declaration, other: Declaration) -> bool:
    """The same name; but two folders that happen to have the same name are two services."""
    homes = (ours.home, other.home)
    return ours.service == other.service and (None in homes or ours.home == other.home)


def _service(one: Declaration) -> str:
    name = f"service {one.service!r}" if one.service else "a service without a name"
    return f"{name} ({one.home})" if one.home else name
