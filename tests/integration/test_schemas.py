"""Schemas in the database: published by workers and by processes that fire, read by others, told when they change."""

import asyncio
import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import asyncpg
import pytest

import pgbus
from pgbus import Api, Event, Parameter
from pgbus.database.statements.schemas import HashedSchema, publish_schemas
from pgbus.database.store import Store
from pgbus.errors import RemoteSchemasNotLoaded, SchemaNotFound, UnknownApi, ValidationError
from pgbus.schema.stored import Block, StoredSchemas
from pgbus.telemetry import SessionOpened
from tests.conftest import Connect
from tests.support import eventually
from tests.support.workers import Watch, open_bus, running


class User(NamedTuple):
    username: str
    email: str = ""


class AuthApi(Api):
    user_created = Event(parameters=(Parameter("username", str), Parameter("email", str, default="")))

    class Meta:
        name = "auth"

    def check_password(self, username: str, password: str) -> bool:
        return password == "secret"

    def find(self, user: User) -> User | None:
        return user


async def rows(connection: asyncpg.Connection, columns: str, where: str = "true") -> list[tuple[Any, ...]]:
    found = await connection.fetch(
        f"SELECT {columns} FROM pgbus.schema_versions WHERE {where} ORDER BY kind, name, version"
    )
    return [tuple(row) for row in found]


AUTH = "name LIKE 'auth.%'"


async def test_a_worker_publishes_what_it_speaks_and_it_is_kept_when_it_stops(
    database: str, connection: asyncpg.Connection
) -> None:
    columns = "kind, name, api, service, version, is_live, workers"
    async with open_bus(database, service_name="auth-service", process_name="one") as bus:
        bus.client.register_api(AuthApi())
        async with running(bus):
            assert await rows(connection, columns, AUTH) == [
                ("event", "auth.user_created", "auth", "auth-service", 1, True, ["one"]),
                ("procedure", "auth.check_password", "auth", "auth-service", 1, True, ["one"]),
                ("procedure", "auth.find", "auth", "auth-service", 1, True, ["one"]),
            ]
    assert (
        await rows(connection, "version, is_live, workers, last_seen_at > published_at", AUTH)
        == [(1, False, [], True)] * 3
    )


async def test_a_stored_schema_says_what_the_event_and_the_procedure_take(
    database: str, connection: asyncpg.Connection
) -> None:
    async with open_bus(database) as bus:
        bus.client.register_api(AuthApi())
        async with running(bus):
            found = {name: json.loads(schema) for name, schema in await rows(connection, "name, schema", AUTH)}
    assert found["auth.user_created"]["parameters"] == {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Event auth.user_created parameters",
        "type": "object",
        "properties": {"username": {"type": "string"}, "email": {"type": "string", "default": ""}},
        "required": ["username"],
        "additionalProperties": False,
    }
    assert found["auth.find"]["parameters"]["title"] == "RPC auth.find() parameters"
    assert found["auth.find"]["response"]["title"] == "RPC auth.find() response"
    assert found["auth.check_password"]["response"]["type"] == "boolean"


async def test_a_listener_says_what_it_takes(database: str, connection: asyncpg.Connection) -> None:
    @dataclass
    class Created:
        username: str

    async with open_bus(database, service_name="mail") as bus:

        @bus.listener("auth.user_created", name="typed")
        async def typed(event: Created) -> None: ...

        def named(event, username: str, **others: object) -> None: ...  # type: ignore[no-untyped-def] # as users do

        bus.auth.user_created.listen(named, listener_name="named")
        async with running(bus):
            found = dict(await rows(connection, "name, schema", "kind = 'listener'"))
    typed_schema = json.loads(found["typed"])["events"]["auth.user_created"]
    assert typed_schema["properties"] == {"username": {"type": "string"}}
    named_schema = json.loads(found["mail-named"])["events"]["auth.user_created"]
    assert named_schema["required"] == ["username"]
    assert named_schema["additionalProperties"] is True


async def test_an_event_class_is_published_under_its_topic(database: str, connection: asyncpg.Connection) -> None:
    @pgbus.event("shop.order_placed")
    @dataclass
    class Placed:
        order_id: int

    async with open_bus(database) as bus, running(bus):
        [(schema,)] = await rows(connection, "schema", "name = 'shop.order_placed'")
    assert json.loads(schema)["parameters"]["title"] == "Event shop.order_placed parameters"
    assert Placed.__name__ == "Placed"


