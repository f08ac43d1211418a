"""A discrete-event model of a fleet: publishers, one leader, notifications, and workers that claim, handle and settle.

What takes CPU on the server waits for one of its cores, first come, first served. The leader does one thing after the
other, as it does in `pgbus/leader/sequencer.py`. Each notification reaches the sessions of all workers, as they listen
to the same channel; those whose service has something to do then claim. Left out: the disk, locks, retries, and the
CPU of publishers and handlers, which have machines of their own.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from benchmarks.fleet.costs import Costs
from benchmarks.support import quantile
from pgbus.leader.mover import BATCH
from pgbus.leader.sequencer import LINGER
from pgbus.worker.session_loop import LEAD_INTERVAL

ROUND_TRIP = 0.0002
"""Seconds of the network, for each statement."""
CLAIM_LIMIT = 200
"""Events of one claim."""
NOTIFICATION_BYTES = 100
"""Of the server's queue: a notification with its channel and a few ids."""
FULL = 0.95
"""The part of their time from which on the cores are the limit."""
WARM_UP = 0.2
"""The first part of the time, whose latencies do not count."""
LAG = 0.1
"""Seconds of events that wait at the end, from which on a part has not kept up. A leader that is busy all the time may
still keep up: the more wait, the more it takes at once."""

Then = Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """Workers, spread over services; `rate` events per second, each of one service and heard by `heard_by` of them."""

    workers: int
    services: int
    rate: float
    heard_by: int = 3
    handler: float = 0.001
    concurrency: int = 10
    seconds: float = 2.0
    seed: int = 1


@dataclass(frozen=True, kw_only=True)
class Server:
    """A PostgreSQL: `max_connections`, and the size of its notification queue, which is 8 GB by default."""

    cores: int = 16
    connections: int = 1_000
    queue_bytes: float = 8e9


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The figures of a run. Times in seconds: `cpu` by kind of work, latencies from the commit to the handler."""

    cpu: dict[str, float]
    busy: float
    cores: float
    """The part of the time that the server's cores were busy."""
    leader: float
    """The part of the time that the leader was not waiting for events."""
    connections: int
    notifications: float
    """Per second."""
    queue: int
    """Most bytes that waited in the queue for the slowest session."""
    published: int
    moved: int
    handled: int
    p50: float
    p99: float
    limit: str
    """The first limit that is met, or an empty string."""


def connections(costs: Costs, fleet: Fleet) -> int:
    """Sessions of the workers, and one more of the leader's; publishers use a pooler."""
    return round(fleet.workers * costs.worker_sessions) + 1


def leader_capacity(costs: Costs, *, workers: int, services: int) -> float:
    """Events per second of a leader that always finds as many as it can take, and gets a core at once."""
    look = _look(costs, BATCH, services, workers)
    return BATCH / (look + 2 * ROUND_TRIP + (costs.leader_client + BATCH * costs.leader_client_event) / 1e6)


def _notify(costs: Costs, workers: int) -> float:
    """Seconds of CPU to send a notification to all workers."""
    return (costs.notify + workers * costs.notify_session) / 1e6


def _look(costs: Costs, events: int, deliveries: int, workers: int) -> float:
    """Seconds of CPU of a look on the server."""
    if not events:
        return costs.look / 1e6
    written = costs.look + costs.look_writes + events * costs.look_event + deliveries * costs.look_delivery
    return written / 1e6 + (_notify(costs, workers) if workers > 1 else 0.0)


def simulate(costs: Costs, fleet: Fleet, server: Server) -> Outcome:
    """Run the fleet for its seconds; the same seed has the same outcome."""
    return _Simulation(costs, fleet, server).run()


class _Clock:
    """Calls functions at their times; those of the same time in the order in which they were added."""

    def __init__(self) -> None:
        self.now = 0.0
        self._next: list[tuple[float, int, Then]] = []
        self._numbers = count()

    def after(self, seconds: float, then: Then) -> None:
        heapq.heappush(self._next, (self.now + seconds, next(self._numbers), then))

    def run(self, end: float) -> None:
        while self._next and self._next[0][0] <= end:
            self.now, _, then = heapq.heappop(self._next)
            then()
        self.now = end


