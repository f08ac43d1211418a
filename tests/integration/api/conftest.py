"""A bus of a service that speaks for `auth`."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

import pgbus
from tests.support.auth import AuthApi


@pytest.fixture
async def bus(database: str) -> AsyncIterator[pgbus.Bus]:
    """A bus of a service that speaks for `auth`."""
    async with pgbus.create(database) as bus:
        bus.client.register_api(AuthApi())
        yield bus