async def test_a_change_is_a_new_version_and_a_rollback_the_old_one_again(
    database: str, connection: asyncpg.Connection
) -> None:
    class Changed(AuthApi):
        class Meta:
            name = "auth"

        def check_password(self, username: str, password: str, code: int = 0) -> bool:
            return True

    for api in (AuthApi(), Changed(), AuthApi()):
        async with open_bus(database) as bus:
            bus.client.register_api(api)
            async with running(bus):
                pass
    columns = "version, published_at = (SELECT max(published_at) FROM pgbus.schemas AS o WHERE o.name = v.name)"
    found = await connection.fetch(
        f"SELECT {columns} FROM pgbus.schemas AS v WHERE name = 'auth.check_password' ORDER BY version"
    )
    assert [tuple(row) for row in found] == [(1, True), (2, False)]


async def test_a_process_that_fires_publishes_its_events_once(database: str, connection: asyncpg.Connection) -> None:
    async with open_bus(database, service_name="web") as bus:
        bus.client.register_api(AuthApi())
        await bus.auth.user_created.fire_async(username="a")
        [first] = await rows(connection, "kind, name, service, is_live, published_at", AUTH)
        assert first[:4] == ("event", "auth.user_created", "web", False)
        await bus.auth.user_created.fire_async(username="b")
        assert await rows(connection, "kind, name, service, is_live, published_at", AUTH) == [first]


async def test_firing_works_where_schemas_cannot_be_stored(database: str, connection: asyncpg.Connection) -> None:
    await connection.execute("ALTER TABLE pgbus.schemas ADD CHECK (name = '')")
    async with open_bus(database) as bus:
        bus.client.register_api(AuthApi())
        await bus.auth.user_created.fire_async(username="a")
    assert await connection.fetchval("SELECT count(*) FROM pgbus.outbox") == 1


async def test_workers_that_start_at_once_store_one_version(database: str, connection: asyncpg.Connection) -> None:
    import asyncio

    async def start() -> None:
        async with open_bus(database) as bus:
            bus.client.register_api(AuthApi())
            async with running(bus):
                pass

    await asyncio.gather(*(start() for _ in range(4)))
    assert await rows(connection, "version", AUTH) == [(1,)] * 3


async def test_what_is_declared_while_a_worker_runs_is_published_too(
    database: str, connection: asyncpg.Connection
) -> None:
    async with open_bus(database, process_name="one") as bus:
        bus.client.register_api(AuthApi())
        async with running(bus):

            @bus.procedure("late.add")
            async def add(a: int, b: int) -> int:
                return a + b

            async def is_live() -> bool:
                return await rows(connection, "is_live", "name = 'late.add'") == [(True,)]

            await eventually(is_live)
            assert await rows(connection, "is_live", AUTH) == [(True,)] * 3


async def test_a_worker_that_reconnects_does_not_log_its_schema_version_again(
    database: str, connection: asyncpg.Connection
) -> None:
    async with open_bus(database) as bus:
        bus.client.register_api(AuthApi())
        async with running(bus):
            before = await rows(connection, "published_at", AUTH)
            watch = Watch(bus)
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_locks "
                "WHERE locktype = 'advisory' AND granted AND pid <> pg_backend_pid()"
            )
            await watch.first(SessionOpened)
            assert await rows(connection, "published_at", AUTH) == before
            await until_live(connection)


async def until_live(connection: asyncpg.Connection) -> None:
    async def is_live() -> bool:
        return await rows(connection, "is_live", AUTH) == [(True,)] * 3

    await eventually(is_live)


# ------------------------------------------------------------------------------------------------------ other processes


