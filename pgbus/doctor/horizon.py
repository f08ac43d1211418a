"""Checks of whatever keeps dead rows and WAL: open transactions, prepared ones, replication slots, standbys."""

from __future__ import annotations

from dataclasses import dataclass

from pgbus.database.statements import doctor
from pgbus.database.statements.doctor import Holder, Slot
from pgbus.doctor.checks import Check, Group, Judgement, Patient, fault, literal, ok, skipped, warning
from pgbus.telemetry.figures import duration

LONG = 60.0
"""Seconds after which an open transaction is worth a warning; after ten times as long it is a fault."""
OLD = 1_000_000
"""Transactions by which a slot or a standby may lag; ten times as many are a fault."""
KEPT_WAL = 64 << 20
"""Bytes of WAL that a slot may keep for a reader that is away."""


@dataclass(frozen=True, slots=True)
class Horizon:
    """The evidence: whatever may read old rows, and whether sessions of other users are among it."""

    holders: tuple[Holder, ...]
    slots: tuple[Slot, ...]
    sees_all: bool

    def oldest(self, kind: str) -> Holder | None:
        """The holder of that kind that has lasted longest."""
        return max(
            (one for one in self.holders if one.kind == kind),
            key=lambda one: (one.seconds or 0, one.xids),
            default=None,
        )


async def read(patient: Patient) -> Horizon:
    """Return whatever may keep dead rows, and all slots."""
    connections = await doctor.read_connections(patient.store)
    return Horizon(
        await doctor.read_horizon(patient.store), await doctor.read_slots(patient.store), connections.sees_all
    )


def _judge_sessions(found: Horizon) -> Judgement:
    holder = found.oldest("session")
    if holder is None or (holder.seconds or 0) < LONG:
        if not found.sees_all:
            return skipped("the server hides sessions of other users: GRANT pg_read_all_stats TO this user")
        return ok(f"no transaction is open for longer than {duration(LONG)}")
    named = f" of {holder.owner}" if holder.owner else ""
    evidence = f"session {holder.name}{named} has had a transaction open for {duration(holder.seconds or 0)}"
    judged = fault if (holder.seconds or 0) >= 10 * LONG else warning
    return judged(f"{evidence}: dead rows stay until it ends", f"SELECT pg_terminate_backend({holder.name})")


def _judge_prepared(found: Horizon) -> Judgement:
    holder = found.oldest("prepared transaction")
    if holder is None or (holder.seconds or 0) < LONG:
        return ok(f"no transaction is prepared for longer than {duration(LONG)}")
    evidence = f"transaction {holder.name} of {holder.owner} has been prepared for {duration(holder.seconds or 0)}"
    judged = fault if (holder.seconds or 0) >= 10 * LONG else warning
    return judged(f"{evidence}: it keeps dead rows, and locks", f"ROLLBACK PREPARED {literal(holder.name)}")


def _judge_slots(found: Horizon) -> Judgement:
    holder = found.oldest("slot")
    if holder is None or holder.xids < OLD:
        return ok("no replication slot keeps dead rows")
    judged = fault if holder.xids >= 10 * OLD else warning
    return judged(
        f"the {holder.owner} slot {holder.name} keeps the dead rows of {holder.xids:,} transactions",
        f"SELECT pg_drop_replication_slot({literal(holder.name)})",
    )


def _judge_standbys(found: Horizon) -> Judgement:
    holder = found.oldest("standby")
    if holder is None or holder.xids < OLD:
        return ok("no standby keeps dead rows")
    judged = fault if holder.xids >= 10 * OLD else warning
    return judged(
        f"the standby {holder.owner or holder.name} keeps the dead rows of {holder.xids:,} transactions",
        "end its long queries, or set hot_standby_feedback = off there",
    )


def _judge_wal(found: Horizon) -> Judgement:
    for slot in found.slots:
        if slot.wal_status in ("lost", "unreserved"):
            return fault(
                f"the slot {slot.name} has {slot.wal_status} WAL: its reader cannot go on from it",
                f"SELECT pg_drop_replication_slot({literal(slot.name)})",
            )
    unread = [slot for slot in found.slots if not slot.active and slot.kept > KEPT_WAL]
    if unread:
        most = max(unread, key=lambda slot: slot.kept)
        return warning(
            f"nobody reads the slot {most.name}, which keeps {most.kept >> 20:,} MB of WAL on the disk",
            f"SELECT pg_drop_replication_slot({literal(most.name)})",
        )
    return ok(f"{len(found.slots)} replication slots, each of them read")


GROUP = Group(
    "horizon",
    read,
    (
        Check(
            "open-transactions",
            "An open transaction keeps dead rows, which make every scan slower",
            _judge_sessions,
        ),
        Check("prepared-transactions", "A forgotten prepared transaction keeps dead rows and locks", _judge_prepared),
        Check("slots", "A replication slot whose reader lags keeps dead rows", _judge_slots),
        Check("standbys", "A long query on a standby with feedback keeps dead rows here", _judge_standbys),
        Check("kept-wal", "A slot that nobody reads keeps WAL until the disk is full", _judge_wal),
    ),
)
