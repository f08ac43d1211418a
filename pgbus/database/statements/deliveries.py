"""The life of a delivery: claimed, kept, settled, and given back by those who lost it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from pgbus.database.sql import load
from pgbus.database.statements.bound import Bound
from pgbus.database.store import Store
from pgbus.messages import EventMessage

# A scan from the bottom reads all dead rows that a long-running snapshot keeps, and events wait for it: its share of
# the time must stay far below the hundredth that decides their p99.
SCAN_SHARE = 1 / 200


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


class ClaimTerms(msgspec.Struct, frozen=True, kw_only=True):
    """The terms of a claim: up to `limit` events from up to `rows` waiting runs, in pieces of at most `piece` events.

    The claims get this token, and a lease of `lease` seconds. Scans begin at the floors: `floor` is a position, for
    ready runs, `due_floor` an instant in epoch seconds, for those that are due, and `lane_floors` has a position for
    each lane of an ordered listener, and is empty for others. `lanes`, unless it is empty, are those to which it is
    enough to look. An event whose worker died twice, a suspect, comes alone, and only if `suspects` says so.
    `blocking`: dead letters of the listener block their keys. Events of `left_topics` are left to other workers.
    """

    token: UUID
    listener_id: int
    worker_id: int
    limit: int
    rows: int
    piece: int
    lease: float
    floor: int = 0
    due_floor: float = -math.inf
    lane_floors: Sequence[int] = ()
    lanes: Sequence[int] = ()
    suspects: bool = False
    blocking: bool = False
    left_topics: Sequence[str] = ()

    def values(self) -> dict[str, Any]:
        """The values of the statements' parameters."""
        values = {name: getattr(self, name) for name in self.__struct_fields__}
        return {**values, "claim_token": values.pop("token")}


@dataclass(frozen=True, slots=True)
class Claimed:
    """The claims that a look has made, and what it saw of an ordered listener's lanes.

    `looked` are the lanes that it has looked into. `tops` has the position of the first row that it saw from the floor
    on, for each of these in which there was one; in the lanes `left` there may be rows that it has not taken.
    """

    claims: list[Claim]
    looked: Sequence[int] = ()
    tops: Mapping[int, int] = field(default_factory=dict)
    left: Collection[int] = ()


@dataclass(frozen=True, slots=True)
class Freeing:
    """How many claims `free_claims` took back, of which listeners, and when, in the database's epoch seconds.

    `absent`: workers without a session. `is_done`: none of those that were absent before has a claim left. `has_runs`:
    runs of schedules are claimed as well.
    """

    freed: int
    listener_ids: list[int]
    absent: frozenset[int]
    is_done: bool
    has_runs: bool
    looked_at: float


@dataclass(frozen=True, slots=True)
class Untried:
    """How many events and deliveries no listener has tried yet, at an instant."""

    untried: int
    looked_at: datetime


def pause_after_scan(took: float, *, least: float) -> float:
    """Seconds from the beginning of a scan from the bottom, which took `took` seconds, to that of the next one."""
    return max(least, took / SCAN_SHARE)


async def claim(store: Store, terms: ClaimTerms, *, expects_cuts: bool) -> Claimed:
    """`claim_ready` or `claim_lanes` where that can be enough, which costs half; else `claim_deliveries`.

    `expects_cuts`: runs are likely to have too many events, so the first two would be in vain.
    """
    claimed: Claimed | None = None
    if not (terms.suspects or expects_cuts):
        if terms.lanes:
            claimed = await claim_lanes(store, terms)
        elif not terms.lane_floors:
            claimed = await claim_ready(store, terms)
    return claimed or await claim_deliveries(store, terms)


async def claim_deliveries(store: Store, terms: ClaimTerms) -> Claimed:
    """Claim waiting runs on these terms."""
    records = await store.fetch("claim_deliveries", **terms.values())
    tops: Mapping[int, int] = {}
    if terms.lane_floors:
        tops = {lane: top for record in records if record["id"] is None for lane, top in zip(*record[-2:], strict=True)}
        records = [record for record in records if record["id"] is not None]
    claims = _claims(records, token=terms.token, blocking=terms.blocking)
    return Claimed(claims, looked=range(len(terms.lane_floors)), tops=tops, left=tops.keys())


async def claim_lanes(store: Store, terms: ClaimTerms) -> Claimed | None:
    """Claim the first rows of lanes, as `claim_deliveries` would.

    None: nothing was claimed, as something has come back and is due, or a run has too many events. No suspects are
    looked for.
    """
    floors = [terms.lane_floors[lane] for lane in terms.lanes]
    records = await store.fetch("claim_lanes", **{**terms.values(), "lane_floors": floors})
    fits, lanes, tops, left = records[0][-4:]
    if not fits:
        return None
    claims = _claims(records[1:], token=terms.token, blocking=terms.blocking)
    if lanes is None:
        return Claimed(claims, looked=terms.lanes)
    return Claimed(
        claims,
        looked=terms.lanes,
        tops=dict(zip(lanes, tops, strict=True)),
        left={lane for lane, is_left in zip(lanes, left, strict=True) if is_left},
    )


async def claim_ready(store: Store, terms: ClaimTerms) -> Claimed | None:
    """Claim ready runs of a listener without order, as `claim_deliveries` would.

    None: nothing was claimed, as something is due, or a run has too many events. No suspects are looked for.
    """
    records = await store.fetch("claim_ready", **terms.values())
    fits, first_id, *_ = records[0]
    if not fits:
        return None
    if first_id is None:
        return Claimed([])
    return Claimed(_claims([record[1:] for record in records], token=terms.token, blocking=False))