async def test_another_process_sees_schemas_and_validates_by_path(database: str) -> None:
    async with open_bus(database) as server, open_bus(database) as bus:
        server.client.register_api(AuthApi())
        async with running(server):
            with pytest.raises(RemoteSchemasNotLoaded, match="ensure_loaded_from_bus"):
                _ = bus.auth.check_password.parameter_schema
            await bus.schema.ensure_loaded_from_bus()
            assert "auth" in bus.schema.api_names
            assert ("auth", "user_created") in bus.schema.events
            assert ("auth", "check_password") in bus.schema.rpcs
            assert set(bus.schema.get_api_schema("auth")["rpcs"]) == {"check_password", "find"}
            assert bus.auth.check_password.parameter_schema["required"] == ["username", "password"]
            assert bus.auth.check_password.response_schema["type"] == "boolean"
            bus.auth.check_password.validate_parameters({"username": "a", "password": "b"})
            bus.auth.find.validate_parameters({"user": User("a")})
            bus.auth.user_created.validate_parameters({"username": "a"})
            bus.auth.check_password.validate_response(True)
            with pytest.raises(ValidationError, match="password"):
                bus.auth.check_password.validate_parameters({"username": "a"})
            with pytest.raises(ValidationError, match=r"`user\.username`: 1 is not of type"):
                bus.auth.find.validate_parameters({"user": {"username": 1}})
            with pytest.raises(ValidationError, match="boolean"):
                bus.auth.check_password.validate_response("yes")
            with pytest.raises(SchemaNotFound, match=r"auth\.nothing"):
                _ = bus.auth.nothing.parameter_schema
            with pytest.raises(SchemaNotFound, match="'pay'"):
                bus.schema.get_api_schema("pay")


async def test_a_call_is_checked_by_the_caller_before_it_is_sent(database: str, connection: asyncpg.Connection) -> None:
    async with open_bus(database) as server, open_bus(database) as bus:
        server.client.register_api(AuthApi())
        async with running(server):
            assert await bus.auth.check_password.call_async(username="a", password="secret") is True
            with pytest.raises(ValidationError, match=r"auth\.check_password .*1 is not of type \"string\""):
                await bus.auth.check_password.call_async(username=1, password="secret")
            assert await connection.fetchval("SELECT count(*) FROM pgbus.rpc_requests") == 1


async def test_no_call_is_checked_where_validation_is_off(database: str, connection: asyncpg.Connection) -> None:
    settings = {"auth": {"validate": {"outgoing": False}}}
    async with open_bus(database) as server, open_bus(database, apis=settings) as bus:
        server.client.register_api(AuthApi())
        async with running(server):
            with pytest.raises(pgbus.InvalidArguments):
                await bus.auth.check_password.call_async(username=1, password="secret")
            assert await connection.fetchval("SELECT count(*) FROM pgbus.rpc_requests") == 1


async def test_strict_validation_refuses_what_nobody_knows(database: str) -> None:
    settings = {"default": {"strict_validation": True}}
    async with open_bus(database) as server, open_bus(database, apis=settings) as bus:
        server.client.register_api(AuthApi())
        async with running(server):
            with pytest.raises(UnknownApi, match="pay"):
                await bus.pay.order.call_async()
            with pytest.raises(SchemaNotFound, match="nothing"):
                await bus.auth.nothing.call_async()
            assert await bus.auth.check_password.call_async(username="a", password="secret") is True


async def test_a_process_is_told_of_a_change(database: str) -> None:
    class Changed(Api):
        class Meta:
            name = "auth"

        def check_password(self, username: str, password: str, code: int) -> bool:
            return True

    async with open_bus(database) as bus:
        async with open_bus(database) as server:
            server.client.register_api(AuthApi())
            async with running(server):
                await bus.auth.check_password.call_async(username="a", password="b")
        async with open_bus(database) as server:
            server.client.register_api(Changed())
            async with running(server):
                await eventually(lambda: "code" in bus.auth.check_password.parameter_schema["properties"])
                with pytest.raises(ValidationError, match="code"):
                    await bus.auth.check_password.call_async(username="a", password="b")


def test_code_that_blocks_reads_what_is_stored(database: str) -> None:
    bus = pgbus.create(database)
    bus.client.register_api(AuthApi())
    try:
        assert "auth" in bus.schema.api_names
        with pytest.raises(SchemaNotFound):
            bus.schema.get_event_schema("pay", "paid")
    finally:
        bus.close_sync()


