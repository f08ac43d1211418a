"""Which of a listener's events are this worker's to handle.

In a deploy, its workers may declare different topics, and read different versions of an event.
"""

from __future__ import annotations

from collections.abc import Sequence

from pgbus.database.faults import is_passing
from pgbus.database.statements import listeners
from pgbus.listeners.listener import hears
from pgbus.listeners.other_versions import VersionCheck
from pgbus.listeners.running import RunningListener
from pgbus.messages import EventMessage
from pgbus.topics import ByTopic


class KnownTopics:
    """Tells the events that this worker declares and can read from those that it leaves to workers which do.

    `left` are the topics of which it left events to others lately: it claims none of what was left of them.
    """

    def __init__(self, running: RunningListener) -> None:
        self._running = running
        self._versions = VersionCheck(running)
        # Topics, with their ancestors, that our patterns match. They do not change while the listener runs, so that an
        # answer holds for good.
        self._known: ByTopic[tuple[str, tuple[str, ...]], None] = ByTopic()
        # Added to here, and cleared by the claimer with each scan from the bottom: by then they may be nobody's.
        self.left: set[str] = set()

    def is_ours(self, event: EventMessage) -> bool:
        """Whether an event of the same topics was ours to handle before: nothing of it need be asked again."""
        try:
            return (event.topic, tuple(event.ancestors or ())) in self._known
        except TypeError:  # ancestors that cannot be hashed are not topics: `refuse_unreadable` reports that
            return False

    async def why_left(self, event: EventMessage) -> str | None:
        """Why another worker has to handle it, if so: the listener is subscribed to it, and not by what we declare.

        What nobody declares any more is handled here: its subscription is gone, and only what was owed before is left.
        """
        if self._running.listener.hears(event):
            self._known[event.topic, tuple(event.ancestors or ())] = None
            return None
        if not hears(await self._subscribed(event), event):
            return None
        self.left.add(event.topic)
        return f"left to a worker that declares {event.topic}"

    async def why_unread(self, event: EventMessage) -> str | None:
        """Why an event that we cannot read is for another version of the listener, if it is."""
        reason = await self._versions.why_left(event)
        if reason is not None:
            self.left.add(event.topic)
        return reason

    async def _subscribed(self, event: EventMessage) -> Sequence[str]:
        try:
            return await listeners.find_patterns(self._running.store, listener_id=self._running.id)
        except Exception as error:
            if not is_passing(error):
                raise
            return [event.topic]  # it is released, and the worker that claims it next checks again
