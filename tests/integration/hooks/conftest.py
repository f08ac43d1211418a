"""A bus of a service that speaks for `auth`."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

import pgbus
from tests.support.workers import open_bus


class AuthApi(pgbus.Api):
    user_created = pgbus.Event(parameters=("username",))

    class Meta:
        name = "auth"

    def greet(self, username: str) -> str:
        return f"hello {username}"


@pytest.fixture
async def bus(database: str) -> AsyncIterator[pgbus.Bus]:
    async with open_bus(database) as opened:
        opened.client.register_api(AuthApi())
        yield opened
