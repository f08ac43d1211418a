"""Whether the statements that run all the time find their rows by an index."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pgbus.database.plans import CALLS, CLAIMS, LOOKS, find_whole_scans
from pgbus.doctor.checks import Check, Group, Judgement, Patient, fault, listed, ok
from pgbus.telemetry.figures import counted

_BIG = re.compile(r"(outbox|deliveries|rpc_requests|schedules|(events|history|outbox)(_p\d+)?)$")
Scans = Mapping[str, set[str]]
"""The evidence: for each statement the big tables that it would read from end to end."""


async def read(patient: Patient) -> Scans:
    """Return the tables that the plans read from end to end."""
    return {
        name: {
            table
            for table in await find_whole_scans(patient.connection, patient.store.statement(name))
            if _BIG.match(table)
        }
        for name in (*LOOKS, *CLAIMS, *CALLS)
    }


def _judge_looks(found: Scans) -> Judgement:
    return _judge(found, LOOKS)


def _judge_claims(found: Scans) -> Judgement:
    return _judge(found, CLAIMS)


def _judge_calls(found: Scans) -> Judgement:
    return _judge(found, CALLS)


def _judge(found: Scans, statements: tuple[str, ...]) -> Judgement:
    tables = sorted({table for name in statements for table in found[name]})
    if tables:
        reading = [name for name in statements if found[name]]
        return fault(
            f"{listed(reading)} read {listed(tables)} from end to end: an index is missing",
            "pgbus db sql, and make the index again that it lists",
        )
    return ok(f"indexes serve {counted(len(statements), 'statement')}")


GROUP = Group(
    "plans",
    read,
    (
        Check("plan-of-looks", "Without its index every look of the leader reads a whole table", _judge_looks),
        Check("plan-of-claims", "Without its index every claim reads a whole table", _judge_claims),
        Check("plan-of-calls", "Without its index every call reads a whole table", _judge_calls),
    ),
)
