"""The shop's own tables, in the same database as the bus."""

from typing import TypeAlias

import asyncpg
from asyncpg.pool import PoolConnectionProxy

Connection: TypeAlias = asyncpg.Connection | PoolConnectionProxy

SKUS = ("apples", "bread", "cheese", "dates", "eggs", "figs", "grapes", "honey")

# Reservations have no unique key on purpose: if an event were handled twice, there would be two rows.
_TABLES = """
    CREATE SCHEMA IF NOT EXISTS shop;
    CREATE TABLE IF NOT EXISTS shop.orders (
        id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        customer  text    NOT NULL,
        sku       text    NOT NULL,
        quantity  integer NOT NULL,
        cents     integer NOT NULL,
        placed_at timestamptz NOT NULL DEFAULT now()
    );
    CREATE TABLE IF NOT EXISTS shop.stock (
        sku      text PRIMARY KEY,
        quantity bigint NOT NULL
    );
    CREATE TABLE IF NOT EXISTS shop.reservations (
        order_id bigint  NOT NULL,
        quantity integer NOT NULL
    );
    CREATE TABLE IF NOT EXISTS shop.dashboard (
        sku    text PRIMARY KEY,
        orders bigint NOT NULL,
        cents  bigint NOT NULL
    );
"""


async def create_tables(connection: Connection) -> None:
    await connection.execute(_TABLES)
    await connection.executemany(
        "INSERT INTO shop.stock VALUES ($1, 1000000) ON CONFLICT DO NOTHING", [(sku,) for sku in SKUS]
    )
