"""The listeners of a worker that run: a `Runner` for each, and the sequencer's way to those of its own process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

from pgbus.config import Config
from pgbus.database.adapters.transactions import Transactions
from pgbus.database.connections import Pool
from pgbus.database.statements.deliveries import Claim
from pgbus.database.statements.moving import Offer
from pgbus.database.store import Store
from pgbus.handlers.contexts import Publishes
from pgbus.handlers.hooks import Hooks
from pgbus.handlers.middleware import Middleware
from pgbus.listeners.executor import Executor
from pgbus.listeners.handler_call import HandlerCall
from pgbus.listeners.listener import Listener
from pgbus.listeners.quarantine import Quarantine
from pgbus.listeners.registration import register_listeners
from pgbus.listeners.runner import Runner
from pgbus.listeners.running import RunningListener
from pgbus.listeners.settlement import HeldClaim
from pgbus.telemetry import Telemetry
from pgbus.worker.membership import Membership
from pgbus.worker.restarts import Restarts


class Runners:
    """Runs listeners, by the ids of their rows; `ended` is called when a loop of one of them ends."""

    def __init__(
        self,
        *,
        config: Config,
        telemetry: Telemetry,
        hooks: Hooks,
        middleware: Middleware,
        sender: Publishes,
        pool: Pool,
        store: Store,
        transactions: Transactions,
        membership: Membership,
        ended: Callable[[], None],
    ) -> None:
        self._config = config
        self._telemetry = telemetry
        self._hooks = hooks
        self._middleware = middleware
        self._sender = sender
        self._pool = pool
        self._store = store
        self._transactions = transactions
        self._membership = membership
        self._ended = ended
        self._quarantine = Quarantine()
        # What is in here is known: its claims are extended, and not taken for forgotten ones.
        self._runners: dict[int, Runner] = {}
        # By the sequencer: whether they would take its next events.
        self._asked: list[int] = []
        self._threads: dict[int, ThreadPoolExecutor] = {}

    # ------------------------------------------------------------------------------------------------------ life

    async def begin(self, listeners: Sequence[Listener], *, restarts: Restarts) -> None:
        """Register these listeners, and run those that do not run yet and need not rest."""
        ids = await register_listeners(
            listeners, pool=self._pool, config=self._config, worker_id=self._membership.worker_id
        )
        # Looked at after the wait: the session and the upkeep may both be here at once.
        known = {runner.listener.name for runner in self._runners.values()}
        for listener in listeners:
            await asyncio.sleep(0)  # thousands of them must not stop the event loop, on which we may lead
            listener_id = ids[listener.name]
            if listener.name in known or listener_id in self._runners or restarts.is_resting(_part_of(listener)):
                continue
            self._runners[listener_id] = runner = self._make_runner(listener, listener_id)
            runner.start(ended=self._ended)

    def _make_runner(self, listener: Listener, listener_id: int) -> Runner:
        running = RunningListener(
            listener=listener,
            id=listener_id,
            store=self._store,
            config=self._config,
            telemetry=self._telemetry,
            standing=self._membership,
        )
        # Threads of its own: those of a listener whose functions hang are nobody else's.
        threads = ThreadPoolExecutor(running.slots, thread_name_prefix=f"pgbus {listener.name}")
        self._threads[listener_id] = threads
        executor = Executor(
            listener,
            threads=threads,
            transactions=self._transactions,
            middleware=self._middleware,
            instruments=self._hooks.instruments,
            sender=self._sender,
        )
        return Runner(running, executor=executor, hooks=self._hooks, quarantine=self._quarantine)

    async def end_failed(self, *, restarts: Restarts) -> bool:
        """End the listeners of which a loop has failed, which begin again after a pause; whether there were any.

        What they held is neither settled nor given back.
        """
        failed = [(id_, runner, error) for id_, runner in self._runners.items() if (error := runner.failure())]
        for id_, runner, error in failed:
            del self._runners[id_]  # so that nobody knows of its claims: they are forfeited next
            restarts.note_failure(_part_of(runner.listener), error, age=runner.age)
            await runner.break_off()
            self._threads.pop(id_).shutdown(wait=False, cancel_futures=True)
        return bool(failed)

    async def stop(self, *, grace: float) -> None:
        """Claim no more, let handlers finish for `grace` seconds, settle, and give back the rest."""
        await asyncio.gather(*(runner.stop(grace=grace) for runner in self._runners.values()))

    def abandon(self) -> None:
        """Do not wait for running handlers any longer."""
        for runner in self._runners.values():
            runner.abandon()

    def close_threads(self) -> None:
        """Begin nothing more in threads; a function that runs in one cannot be stopped."""
        for threads in self._threads.values():
            threads.shutdown(wait=False, cancel_futures=True)

    # ------------------------------------------------------------------------------------------------------ state

    @property
    def by_id(self) -> Mapping[int, Runner]:
        """The runners of the listeners that run, by the listeners' ids."""
        return self._runners

    @property
    def is_busy(self) -> bool:
        """Whether a listener claims, or holds claims, or is to look for some."""
        return any(runner.is_busy for runner in self._runners.values())

    @property
    def floors(self) -> dict[str, int]:
        """The position at which each listener's scans begin, by its name."""
        return {runner.listener.name: runner.floor for runner in self._runners.values()}

    @property
    def calls(self) -> list[tuple[str, HandlerCall]]:
        """The calls of handlers that run now, each with the name of its listener."""
        return [(runner.listener.name, call) for runner in self._runners.values() for call in runner.calls]

    @property
    def held_claims(self) -> list[HeldClaim]:
        """Return the claims that all runners hold now."""
        return [held for runner in self._runners.values() for held in runner.held_claims]

    @property
    def tokens(self) -> set[UUID]:
        """The tokens of the claims in flight, and of those that may be under way."""
        return {token for runner in self._runners.values() for token in runner.tokens}

    # ------------------------------------------------------------------------------------------------------ waking

    def look_at_everything(self) -> None:
        """Have every listener claim without floors: an operator may have put old events back."""
        for runner in self._runners.values():
            runner.look_at_everything()

    def wake(self, lanes: Mapping[int, Iterable[int]]) -> None:
        """Make listeners look for deliveries at once, by their ids: in these lanes, or anywhere if none is named."""
        for listener_id, its in lanes.items():
            if runner := self._runners.get(listener_id):
                runner.wake(its)

    def offer(self, token: UUID, listener_ids: Collection[int], *, events: int, lease: float) -> Offer:
        """The ones of these listeners that would take this many events, and empty lanes: the sequencer may claim for
        them.
        """
        worker_id = self._membership.claimant()
        self._asked = [id_ for id_ in listener_ids if id_ in self._runners] if worker_id else []
        takers = {id_: self._runners[id_].claimer.offer(token, events=events) for id_ in self._asked}
        idle = [id_ for id_, lanes in takers.items() if lanes is not None and not lanes]
        return Offer(idle, token, worker_id, lease, {id_: lanes for id_, lanes in takers.items() if lanes})

    def hand_over(self, claims: Mapping[int, Sequence[Claim]], *, sent_at: float) -> None:
        """Give those that were asked last what the sequencer claimed for them."""
        for listener_id in self._asked:
            if runner := self._runners.get(listener_id):
                runner.claimer.hand_over(claims.get(listener_id, ()), sent_at=sent_at)


def _part_of(listener: Listener) -> str:
    return f"listener {listener.name}"
