"""The server as this process reaches it: room for sessions, what ends them, and the clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from pgbus.config import Config
from pgbus.database.statements import doctor
from pgbus.database.statements.doctor import Connections
from pgbus.doctor.checks import Check, Group, Judgement, Patient, fault, ok, warning
from pgbus.telemetry.figures import duration

SKEW = 1.0
"""Seconds by which clocks may differ; with a minute it is a fault."""

# In milliseconds, 0: never. The engine's own sessions set them to 0; those of handlers and publishers do not.
_TIMEOUTS = ("statement_timeout", "idle_in_transaction_session_timeout", "transaction_timeout")
_SETTINGS = (*_TIMEOUTS, "max_connections", "superuser_reserved_connections")


@dataclass(frozen=True, slots=True)
class Reached:
    """The evidence; `skew` is how many seconds our clock is ahead of the server's."""

    config: Config
    connections: Connections
    settings: Mapping[str, str]
    skew: float


async def read(patient: Patient) -> Reached:
    """Return sessions, settings and the difference of the clocks."""
    connections = await doctor.read_connections(patient.store)
    settings = await doctor.read_server_settings(patient.store, _SETTINGS)
    before = patient.clock()
    servers = await doctor.read_clock(patient.store)
    return Reached(patient.config, connections, settings, _skew(before, servers, patient.clock()))


def _skew(before: datetime, servers: datetime, after: datetime) -> float:
    """How far our clock is ahead of the server's, in seconds; what the round trip took is not counted."""
    if before <= servers <= after:
        return 0.0
    return (before - servers).total_seconds() if servers < before else (after - servers).total_seconds()


def _judge_room(found: Reached) -> Judgement:
    limit = int(found.settings["max_connections"]) - int(found.settings["superuser_reserved_connections"])
    used = found.connections.used
    evidence = f"{used} of {limit} connections are used, {found.connections.workers} of the users are live workers"
    if used < 0.8 * limit:
        return ok(evidence)
    judged = fault if used >= 0.95 * limit else warning
    return judged(evidence, "PGBUS_POOL_SIZE=2, a pooler for `dsn`, or ALTER SYSTEM SET max_connections")


def _judge_standby(found: Reached) -> Judgement:
    if found.connections.read_only:
        return fault("this server is a standby that cannot be written to", "PGBUS_DSN=postgresql://the-primary/name")
    return ok("the server can be written to")


def _judge_timeouts(found: Reached) -> Judgement:
    limits = {name: int(found.settings.get(name, "0")) / 1000 for name in _TIMEOUTS}
    short = {name: limit for name, limit in limits.items() if 0 < limit < found.config.lease}
    if short:
        name = min(short, key=lambda one: short[one])
        return warning(
            f"{name} is {short[name]:g} s for this user: the server ends the transactions of handlers that take "
            "longer, and their events are tried again",
            f"ALTER ROLE CURRENT_USER SET {name} = 0",
        )
    return ok(f"no timeout of the server is shorter than the lease of {duration(found.config.lease)}")


def _judge_encryption(found: Reached) -> Judgement:
    if found.connections.encrypted or found.connections.is_local:
        return ok("encrypted" if found.connections.encrypted else "on the same machine")
    return warning(
        "events and the password's proof cross the network without TLS",
        "PGBUS_DSN=postgresql://...?sslmode=verify-full",
    )


def _judge_clock(found: Reached) -> Judgement:
    if abs(found.skew) < SKEW:
        return ok(f"the clocks differ by less than {SKEW:.0f} s")
    judged = fault if abs(found.skew) >= 60 else warning
    ahead = "ahead of" if found.skew > 0 else "behind"
    return judged(
        f"this machine's clock is {duration(abs(found.skew))} {ahead} the server's: instants that people see, and "
        "`deliver_at` from this machine, are off by as much",
        "timedatectl set-ntp true",
    )


GROUP = Group(
    "connections",
    read,
    (
        Check("connection-room", "A worker that gets no connection cannot work", _judge_room),
        Check("standby", "On a standby nothing can be claimed", _judge_standby),
        Check("timeouts", "A timeout of the server ends transactions of handlers", _judge_timeouts),
        Check("encryption", "Without TLS the network sees every event", _judge_encryption),
        Check("clock", "A clock that is off schedules events at the wrong time", _judge_clock),
    ),
)
