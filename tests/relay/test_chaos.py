"""A short form of the chaos of relays: each fault once on the way of a few hundred events."""

from __future__ import annotations

from pathlib import Path

from pgbus.embedded import EmbeddedPostgres
from tests.relay.brokers import Nats
from tests.relay.chaos import FAULTS, run


async def test_nothing_is_lost_doubled_or_disordered_when_relays_broker_and_database_are_killed(
    own_server: EmbeddedPostgres, tmp_path: Path
) -> None:
    broker = Nats(tmp_path)
    broker.start()
    try:
        verdict = await run(broker, own_server, events=300, faults=FAULTS, directory=tmp_path)
    finally:
        broker.stop()
    assert verdict.holds, verdict
