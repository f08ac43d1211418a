"""Transactional handlers of three kinds that write a number to the table `ledger`."""

from __future__ import annotations

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

import pgbus

WRITE = "INSERT INTO ledger (n) VALUES ($1)"


async def ledger(connection: asyncpg.Connection) -> list[int]:
    return [row["n"] for row in await connection.fetch("SELECT n FROM ledger ORDER BY n")]


async def asyncpg_handler(event: dict[str, int], connection: asyncpg.Connection, context: pgbus.Context) -> None:
    await connection.execute(WRITE, event["n"])
    await _act(event, context)


async def async_session_handler(event: dict[str, int], session: AsyncSession, context: pgbus.Context) -> None:
    await session.execute(text("INSERT INTO ledger (n) VALUES (:n)"), {"n": event["n"]})
    await _act(event, context)


def session_handler(event: dict[str, int], session: Session, context: pgbus.Context) -> None:
    session.execute(text("INSERT INTO ledger (n) VALUES (:n)"), {"n": event["n"]})
    if event.get("fail", 0) >= context.attempt:
        raise ValueError("after the write")
    if "then" in event:
        context.publish_sync({"n": event["then"]}, topic="ledger.written")


async def _act(event: dict[str, int], context: pgbus.Context) -> None:
    if event.get("fail", 0) >= context.attempt:
        raise ValueError("after the write")
    if "then" in event:
        await context.publish({"n": event["then"]}, topic="ledger.written")


KINDS = pytest.mark.parametrize(
    "handler", [asyncpg_handler, async_session_handler, session_handler], ids=["asyncpg", "AsyncSession", "Session"]
)
