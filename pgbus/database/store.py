"""The engine's statements: a `Store` runs them by name on a connection, a pool or a session.

Only `pgbus.database.statements` calls it; everyone else calls the typed functions there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, TypeAlias
from uuid import UUID

import asyncpg

from pgbus.database import channels
from pgbus.database.sql import Statement, load
from pgbus.database.sql.rights import missing_right
from pgbus.messages import EventMessage
from pgbus.topics import is_wildcard, pattern_regex

# Runs a named statement.
Run: TypeAlias = Callable[[str, dict[str, object]], Awaitable[Sequence[Sequence[Any]]]]


class Runner(Protocol):
    """A connection or a pool."""

    async def fetch(self, query: str, *args: Any) -> list[Any]:
        """Run one statement."""
        ...


# --------------------------------------------------------------------------------------------------------------- values


@dataclass(slots=True)
class Claim:
    """A claimed delivery and its events, in the order of the log: `size` of them, less those that someone deleted."""

    id: int
    token: UUID
    attempt: int
    lane: int | None
    suspect: bool
    fresh: bool
    last: int
    claimed_at: float
    size: int
    events: list[EventMessage]
    blocked: list[bool] | None = None


@dataclass(frozen=True, slots=True)
class Sequencing:
    """What one call of `sequence_outbox` did and saw.

    `stopped_at` is an outbox id beyond which there may be more, else None. `has_more`: look again at once; `too_big`:
    with fewer rows, as these were too many bytes. `next_due` is in seconds from then; None: nothing is scheduled.
    `listener_ids` have something to claim; `handed` were given a claim, by listener id.
    """

    moved: int
    stopped_at: int | None
    has_more: bool
    too_big: bool
    listener_ids: list[int]
    xmin: int
    xid: int | None
    last_id: int
    looked_at: float
    next_due: float | None
    handed: Mapping[int, Claim]


@dataclass(frozen=True, slots=True)
class Freeing:
    """How many claims `free_claims` took back, of which listeners, and when, in the database's epoch seconds."""

    freed: int
    listener_ids: list[int]
    looked_at: float


@dataclass(frozen=True, slots=True)
class Registered:
    """A listener's row, and what its options were before; None for a new one."""

    id: int
    is_new: bool
    old_options: str | None


@dataclass(frozen=True, slots=True)
class SubscriptionChanges:
    """Patterns that were added to a listener's subscriptions, and removed from them."""

    added: tuple[str, ...]
    removed: tuple[str, ...]


# ---------------------------------------------------------------------------------------------------------------- store