class _Cores:
    """The server's cores. How long a job takes is asked when it gets one: it depends on what it then finds."""

    def __init__(self, clock: _Clock, number: int, end: float) -> None:
        self._clock, self._free, self._end = clock, number, end
        self._waiting: deque[tuple[str, Callable[[], float], Then]] = deque()
        self.busy = 0.0
        self.cpu: dict[str, float] = {}

    def run(self, kind: str, begin: Callable[[], float], then: Then) -> None:
        if self._free:
            self._free -= 1
            self._begin(kind, begin, then)
        else:
            self._waiting.append((kind, begin, then))

    def _begin(self, kind: str, begin: Callable[[], float], then: Then) -> None:
        seconds = begin()
        within = min(seconds, self._end - self._clock.now)
        self.cpu[kind] = self.cpu.get(kind, 0.0) + within
        self.busy += within

        def end() -> None:
            if self._waiting:
                self._begin(*self._waiting.popleft())
            else:
                self._free += 1
            then()

        self._clock.after(seconds, end)


@dataclass(slots=True)
class _Worker:
    service: int
    is_claiming: bool = False
    is_woken: bool = False
    told: bool = False
    is_hearing: bool = False
    read: int = 0
    claimed: list[float] = field(default_factory=list)


class _Simulation:
    def __init__(self, costs: Costs, fleet: Fleet, server: Server) -> None:
        self._costs, self._fleet, self._server = costs, fleet, server
        self._random = random.Random(fleet.seed)
        self._clock = _Clock()
        self._cores = _Cores(self._clock, server.cores, fleet.seconds)
        self._workers = [_Worker(number % fleet.services) for number in range(fleet.workers)]
        self._outbox: deque[tuple[float, list[int]]] = deque()
        self._ready: list[deque[float]] = [deque() for _ in range(fleet.services)]
        self._armed, self._woken, self._sleeps = True, False, True
        self._look_began, self._led = 0.0, 0.0
        self._sent, self._queue = 0, 0
        self._published = self._moved = self._handled = 0
        self._latencies: list[float] = []

    def run(self) -> Outcome:
        self._publish_next()
        for _ in self._workers:
            self._clock.after(self._random.uniform(0, LEAD_INTERVAL), self._idle_look)
        self._clock.run(self._fleet.seconds)
        if not self._sleeps:
            self._led += self._fleet.seconds - self._look_began
        return self._outcome()

    def _outcome(self) -> Outcome:
        seconds = self._fleet.seconds
        cores = self._cores.busy / (seconds * self._server.cores)
        leader = self._led / seconds
        sessions = connections(self._costs, self._fleet)
        limits = {
            "connections": sessions > self._server.connections,
            "NOTIFY queue": self._queue > self._server.queue_bytes / 2,
            "server cores": cores >= FULL,
            "leader": self._published - self._moved > LAG * self._fleet.rate,
            "workers": sum(map(len, self._ready)) > LAG * self._fleet.rate * self._heard_by,
        }
        return Outcome(
            cpu=dict(self._cores.cpu), busy=self._cores.busy, cores=cores, leader=leader, connections=sessions,
            notifications=self._sent / seconds, queue=self._queue, published=self._published, moved=self._moved,
            handled=self._handled,
            p50=quantile(self._latencies, 0.5) if self._latencies else float("inf"),
            p99=quantile(self._latencies, 0.99) if self._latencies else float("inf"),
            limit=next((name for name, is_met in limits.items() if is_met), ""),
        )  # fmt: skip

    @property
    def _heard_by(self) -> int:
        return min(self._fleet.heard_by, self._fleet.services)

    # ---------------------------------------------------------------------------------------------------- publishers

    def _publish_next(self) -> None:
        self._clock.after(self._random.expovariate(self._fleet.rate), self._publish)

    def _publish(self) -> None:
        self._publish_next()
        services = self._random.sample(range(self._fleet.services), self._heard_by)
        told = False

        def begin() -> float:
            nonlocal told
            told = self._armed
            notify = _notify(self._costs, self._fleet.workers) if told else 0.0
            return self._costs.publish / 1e6 + notify

        def committed() -> None:
            self._published += 1
            self._outbox.append((self._clock.now, services))
            if told:
                self._tell(None)
                self._cores.run("notifications", lambda: self._costs.hear / 1e6, self._wake_leader)

        self._cores.run("publishing", begin, committed)

    # -------------------------------------------------------------------------------------------------------- leader

    def _wake_leader(self) -> None:
        self._woken = True
        if self._sleeps:
            self._sleeps = False
            self._begin_look()

    def _begin_look(self) -> None:
        self._woken = False
        self._look_began = self._clock.now
        taken: list[tuple[float, list[int]]] = []

        def begin() -> float:
            taken.extend(self._outbox.popleft() for _ in range(min(BATCH, len(self._outbox))))
            heard = {service for _, services in taken for service in services}
            return _look(self._costs, len(taken), len(heard), self._fleet.workers)

        def end() -> None:
            self._moved += len(taken)
            for published_at, services in taken:
                for service in services:
                    self._ready[service].append(published_at)
            if taken and self._fleet.workers > 1:
                self._tell({service for _, services in taken for service in services})
            elif taken:
                self._wake(self._workers[0])
            client = self._costs.leader_client + len(taken) * self._costs.leader_client_event if taken else 0.0
            self._clock.after(client / 1e6 + ROUND_TRIP * (2 if taken else 1), lambda: self._end_look(len(taken)))

        self._cores.run("leader", begin, end)

    def _end_look(self, moved: int) -> None:
        """Decide what comes next, as the sequencer's steps do."""
        if moved >= BATCH:
            self._pause(0.0)
        elif self._armed and (moved > 1 or self._woken):
            self._turn_slot(armed=False)
        elif moved > 1:
            self._pause(LINGER)
        elif not self._armed:
            self._turn_slot(armed=True)
        else:
            self._led += self._clock.now - self._look_began
            self._sleeps = True

    def _pause(self, seconds: float) -> None:
        self._led += self._clock.now - self._look_began
        self._look_began = self._clock.now + seconds
        self._clock.after(seconds, self._begin_look)

    def _turn_slot(self, *, armed: bool) -> None:
        def turned() -> None:
            self._armed = armed
            self._pause(0.0)

        self._cores.run("leader", lambda: self._costs.idle_look / 1e6, lambda: self._clock.after(ROUND_TRIP, turned))

    # ------------------------------------------------------------------------------------------------- notifications

    def _tell(self, services: set[int] | None) -> None:
        """Have all sessions read a notification; one that is about to read others reads it with them."""
        self._sent += 1
        slowest = min((worker.read for worker in self._workers), default=self._sent)
        self._queue = max(self._queue, (self._sent - slowest) * NOTIFICATION_BYTES)
        for worker in self._workers:
            worker.told |= services is not None and worker.service in services
            if not worker.is_hearing:
                worker.is_hearing = True
                self._hear(worker)

    def _hear(self, worker: _Worker) -> None:
        told = False

        def begin() -> float:
            nonlocal told
            told, worker.told, worker.is_hearing, worker.read = worker.told, False, False, self._sent
            return self._costs.hear / 1e6

        self._cores.run("notifications", begin, lambda: self._wake(worker) if told else None)

    # ------------------------------------------------------------------------------------------------------- workers

    def _idle_look(self) -> None:
        self._clock.after(LEAD_INTERVAL * self._random.uniform(0.8, 1.2), self._idle_look)
        self._cores.run("idle looks", lambda: self._costs.idle_look / 1e6, lambda: None)

    def _wake(self, worker: _Worker) -> None:
        worker.is_woken = True
        if not worker.is_claiming:
            worker.is_claiming = True
            self._clock.after(ROUND_TRIP / 2, lambda: self._claim(worker))

    def _claim(self, worker: _Worker) -> None:
        worker.is_woken = False
        ready = self._ready[worker.service]

        def begin() -> float:
            worker.claimed = [ready.popleft() for _ in range(min(CLAIM_LIMIT, len(ready)))]
            costs = self._costs
            if not worker.claimed:
                return costs.claim_nothing / 1e6
            return (costs.claim + len(worker.claimed) * costs.claim_event) / 1e6

        self._cores.run("claims", begin, lambda: self._clock.after(ROUND_TRIP / 2, lambda: self._handle(worker)))

    def _handle(self, worker: _Worker) -> None:
        if not worker.claimed:
            worker.is_claiming = False
            if worker.is_woken:
                self._wake(worker)
            return
        fleet, events = self._fleet, worker.claimed
        for number, published_at in enumerate(events):
            begins = self._clock.now + number // fleet.concurrency * fleet.handler
            if published_at >= WARM_UP * fleet.seconds:
                self._latencies.append(begins - published_at)
        rounds = -(-len(events) // fleet.concurrency)
        self._clock.after(rounds * fleet.handler, lambda: self._settle(worker, len(events)))

    def _settle(self, worker: _Worker, events: int) -> None:
        def settled() -> None:
            self._handled += events

        settle = (self._costs.settle + events * self._costs.settle_event) / 1e6
        self._cores.run("settlements", lambda: settle, settled)
        self._claim(worker)  # what has come meanwhile
