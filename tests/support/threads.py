"""Blocking code in a thread of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from tests.support.waiting import PATIENCE


async def in_thread(function: Callable[[], Any]) -> Any:
    return await asyncio.wait_for(asyncio.to_thread(function), PATIENCE)