def _claims(records: Sequence[Any], *, token: UUID, blocking: bool) -> list[Claim]:
    """The rows of a claim, one per event, as claims in the order of the log."""
    claims: dict[int, Claim] = {}
    claim: Claim | None = None
    for (
        id_, lane, attempt, suspect, fresh, last, size, position, event_id, topic, ancestors, key, payload, headers,
        published_at, deliver_at, blocked, claimed_at, *_,
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


async def is_work_left(store: Store, *, listener_id: int, floor: int, due_floor: float) -> bool:
    """Whether there is something to claim that someone has locked; false for a listener that is paused or gone."""
    rows = await store.fetch("is_work_left", listener_id=listener_id, floor=floor, due_floor=due_floor)
    return bool(rows and rows[0]["is_left"])


async def skip_missing_events(store: Store, claims: Sequence[Claim], *, listener_id: int, worker: str) -> list[int]:
    """Take events that are no longer in the log out of claims of one token; their positions."""
    rows = await store.fetch(
        "skip_missing_events",
        delivery_ids=[claim.id for claim in claims],
        claim_token=claims[0].token,
        listener_id=listener_id,
        worker=worker,
    )
    return [row["position"] for row in rows]


def lock_claim(claim: Claim, *, namespace: str) -> Bound:
    """Lock a claimed delivery in a handler's transaction, which ends it; its rows are for `read_lock`."""
    values = {"delivery_id": claim.id, "claim_token": claim.token}
    return Bound(load(namespace)["lock_delivery"], values)


def read_lock(rows: Sequence[Sequence[Any]]) -> int | None:
    """The id of the transaction that has locked the claim; None when the claim is no longer ours."""
    return int(rows[0][0]) if rows else None  # text, as the connection is the handler's


def settle_claims(values: Mapping[str, object], *, namespace: str) -> Bound:
    """Settle claims in a handler's transaction, as `settle_deliveries` does; returns a row for each claim that was
    still ours.
    """
    return Bound(load(namespace)[_name_settling(values)], values)


async def settle_deliveries(store: Store, values: Mapping[str, object]) -> set[int]:
    """End claims with the values that `settlement` makes of them; the ids of those that were still ours."""
    return {row["id"] for row in await store.fetch(_name_settling(values), **values)}


def _name_settling(values: Mapping[str, object]) -> str:
    """The statement that settles with these values: the short one where every event is done."""
    return "settle_deliveries" if values["other_deliveries"] else "settle_done"


async def extend_leases(store: Store, claims: Sequence[Claim], *, lease: float) -> set[int]:
    """Keep claims for `lease` seconds from now, but for those that someone has locked; the ids of what was kept."""
    return {row["id"] for row in await store.fetch("extend_leases", **_names(_tokens(claims)), lease=lease)}


async def find_our_claims(store: Store, claims: Sequence[Claim]) -> set[int]:
    """The ids of those claims that are still ours, locked or not."""
    return {row["id"] for row in await store.fetch("find_our_claims", **_names(_tokens(claims)))}


def _tokens(claims: Sequence[Claim]) -> dict[int, UUID]:
    return {claim.id: claim.token for claim in claims}


def _names(tokens: Mapping[int, UUID]) -> dict[str, object]:
    return {"delivery_ids": list(tokens), "claim_tokens": list(tokens.values())}


async def find_own_claims(store: Store, *, worker_id: int) -> dict[int, UUID]:
    """A worker's claims, as the database has them: their tokens, by the ids of the deliveries."""
    return dict(await store.fetch("find_own_claims", worker_id=worker_id))


async def return_claims(store: Store, claims: Mapping[int, UUID]) -> None:
    """Take back claims that their worker does not know of: tokens by delivery ids; no crash is counted."""
    await store.fetch("return_claims", **_names(claims), work_channel=store.work_channel)


async def forfeit_claims(store: Store, claims: Mapping[int, UUID]) -> None:
    """Have claims count as those of a dead worker: tokens by delivery ids."""
    await store.fetch("forfeit_claims", **_names(claims))


async def free_claims(
    store: Store,
    *,
    absent: Collection[int],
    max_crashes: int,
    lease_floor: float,
    overdue: Collection[int],
    all_leases: bool,
    batch: int,
) -> Freeing:
    """Take back up to `batch` claims whose leases ran out, at `lease_floor` or later, and those of `absent` workers.

    These are workers that the look before this one found without a session; who has one now keeps its claims. They
    are looked for among `all_leases` only: else this reads none but those that ran out. `overdue`: ids of claims below
    the floor, which it frees, too.
    """
    row = await store.fetch_one(
        "free_claims",
        absent=list(absent),
        max_crashes=max_crashes,
        lease_floor=lease_floor,
        overdue=list(overdue),
        all_leases=all_leases,
        batch=batch,
        work_channel=store.work_channel,
    )
    return Freeing(
        freed=row["freed"],
        listener_ids=row["listener_ids"] or [],
        absent=frozenset(row["absent"] or ()),
        is_done=row["is_done"],
        has_runs=row["has_runs"],
        looked_at=row["looked_at"],
    )


async def find_overdue_claims(store: Store, *, before: float, batch: int) -> list[int]:
    """The ids of up to `batch` claims whose leases ended before this instant, in seconds since 1970."""
    return [row["id"] for row in await store.fetch("find_overdue_claims", before=before, batch=batch)]


async def count_untried(store: Store, *, listener_names: Sequence[str], until: datetime | None) -> Untried:
    """How much that is due these listeners are yet to try once, of what was published until then; None: until now."""
    return Untried(**await store.fetch_one("count_untried", listener_names=listener_names, until=until))
