"""`Config.sqlalchemy_url`: one DSN for the bus and for SQLAlchemy."""

from __future__ import annotations

from typing import Literal

import pytest
from sqlalchemy import make_url

import pgbus
from pgbus.config import read_dsn


def _url(dsn: str | None, driver: Literal["psycopg", "asyncpg"]) -> str:
    return pgbus.Config(dsn=dsn).sqlalchemy_url(driver)


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://ada:p%40ss%2Fw@db:5433/shop",
        "postgres://ada:p%40ss%2Fw@db:5433/shop",
        "postgresql+asyncpg://ada:p%40ss%2Fw@db:5433/shop",
        "postgresql://db:5433/shop?user=ada&password=p%40ss%2Fw",
    ],
)
def test_the_parts_of_a_dsn_are_those_of_the_url(dsn: str, driver: Literal["psycopg", "asyncpg"]) -> None:
    url = make_url(_url(dsn, driver))
    assert (url.drivername, url.username, url.password) == (f"postgresql+{driver}", "ada", "p@ss/w")
    assert (url.host, url.port, url.database) == ("db", 5433, "shop")


def test_a_socket_and_keywords_become_parameters() -> None:
    assert _url("postgresql:///shop?host=/run/pg", "asyncpg") == "postgresql+asyncpg:///shop?host=/run/pg"
    assert _url("host=db port=5433 dbname=shop user=ada", "psycopg") == (
        "postgresql+psycopg://ada@/shop?host=db&port=5433"
    )


def test_several_hosts_are_named_as_sqlalchemy_wants_them() -> None:
    assert _url("postgresql://ada@a:1,b:2/shop", "psycopg") == "postgresql+psycopg://ada@/shop?host=a:1&host=b:2"


def test_each_driver_has_its_own_name_for_tls() -> None:
    assert _url("postgresql://db/shop?sslmode=require", "asyncpg") == "postgresql+asyncpg://db/shop?ssl=require"
    assert _url("postgresql://db/shop?ssl=true", "psycopg") == "postgresql+psycopg://db/shop?sslmode=require"


def test_what_no_url_can_say_to_asyncpg_is_refused_with_what_to_do() -> None:
    with pytest.raises(pgbus.ConfigurationError, match=r"'search_path'.*connect_args"):
        _url("postgresql://db/shop?search_path=a", "asyncpg")


def test_without_a_dsn_the_drivers_read_their_variables() -> None:
    assert _url(None, "psycopg") == "postgresql+psycopg://"


def test_the_url_is_a_dsn_of_the_bus_again() -> None:
    dsn = "postgresql://ada:p%40ss@db:5433/shop?sslmode=require"
    assert read_dsn(_url(dsn, "psycopg")) == dsn
