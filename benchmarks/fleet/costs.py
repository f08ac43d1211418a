"""The measured costs of what a fleet does; `costs.json` holds them, with their date and machine."""

from __future__ import annotations

from pathlib import Path

import msgspec

FILE = Path(__file__).with_name("costs.json")


class Costs(msgspec.Struct, frozen=True, kw_only=True):
    """Microseconds of CPU on the server, unless the name says otherwise."""

    measured: str
    """When, where and with which versions."""
    publish: float
    """A transaction of one event."""
    look: float
    """A look of the leader that finds nothing."""
    look_writes: float
    """What a look costs more when it writes."""
    look_event: float
    """What it costs more for each event."""
    look_delivery: float
    """What it costs more for each delivery: a run of events that one listener hears."""
    leader_client: float
    """CPU of the leader's own process for a look that writes."""
    leader_client_event: float
    """The same, for each event."""
    notify: float
    """A NOTIFY that nobody hears."""
    notify_session: float
    """What it costs the session that sends it, for each session that hears it."""
    hear: float
    """What it costs each session that hears it."""
    claim_nothing: float
    claim: float
    """A claim of some events."""
    claim_event: float
    settle: float
    settle_event: float
    idle_look: float
    """A worker's look whether somebody leads."""
    connect: float
    """Opening a session."""
    session_kb: float
    """Private memory of a session that has done its work, in KB."""
    worker_sessions: float
    """Sessions of a worker's process that does not lead."""


def load(path: Path = FILE) -> Costs:
    return msgspec.json.decode(path.read_bytes(), type=Costs)


def save(costs: Costs, path: Path = FILE) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(costs), indent=2) + b"\n")
