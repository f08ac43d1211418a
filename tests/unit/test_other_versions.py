"""When an event that a worker cannot read waits for another worker."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from pgbus.database.statements.schemas import OtherVersions
from pgbus.listeners.other_versions import reason_to_wait
from pgbus.messages import EventMessage

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
LONG_AGO = NOW - timedelta(hours=2)
PATIENCE = 3600.0


def event(published_at: datetime = LONG_AGO) -> EventMessage:
    return EventMessage(topic="orders.placed", raw="{}", event_id=uuid4(), published_at=published_at)


def test_without_a_sign_of_a_deploy_it_does_not_wait() -> None:
    assert reason_to_wait(OtherVersions(NOW), event(NOW), patience=PATIENCE) is None


def test_it_waits_for_a_worker_with_another_version() -> None:
    found = OtherVersions(NOW, worker="mail-2", worker_since=NOW, topic="orders.placed", version=2, version_since=NOW)
    reason = reason_to_wait(found, event(), patience=PATIENCE)
    assert reason == "left to another version of the listener, which mail-2 runs"


def test_it_waits_for_a_listener_that_reads_the_newer_version() -> None:
    found = OtherVersions(NOW, topic="orders.placed", version=2, version_since=NOW)
    reason = reason_to_wait(found, event(), patience=PATIENCE)
    assert reason == "version 2 of orders.placed is newer than this listener: left to one that reads it"


@pytest.mark.parametrize(
    ("sign", "published_at", "waits"),
    [
        (NOW, LONG_AGO, True),
        (LONG_AGO, NOW, True),
        (LONG_AGO, LONG_AGO, False),
        (NOW - timedelta(seconds=PATIENCE), LONG_AGO, True),
        (NOW - timedelta(seconds=PATIENCE + 1), LONG_AGO, False),
    ],
)
def test_it_is_given_up_when_it_and_the_newest_sign_are_old(
    sign: datetime, published_at: datetime, *, waits: bool
) -> None:
    for found in (
        OtherVersions(NOW, worker="mail-2", worker_since=sign),
        OtherVersions(NOW, topic="orders.placed", version=2, version_since=sign),
    ):
        assert (reason_to_wait(found, event(published_at), patience=PATIENCE) is not None) is waits
