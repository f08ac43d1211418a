"""The parts of a worker: its listeners, the server of its procedures, its tasks, and its leadership.

A part that fails by a fault of code ends alone, and begins again after a pause.
"""

from __future__ import annotations

import asyncio
import logging

from pgbus.config import Config
from pgbus.database.faults import is_link_error
from pgbus.database.statements import sequencer
from pgbus.database.store import Store
from pgbus.leader.leader import Leader
from pgbus.leader.slumber import Slumber
from pgbus.rpc.server import Server
from pgbus.schedules.tasks import Tasks
from pgbus.schema import Catalog
from pgbus.worker.leases import Leases
from pgbus.worker.membership import Membership
from pgbus.worker.restarts import Restarts
from pgbus.worker.runners import Runners
from pgbus.worker.selection import Selection

logger = logging.getLogger("pgbus")


class Parts:
    """Begins, wakes and ends the parts of one worker.

    `change` is set when a part has failed, may begin again, or is declared: the upkeep then looks after it.
    """

    def __init__(
        self,
        *,
        config: Config,
        selection: Selection,
        membership: Membership,
        schemas: Catalog,
        restarts: Restarts,
        runners: Runners,
        server: Server,
        tasks: Tasks,
        leader: Leader,
        slumber: Slumber,
        change: asyncio.Event,
    ) -> None:
        self._selection = selection
        self._membership = membership
        self._schemas = schemas
        self.restarts = restarts
        self.runners = runners
        self.server = server
        self.tasks = tasks
        self.leader = leader
        self.slumber = slumber
        self.change = change
        self.woken = asyncio.Event()
        """Set when the sleep of the bus ends: the upkeep looks, and clears it."""
        self.leases = Leases(runners, membership=membership, lease=config.lease)

    @property
    def listener_names(self) -> list[str]:
        """The names of the listeners that the worker runs, or is to run."""
        return [listener.name for listener in self._selection.work().listeners]

    @property
    def is_busy(self) -> bool:
        """Whether something of ours is under way, or we have not looked for lost work since the bus was woken last."""
        return bool(self.runners.is_busy or self.server.calls or self.tasks.runs or not self.slumber.has_looked)

    @property
    def why_always_open(self) -> str | None:
        """The reason why the sessions have to stay open also while the bus sleeps; None if they need not."""
        work = self._selection.work()
        if work.procedures:
            return "it serves procedures, and a call looks for a worker that is there"
        return "it has tasks in the background, which go on" if work.background else None

    def rise(self) -> None:
        """Go on with what rests while the bus sleeps."""
        self.leader.wake()
        self.tasks.wake()
        self.woken.set()

    async def begin(self, store: Store) -> None:
        """Register all declarations, begin the parts that do not run yet, and publish the schemas of this process."""
        work = self._selection.work()
        await self.runners.begin(work.listeners, restarts=self.restarts)
        self.leader.catch_up()
        if work.procedures and not self.restarts.is_resting("calls"):
            await self.server.serve(work.procedures, worker_id=self._membership.worker_id, store=store)
        if not self.restarts.is_resting("schedules"):
            await self.tasks.start(work.schedules, work.background)
        await self._publish_schemas(store)

    async def _publish_schemas(self, store: Store) -> None:
        """Publish this process's schemas, and read those of others. A worker without the right to do so continues."""
        work = self._selection.work()
        declared = self._schemas.code.declare(procedures=work.procedures, listeners=work.listeners)
        try:
            await self._schemas.publication.publish(declared, store=store, worker_id=self._membership.worker_id)
            await self._schemas.stored.load(store)
        except Exception as error:  # what others stored may be anything
            if is_link_error(error):
                raise
            logger.warning("schemas can be neither stored nor read: %s", error)

    async def end_failed(self, store: Store) -> None:
        """End the parts of which a loop has failed, which nothing but a fault of code can bring about.

        Each begins again after a pause, and nothing else ends with it. A listener's claims count as those of a dead
        worker.
        """
        have_failed = await self.runners.end_failed(restarts=self.restarts)
        for part, loops in (("calls", self.server), ("schedules", self.tasks)):
            if error := loops.failure():
                self.restarts.note_failure(part, error, age=loops.age)
                await loops.break_off()
        if have_failed:
            await self.leases.forfeit_forgotten(store)

    async def poll(self, store: Store) -> None:
        """Look for work, in case a notification was lost, for the listeners that have not looked themselves of late.

        A busy one would be asked in vain; and while someone holds a snapshot, that reads all that it has handled.
        """
        if quiet := [id_ for id_, runner in self.runners.by_id.items() if runner.claimer.was_quiet()]:
            self.runners.wake(dict.fromkeys(await sequencer.find_ready_listeners(store, quiet), ()))
        self.server.wake()

    def look_at_everything(self) -> None:
        """Look for work everywhere: an operator has changed something."""
        self.runners.look_at_everything()
        self.leader.catch_up()
        self.tasks.wake()

    def abandon(self) -> None:
        """Wait for nothing that runs any longer."""
        self.runners.abandon()
        self.server.abandon()
        self.tasks.abandon()
