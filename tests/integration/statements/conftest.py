"""Two sessions of one fresh bus."""

from __future__ import annotations

import pytest

from tests.conftest import Connect
from tests.support.bench import Bench


@pytest.fixture
async def bench(database: str, connect: Connect) -> Bench:
    return Bench(await connect(database))


@pytest.fixture
async def other(database: str, connect: Connect) -> Bench:
    """A second session."""
    return Bench(await connect(database))
