"""A short form of the chaos of relays: each fault once on the way of a few hundred events."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgbus.embedded import EmbeddedPostgres
from tests.relay.chaos import FAULTS, open_way, run


@pytest.mark.timeout(600)  # processes start, die and start again, on a machine that may be busy
async def test_nothing_is_lost_doubled_or_disordered_when_relays_broker_and_database_are_killed(
    own_server: EmbeddedPostgres, tmp_path: Path
) -> None:
    with open_way("nats", tmp_path) as way:
        verdict = await run(way, own_server, events=300, faults=FAULTS, directory=tmp_path)
    assert verdict.holds, verdict