def test_the_code_tells_of_its_own_apis_without_a_database() -> None:
    bus = pgbus.create("postgresql://nobody@127.0.0.1:1/nowhere")
    bus.client.register_api(AuthApi())
    assert bus.auth.user_created.parameter_schema["required"] == ["username"]
    bus.auth.user_created.validate_parameters({"username": "a", "email": "b"})


# ---------------------------------------------------------------------------------------------------------------- files


async def test_schemas_go_to_a_file_and_come_from_one(database: str, tmp_path: Path) -> None:
    async with open_bus(database) as bus:
        bus.client.register_api(AuthApi())
        await bus.schema.ensure_loaded_from_bus()
        bus.schema.save_local(tmp_path / "all.json")
        bus.schema.save_local(f"{tmp_path}/apis/")
    written = json.loads((tmp_path / "all.json").read_text())
    assert json.loads((tmp_path / "apis" / "auth.json").read_text()) == {"auth": written["auth"]}
    with (tmp_path / "all.json").open() as stream:
        for source in (tmp_path / "all.json", tmp_path / "apis", stream):
            async with open_bus(database) as other:
                other.schema.load_local(source)
                assert other.auth.find.parameter_schema == written["auth"]["rpcs"]["find"]["parameters"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "is not JSON"),
        ("[]", "not a JSON object of APIs"),
        ('{"auth": {"events": {"x": {}}}}', "auth.x has no 'parameters'"),
        ('{"auth": {"event": {}}}', "'events' and 'rpcs'"),
    ],
)
def test_a_file_without_schemas_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "x.json").write_text(text)
    bus = pgbus.create("postgresql://nobody@127.0.0.1:1/nowhere")
    with pytest.raises(pgbus.errors.InvalidSchema, match=complaint):
        bus.schema.load_local(tmp_path / "x.json")
    with pytest.raises(pgbus.errors.InvalidSchema, match="cannot read"):
        bus.schema.load_local(tmp_path / "y.json")


# ------------------------------------------------------------------------------------------------------------- warnings


async def test_a_worker_warns_of_what_its_code_breaks(database: str, caplog: pytest.LogCaptureFixture) -> None:
    class Less(Api):
        user_created = Event(parameters=(Parameter("name", str),))

        class Meta:
            name = "auth"

        def check_password(self, username: str, password: str, code: int) -> bool:
            return True

    def welcome(event: pgbus.EventMessage, username: str, email: str) -> None: ...

    async with open_bus(database, service_name="mail") as mail, open_bus(database, service_name="auth") as old:
        old.client.register_api(AuthApi())
        mail.auth.user_created.listen(welcome, listener_name="welcome")
        with caplog.at_level(logging.WARNING):
            async with running(mail), running(old):
                assert "does not fit" not in caplog.text
                async with open_bus(database, service_name="auth") as new:
                    new.client.register_api(Less())
                    async with running(new):
                        pass
    assert (
        "event auth.user_created would break listener mail-welcome of service mail: `username` is needed, and is "
        "missing; `email` is needed, and is missing; `name` is sent, and is not taken"
    ) in caplog.text
    assert (
        "procedure auth.check_password would break callers that know its version 1: `code` is needed, and is missing"
    ) in caplog.text


class Late:
    """A runner whose answers are here, and are handed on when they are let go."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self.has_read, self.go_on = asyncio.Event(), asyncio.Event()

    async def fetch(self, query: str, *args: Any) -> list[Any]:
        rows: list[Any] = await self._connection.fetch(query, *args)
        self.has_read.set()
        await self.go_on.wait()
        return rows


async def test_a_read_that_takes_long_does_not_bring_back_what_has_changed_since(
    database: str, connection: asyncpg.Connection, connect: Connect
) -> None:
    store, late = Store(connection, namespace="pgbus"), Late(await connect(database))
    stored = StoredSchemas(store=store, block=cast("Block", None))
    old = asyncio.create_task(stored.load(Store(late, namespace="pgbus")))
    await late.has_read.wait()
    text = '{"parameters": {"type": "object"}}'
    new = HashedSchema("event", "a.b", text, hash=hashlib.sha256(text.encode()).hexdigest())
    await publish_schemas(store, [new], service="shop", channel="schemas")
    stored.drop()
    await stored.load()
    late.go_on.set()
    await old
    assert stored.seen is not None
    assert list(stored.seen) == [("event", "a.b")]
