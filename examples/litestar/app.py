"""Sign-ups: a user and the event of it are committed together, and a worker sends the mails.

litestar run
litestar pgbus run
"""

from dataclasses import dataclass

import asyncpg
from advanced_alchemy.extensions.litestar import SQLAlchemyAsyncConfig, SQLAlchemyPlugin
from litestar import Litestar, Request, get, post
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.exceptions import ClientException
from litestar.params import JSONBody
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

import pgbus
from pgbus.contrib.litestar import PgBusPlugin, listener

bus = pgbus.create(service_name="accounts")
database = SQLAlchemyAsyncConfig(
    connection_string=bus.config.sqlalchemy_url("asyncpg"),
    before_send_handler="autocommit",
)


@dataclass
class NewUser:
    email: str


@dataclass
class User:
    id: int
    email: str


@post("/users")
async def create_user(
    data: JSONBody[NewUser], request: Request[None, None, State], db_session: NamedDependency[AsyncSession]
) -> User:
    statement = text("INSERT INTO users (email) VALUES (:email) RETURNING id")
    user = User(await db_session.scalar(statement, {"email": data.email}), data.email)
    request.app.emit("user_created", user=user)
    if "@" not in user.email:
        raise ClientException(f"{user.email!r} is not an e-mail address")
    return user


@get("/mails")
async def count_mails(db_session: NamedDependency[AsyncSession]) -> dict[str, int]:
    return {"mails": await db_session.scalar(text("SELECT count(*) FROM mails"))}


@listener("user_created", transactional=True, start="beginning")
async def send_welcome_mail(user: User, connection: asyncpg.Connection) -> None:
    await connection.execute("INSERT INTO mails (user_id, address) VALUES ($1, $2)", user.id, user.email)


app = Litestar(
    [create_user, count_mails],
    listeners=[send_welcome_mail],
    plugins=[PgBusPlugin(bus, role="producer"), SQLAlchemyPlugin(database)],
)
