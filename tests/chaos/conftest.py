from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.chaos.stage import Stage


@pytest.fixture
async def stage(database: str, tmp_path: Path) -> AsyncIterator[Stage]:
    """A database with the chaos tables, and worker processes on it that end with the test."""
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(Stage(database, logs=tmp_path))