class Store:
    """Named statements, run on a connection or pool."""

    def __init__(self, runner: Runner, *, namespace: str) -> None:
        self._runner = runner
        self._statements = load(namespace)
        self.namespace = namespace
        self.work_channel = channels.work(namespace)

    def statement(self, name: str) -> Statement:
        """A statement by its name."""
        return self._statements[name]

    async def fetch(self, name: str, /, **values: object) -> list[Any]:
        """Run a named statement; raises PrivilegeError for one that this user may not run."""
        statement = self._statements[name]
        try:
            return await self._runner.fetch(statement.asyncpg, *statement.arguments(values))
        except asyncpg.InsufficientPrivilegeError as error:
            raise missing_right(statement, error) from error

    async def run(self, name: str, values: dict[str, object]) -> list[Any]:
        """`fetch` for whoever is given it as a `Run`."""
        return await self.fetch(name, **values)

    async def fetch_one(self, name: str, /, **values: object) -> Any:
        """Run a named statement that returns one row."""
        return (await self.fetch(name, **values))[0]

    # The leader's.

    async def sequence_outbox(
        self,
        *,
        floor: int,
        wants_xid: bool,
        due_floor: float,
        base: int,
        batch: int,
        batch_bytes: int,
        avoid: Collection[int],
        run: int,
        tell_others: bool,
        idle_listener_ids: Sequence[int],
        token: UUID,
        worker_id: int,
        lease: float,
    ) -> Sequencing:
        """Move up to `batch` rows (and as many scheduled ones that are due) into the log from position `base` on.

        More than one only if they are not more than `batch_bytes`, and none of the ids to `avoid`. A lone event is
        claimed at once for those of the idle listeners that hear it.
        """
        row = await self.fetch_one(
            "sequence_outbox",
            floor=floor,
            wants_xid=wants_xid,
            due_floor=due_floor,
            base=base,
            batch=batch,
            batch_bytes=batch_bytes,
            avoid=list(avoid),
            run=run,
            tell_others=tell_others,
            work_channel=self.work_channel,
            idle_listener_ids=idle_listener_ids,
            claim_token=token,
            worker_id=worker_id,
            lease=lease,
        )
        stops = [id_ - 1 for id_ in avoid] + ([] if row["stopped_at"] is None else [row["stopped_at"]])
        return Sequencing(
            moved=row["moved"],
            stopped_at=min(stops) if stops else None,
            has_more=row["is_full"] or row["too_big"],
            too_big=row["too_big"],
            listener_ids=row["listener_ids"] or [],
            xmin=row["xmin"],
            xid=row["xid"],
            last_id=row["last_id"],
            looked_at=row["looked_at"],
            next_due=row["next_due"],
            handed=_handed(row, token=token) if row["handed_ids"] else {},
        )

    async def backfill_listener(self, *, batch: int, run: int) -> tuple[int | None, bool]:
        """Give one listener that is behind the next stretch of the log.

        Returns its id, or None when there is none that nobody else holds locked; and whether any was behind.
        """
        row = await self.fetch_one("backfill_listener", batch=batch, run=run, work_channel=self.work_channel)
        return row["listener_id"], row["were_behind"]

    async def find_locked_events(self, *, floor: int, batch: int) -> list[int]:
        """The outbox ids that a look would take and someone holds locked."""
        return [row["id"] for row in await self.fetch("find_locked_events", floor=floor, batch=batch)]

    async def free_claims(self, *, max_crashes: int, lease_floor: float, batch: int) -> Freeing:
        """Take back up to `batch` claims of dead workers, or whose leases ran out, at `lease_floor` or later."""
        row = await self.fetch_one(
            "free_claims",
            max_crashes=max_crashes,
            lease_floor=lease_floor,
            batch=batch,
            work_channel=self.work_channel,
        )
        return Freeing(row["freed"], row["listener_ids"] or [], row["looked_at"])

    # Any worker's.

    async def find_own_claims(self, worker_id: int) -> set[UUID]:
        """The tokens of a worker's claims, as the database has them."""
        return {row["claim_token"] for row in await self.fetch("find_own_claims", worker_id=worker_id)}

    async def return_claims(self, tokens: Collection[UUID], *, worker_id: int) -> None:
        """Take back a worker's claims that it does not know of."""
        await self.fetch(
            "return_claims", worker_id=worker_id, claim_tokens=list(tokens), work_channel=self.work_channel
        )

    async def claim_deliveries(
        self,
        *,
        token: UUID,
        listener_id: int,
        worker_id: int,
        lanes: int | None,
        floor: int,
        due_floor: float,
        rows: int,
        limit: int,
        piece: int,
        lease: float,
        suspects: bool,
        blocking: bool,
        left_topics: Sequence[str] = (),
    ) -> list[Claim]:
        """Claim up to `limit` events from up to `rows` waiting runs, in pieces of at most `piece` events.

        An event whose worker died twice, a suspect, comes alone, and only if `suspects` says so.
        """
        records = await self.fetch(
            "claim_deliveries",
            listener_id=listener_id,
            worker_id=worker_id,
            lanes=lanes,
            floor=floor,
            due_floor=due_floor,
            rows=rows,
            limit=limit,
            piece=piece,
            lease=lease,
            suspects=suspects,
            blocking=blocking,
            left_topics=left_topics,
            claim_token=token,
        )
        return _claims(records, token=token, blocking=blocking)

    async def skip_missing_events(self, claims: Sequence[Claim], *, listener_id: int, worker: str) -> list[int]:
        """Take events that are no longer in the log out of claims of one token; their positions."""
        rows = await self.fetch(
            "skip_missing_events",
            delivery_ids=[claim.id for claim in claims],
            claim_token=claims[0].token,
            listener_id=listener_id,
            worker=worker,
        )
        return [row["position"] for row in rows]

    async def extend_leases(self, claims: Sequence[Claim], *, lease: float) -> set[int]:
        """Keep claims for `lease` seconds from now, but for those that someone has locked; the ids of what was kept."""
        rows = await self.fetch("extend_leases", **_names(claims), lease=lease)
        return {row["id"] for row in rows}

    async def find_our_claims(self, claims: Sequence[Claim]) -> set[int]:
        """The ids of those claims that are still ours, locked or not."""
        return {row["id"] for row in await self.fetch("find_our_claims", **_names(claims))}

    async def register_listener(
        self,
        *,
        listener_name: str,
        lanes: int | None,
        options: str,
        service: str,
        start_position: int | None,
        start_at: datetime | None,
    ) -> Registered:
        """Make a listener known, and lock its row."""
        if start_at is not None:
            # A new listener is not live there, even at the log's end: an event that the leader is sequencing at this
            # moment is not missed.
            start_position = (await self.fetch_one("find_position_at", instant=start_at))["position"]
        row = await self.fetch_one(
            "register_listener",
            listener_name=listener_name,
            lanes=lanes,
            options=options,
            service=service,
            start_position=start_position,
        )
        return Registered(id=row["id"], is_new=row["is_new"], old_options=row["old_options"])

    async def replace_subscriptions(self, listener_id: int, patterns: Sequence[str]) -> SubscriptionChanges:
        """Make a listener's subscriptions these patterns."""
        regexes = [pattern_regex(pattern) if is_wildcard(pattern) else None for pattern in patterns]
        rows = await self.fetch(
            "replace_subscriptions", listener_id=listener_id, patterns=list(patterns), regexes=regexes
        )
        return SubscriptionChanges(
            added=tuple(row["pattern"] for row in rows if row["change"] == "added"),
            removed=tuple(row["pattern"] for row in rows if row["change"] == "removed"),
        )


