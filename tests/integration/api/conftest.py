"""A bus of a service that speaks for `auth`."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

import pgbus
from tests.support.auth import AuthApi
from tests.support.workers import RPC_TIMEOUT


@pytest.fixture
async def bus(database: str) -> AsyncIterator[pgbus.Bus]:
    """A bus of a service that speaks for `auth`."""
    async with pgbus.create(database, rpc_timeout=RPC_TIMEOUT) as bus:
        bus.client.register_api(AuthApi())
        yield bus
