"""Events that this worker cannot read and another version of its service can: in a deploy, they are left to that.

A worker that cannot read an event asks the database why that may be: another version of its listener is alive, or the
event has a newer version than the listener. Only where neither is so is the event itself at fault.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from pgbus.aio.clock import now
from pgbus.database.faults import is_passing
from pgbus.database.statements import schemas
from pgbus.database.statements.schemas import OtherVersions
from pgbus.listeners.running import RunningListener
from pgbus.messages import EventMessage
from pgbus.topics import ByTopic

# Seconds for which an answer holds: a deploy may bring a thousand such events per second.
_ANSWER_HOLDS = 1.0


@dataclass(frozen=True, slots=True)
class _Answer:
    found: OtherVersions | None
    holds_until: float  # an instant of the engine's clock


class VersionCheck:
    """Tells why an event that cannot be read here is left to other workers, if it is."""

    def __init__(self, running: RunningListener) -> None:
        self._running = running
        self._answers: ByTopic[tuple[str, ...], _Answer] = ByTopic()

    async def why_left(self, event: EventMessage) -> str | None:
        """The reason, for people; None if nobody else will read it, and for an event that has waited too long."""
        topics = (event.topic, *(event.ancestors or ()))
        try:
            found = await self._ask(topics)
        except Exception as error:
            if not is_passing(error):
                raise
            return "this worker could not ask for other versions"  # it is released, and asked about again
        if found is None:
            return None
        return reason_to_wait(found, event, patience=self._running.config.worker_ttl)

    async def _ask(self, topics: Sequence[str]) -> OtherVersions | None:
        key, at = tuple(topics), now()
        answer = self._answers.get(key)
        if answer is None or answer.holds_until <= at:
            found = await schemas.find_other_versions(
                self._running.store,
                worker_id=self._running.standing.claimant(),
                listener_name=self._running.name,
                topics=key,
            )
            answer = self._answers[key] = _Answer(found, at + _ANSWER_HOLDS)
        return answer.found


def reason_to_wait(found: OtherVersions, event: EventMessage, *, patience: float) -> str | None:
    """Why an event that a worker cannot read should wait for another one, if it should.

    `patience` seconds after it was published, and after the newest sign of a deploy, the event is given up: two
    versions that both cannot read it would leave it to each other for as long as they live.
    """
    signs = [sign for sign in (found.worker_since, found.version_since) if sign is not None]
    if not signs:
        return None
    published = [] if event.published_at is None else [event.published_at]
    if found.now - max([*signs, *published]) > timedelta(seconds=patience):
        return None
    if found.worker is not None:
        return f"left to another version of the listener, which {found.worker} runs"
    return f"version {found.version} of {found.topic} is newer than this listener: left to one that reads it"
