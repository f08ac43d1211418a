"""Whether vacuum keeps up with the bus's tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pgbus.database.statements import doctor
from pgbus.database.statements.doctor import TableHealth
from pgbus.doctor.checks import Check, Group, Judgement, Patient, fault, listed, ok, warning

DEAD_ROWS = 50_000
"""Dead rows of a table that are worth a warning, if there are ten times as many as live ones."""
LAST_AGE = 1_500_000_000
"""Transactions; the server refuses to write when a table's oldest row is 2.1 billion old."""

# What these tables hold changes all the time, so vacuum must not wait for a share of their rows.
_HOT = ("deliveries", "rpc_requests", "rpc_responses")
_OPTION = "autovacuum_vacuum_scale_factor=0"
_SETTINGS = ("autovacuum", "autovacuum_freeze_max_age")


@dataclass(frozen=True, slots=True)
class Tables:
    """The evidence: the tables, and the server's settings of autovacuum."""

    tables: tuple[TableHealth, ...]
    settings: Mapping[str, str]
    namespace: str


async def read(patient: Patient) -> Tables:
    """Return the statistics of all tables."""
    store = patient.store
    return Tables(await doctor.read_tables(store), await doctor.read_server_settings(store, _SETTINGS), store.namespace)


def _judge_autovacuum(found: Tables) -> Judgement:
    if found.settings["autovacuum"] != "on":
        return fault("autovacuum is off: dead rows are never removed", "ALTER SYSTEM SET autovacuum = on")
    without = [one.name for one in found.tables if "autovacuum_enabled=false" in one.options]
    if without:
        return fault(
            f"autovacuum is off for {listed(without)}",
            f"ALTER TABLE {found.namespace}.{without[0]} RESET (autovacuum_enabled)",
        )
    return ok("autovacuum is on")


def _judge_dead_rows(found: Tables) -> Judgement:
    most = max(found.tables, key=lambda one: one.dead_rows)
    if most.dead_rows < DEAD_ROWS or most.dead_rows < 10 * most.live_rows:
        return ok(f"at most {most.dead_rows:,} dead rows in a table")
    return warning(
        f"{most.name} has {most.dead_rows:,} dead rows and {most.live_rows:,} live ones: vacuum does not keep up, "
        "or something keeps them (see open-transactions)",
        f"VACUUM {found.namespace}.{most.name}",
    )


def _judge_options(found: Tables) -> Judgement:
    without = [one.name for one in found.tables if one.name in _HOT and _OPTION not in one.options]
    if without:
        return warning(
            f"{listed(without)} lost the storage option {_OPTION}: vacuum comes too late",
            f"ALTER TABLE {found.namespace}.{without[0]} SET (autovacuum_vacuum_scale_factor = 0, "
            "autovacuum_vacuum_threshold = 1000)",
        )
    return ok("hot tables have their storage options")


def _judge_age(found: Tables) -> Judgement:
    oldest = max(found.tables, key=lambda one: one.xids)
    usual = int(found.settings["autovacuum_freeze_max_age"])
    if oldest.xids < 2 * usual and oldest.xids < LAST_AGE:
        return ok(f"the oldest row is {oldest.xids:,} transactions old")
    judged = fault if oldest.xids >= LAST_AGE else warning
    return judged(
        f"the oldest row of {oldest.name} is {oldest.xids:,} transactions old, and vacuum should have frozen it at "
        f"{usual:,}",
        f"VACUUM (FREEZE, VERBOSE) {found.namespace}.{oldest.name}",
    )


GROUP = Group(
    "tables",
    read,
    (
        Check("autovacuum", "Without autovacuum dead rows are never removed", _judge_autovacuum),
        Check("dead-rows", "Dead rows that stay make every look and every claim slower", _judge_dead_rows),
        Check("storage-options", "Hot tables need vacuum early, whatever their size", _judge_options),
        Check("freezing", "A server whose old rows are not frozen refuses all writes in the end", _judge_age),
    ),
)
