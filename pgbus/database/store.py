"""The engine's statements: a `Store` runs them by name on a connection, a pool or a session.

Only `pgbus.database.statements` calls it; everyone else calls the typed functions there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
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
        """Make a listener known, and lock its row; the options are those of a new one."""
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