def _names(claims: Sequence[Claim]) -> dict[str, object]:
    return {"delivery_ids": [claim.id for claim in claims], "claim_tokens": [claim.token for claim in claims]}


def _handed(row: Any, *, token: UUID) -> dict[int, Claim]:
    """The claims that `sequence_outbox` made of its lone event; each listener gets an event of its own."""
    return {
        listener_id: Claim(id_, token, 1, None, False, True, row["position"], row["looked_at"], 1, [_event(row)])
        for id_, listener_id in zip(row["handed_ids"], row["handed_to"], strict=True)
    }


def _event(row: Any) -> EventMessage:
    return EventMessage(
        topic=row["topic"],
        raw=row["payload"],
        event_id=row["event_id"],
        key=row["key"],
        raw_headers=row["headers"],
        ancestors=row["ancestors"],
        published_at=row["published_at"],
        deliver_at=row["deliver_at"],
        position=row["position"],
    )


def _claims(records: Sequence[Any], *, token: UUID, blocking: bool) -> list[Claim]:
    """The rows of `claim_deliveries`, one per event, as claims in the order of the log."""
    claims: dict[int, Claim] = {}
    claim: Claim | None = None
    for (
        id_, lane, attempt, suspect, fresh, last, size, position, event_id, topic, ancestors, key, payload, headers,
        published_at, deliver_at, blocked, claimed_at,
    ) in records:  # fmt: skip
        if claim is None or claim.id != id_:
            claim = claims.get(id_)
            if claim is None:
                claim = claims[id_] = Claim(id_, token, attempt, lane, suspect, fresh, last, claimed_at, size, [])
        if position is None:
            continue
        claim.events.append(
            EventMessage(
                topic=topic,
                raw=payload,
                event_id=event_id,
                key=key,
                raw_headers=headers,
                ancestors=ancestors,
                published_at=published_at,
                deliver_at=deliver_at,
                position=position,
            )
        )
        if blocking:
            claim.blocked = claim.blocked or []
            claim.blocked.append(blocked)
    return sorted(claims.values(), key=lambda claim: (claim.events and claim.events[0].position) or 0)
