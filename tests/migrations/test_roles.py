"""What a member of each group role may do, and what is refused."""

import asyncio
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import asyncpg
import pytest

import pgbus
from pgbus import migrate
from pgbus.database import sql
from pgbus.database.sql import rights
from pgbus.database.statements.charts import chart_queries
from pgbus.errors import PrivilegeError, SchemaVersionError
from tests.conftest import Connect
from tests.migrations.conftest import PASSWORD, drop_roles, dsn_of_user
from tests.support import DatabaseServer
from tests.support.grafana import expanded
from tests.support.waiting import PATIENCE
from tests.support.workers import RPC_TIMEOUT, running

VERBS = ("SELECT", "INSERT", "UPDATE", "DELETE")
VIEWS = (
    "attempts", "event_history", "pending", "listener_lag", "dead", "scheduled", "rpc_calls", "schema_versions",
    "live_workers", "running", "timetable", "schedule_history", "audit_trail",
)  # fmt: skip
RECORD = ("operations", "operation_steps", "operation_items", "removed_listeners")
SIZE = 1_000_000_000
READ = (
    "outbox", "events", "history", "causes", "listeners", "subscriptions", "declarations", "dead_letters", "workers",
    "schemas", "partitions", "installation", "alembic_version", "identity", "received", *RECORD,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Bus:
    """A bus whose roles were granted, and connections to it."""

    dsn: str
    namespace: str
    owner: asyncpg.Connection
    connect: Connect

    async def member(self, role: str) -> asyncpg.Connection:
        """A connection of a user who is a member of one of our roles."""
        return await self.user(f"{role}_member", options=f"IN ROLE {self.namespace}_{role}")

    async def user(self, name: str, *, options: str = "") -> asyncpg.Connection:
        """A connection of a new user."""
        return await self.connect(await create_user(self.owner, f"{self.namespace}_{name}", self.dsn, options=options))

    def text(self, statement: str) -> str:
        return sql.in_namespace(statement, self.namespace)

    async def refused(self, connection: asyncpg.Connection, statements: Sequence[str]) -> list[str]:
        """Those of the statements that this user may not run; the others are rolled back."""
        return [one for one in statements if await self._is_refused(connection, one)]

    async def _is_refused(self, connection: asyncpg.Connection, statement: str) -> bool:
        transaction = connection.transaction()
        await transaction.start()
        try:
            await connection.execute(self.text(statement))
        except asyncpg.InsufficientPrivilegeError:
            return True
        finally:
            await transaction.rollback()
        return False

    async def privileges(self, role: str) -> dict[str, tuple[str, ...]]:
        """What the role may do with each table and view; partitions are reached through their parent."""
        records = await self.owner.fetch(
            """
            SELECT c.relname,
                   ARRAY(SELECT v FROM unnest($3::text[]) WITH ORDINALITY AS given (v, n)
                         WHERE has_table_privilege($2, c.oid, v) ORDER BY n) AS verbs
            FROM pg_class AS c
            WHERE c.relnamespace = $1::text::regnamespace AND c.relkind IN ('r', 'p', 'v') AND NOT c.relispartition
            """,
            self.namespace,
            f"{self.namespace}_{role}",
            VERBS,
        )
        return {record["relname"]: tuple(record["verbs"]) for record in records}


async def create_user(connection: asyncpg.Connection, name: str, dsn: str, *, options: str = "") -> str:
    await connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}' {options}")
    return dsn_of_user(dsn, name)


@pytest.fixture
async def bus(home: str, namespace: str, connect: Connect) -> Bus:
    migrate.upgrade(home, namespace=namespace)
    migrate.grant_roles(home, namespace=namespace)
    return Bus(home, namespace, await connect(home), connect)


async def test_a_publisher_inserts_with_plain_sql(bus: Bus) -> None:
    publisher = await bus.member("publisher")
    insert = bus.text("INSERT INTO pgbus.outbox (topic, payload) VALUES ('orders.placed', '{\"n\": 1}')")
    await publisher.execute(insert)
    event_id = await publisher.fetchval(f"{insert} RETURNING event_id")
    found = await bus.owner.fetchval(bus.text("SELECT array_agg(event_id ORDER BY id) FROM pgbus.outbox"))
    assert found[1] == event_id


async def test_a_publisher_runs_every_statement_that_publishes(bus: Bus) -> None:
    publisher = await bus.member("publisher")
    statements = sql.load(bus.namespace)
    one = {"event_id": uuid.uuid4(), "topic": "a", "ancestors": None, "key": None, "payload": "{}"}
    one |= {"headers": None, "published_by": None}

    await publisher.fetch(statements["insert_event"].asyncpg, *statements["insert_event"].arguments(one))
    many: dict[str, object] = {
        "event_ids": [uuid.uuid4()],
        "topics": ["a"],
        "payloads": ["{}"],
        "dedup_keys": ["order 17"],
        "dedup_ttl": 60.0,
        "published_by": None,
        **dict.fromkeys(("ancestors", "keys", "headers", "deliver_ats", "delays"), ()),
    }
    for name in ("insert_events", "insert_events_once", "insert_events_once"):
        await publisher.fetch(statements[name].asyncpg, *statements[name].arguments(many))
    lines = {"event_ids": str(uuid.uuid4()), "topic": "a", "ancestors": None, "payloads": "{}"}
    lines |= {"headers": None, "published_by": None}
    await publisher.fetch(statements["insert_lines"].asyncpg, *statements["insert_lines"].arguments(lines))
    assert await bus.owner.fetchval(bus.text("SELECT count(*) FROM pgbus.outbox")) == 4


async def test_a_publisher_reads_and_changes_nothing(bus: Bus) -> None:
    publisher = await bus.member("publisher")
    refused = [
        "SELECT payload FROM pgbus.outbox",
        "UPDATE pgbus.outbox SET topic = 'b'",
        "DELETE FROM pgbus.outbox",
        "SELECT * FROM pgbus.events",
        "SELECT * FROM pgbus.event_history",
        "SELECT * FROM pgbus.scheduled",
        "INSERT INTO pgbus.outbox (id, topic) OVERRIDING SYSTEM VALUE VALUES (1, 'a')",
        "INSERT INTO pgbus.outbox (topic, published_at) VALUES ('a', now())",
        "SELECT * FROM pgbus.dedup_keys",
        "INSERT INTO pgbus.dedup_keys VALUES ('k', pgbus.uuid7(), now())",
        "UPDATE pgbus.dedup_keys SET expires_at = now()",
        "DELETE FROM pgbus.dedup_keys",
        "UPDATE pgbus.schemas SET schema = '{}'",
        "UPDATE pgbus.schemas SET first_seen_at = now()",
        "SELECT nextval('pgbus.wake_slots')",
        "SELECT pgbus.open_partition(1)",
        "SELECT pgbus.drop_partition(0)",
        "CREATE TABLE pgbus.mine ()",
        "UPDATE pgbus.alembic_version SET version_num = '0'",
    ]
    assert await bus.refused(publisher, refused) == refused
    assert {name: verbs for name, verbs in (await bus.privileges("publisher")).items() if verbs} == {
        "alembic_version": ("SELECT",),
        "schemas": ("SELECT",),
    }


async def test_a_publisher_does_not_end_the_dedup_key_of_another(bus: Bus) -> None:
    publisher = await bus.member("publisher")
    take = bus.text("SELECT event_id, was_taken FROM pgbus.take_dedup_keys(ARRAY['order 17'], ARRAY[$1::uuid], $2)")
    [(holder, was_taken)] = await publisher.fetch(take, uuid.uuid4(), 60.0)
    assert was_taken
    for ttl in (0.0, 60.0):
        assert [tuple(row) for row in await publisher.fetch(take, uuid.uuid4(), ttl)] == [(holder, False)]


async def test_a_publisher_wakes_a_sleeping_leader(bus: Bus) -> None:
    woken = await sleep_as_leader(bus)
    publisher = await bus.member("publisher")
    await publisher.execute(bus.text("INSERT INTO pgbus.outbox (topic) VALUES ('a')"))
    await asyncio.wait_for(woken.wait(), PATIENCE)


async def test_an_insert_without_the_right_to_read_the_wake_slot_fails_or_wakes(bus: Bus, major: int) -> None:
    woken = await sleep_as_leader(bus)
    outsider = await bus.user("outsider")
    await bus.owner.execute(
        bus.text(
            f"GRANT USAGE ON SCHEMA {bus.namespace} TO {bus.namespace}_outsider;"
            f"GRANT INSERT ON pgbus.outbox TO {bus.namespace}_outsider"
        )
    )
    insert = bus.text("INSERT INTO pgbus.outbox (topic) VALUES ('a')")
    if major < 18:
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="wake_slots"):
            await outsider.execute(insert)
    else:
        await outsider.execute(insert)
        await asyncio.wait_for(woken.wait(), PATIENCE)


async def sleep_as_leader(bus: Bus) -> asyncio.Event:
    """Hold the lock that a sleeping leader holds; the event is set by a notification."""
    woken = asyncio.Event()
    leader = await bus.connect(bus.dsn)
    await leader.add_listener(f"{bus.namespace}_wake", lambda *_: woken.set())
    slot = await leader.fetchval(bus.text("SELECT last_value FROM pgbus.wake_slots"))
    assert await leader.fetchval("SELECT pg_try_advisory_lock(hashtext($1), $2)", bus.text("pgbus.wake"), slot)
    return woken


async def test_a_caller_calls_and_takes_back(bus: Bus) -> None:
    arrived, gone = asyncio.Event(), asyncio.Event()
    dsn = await create_user(bus.owner, f"{bus.namespace}_web", bus.dsn, options=f"IN ROLE {bus.namespace}_caller")
    server, web = (pgbus.create(one, namespace=bus.namespace, rpc_timeout=RPC_TIMEOUT) for one in (bus.dsn, dsn))
    async with server, web:

        @server.procedure("sums.add")
        async def add(a: int, b: int) -> int:
            return a + b

        @server.procedure("sums.hang")
        async def hang() -> None:
            try:
                arrived.set()
                await asyncio.Event().wait()
            finally:
                gone.set()

        async with running(server):
            assert await web.call("sums.add", {"a": 1, "b": 2}) == 3
            with pytest.raises(pgbus.InvalidArguments):
                await web.call("sums.add", {"a": "x", "b": 2})
            call = asyncio.create_task(web.call("sums.hang", timeout=60))
            await asyncio.wait_for(arrived.wait(), PATIENCE)
            call.cancel()
            await asyncio.wait_for(gone.wait(), PATIENCE)
        with pytest.raises(pgbus.NoWorkerAvailable):
            await web.call("sums.add", {"a": 1, "b": 2})


async def test_a_caller_of_a_dead_worker_is_told(bus: Bus) -> None:
    caller = await bus.member("caller")
    statements = sql.load(bus.namespace)
    call_id = uuid.uuid4()
    await bus.owner.execute(
        bus.text(
            f"""INSERT INTO pgbus.workers (name, host, pid, version) VALUES ('gone', 'h', 1, '0');
                INSERT INTO pgbus.rpc_requests (call_id, procedure, arguments, caller, caller_name, deadline, taken_at,
                                                worker_id)
                VALUES ('{call_id}', 'a.b', '{{}}', 'x', 'x', now() + interval '1 hour', now(), 1)"""
        )
    )
    ids: dict[str, object] = {"call_ids": [call_id]}
    await caller.fetch(statements["fail_lost_calls"].asyncpg, *statements["fail_lost_calls"].arguments(ids))
    [row] = await caller.fetch(statements["fetch_responses"].asyncpg, *statements["fetch_responses"].arguments(ids))
    assert (row["outcome"], row["worker"]) == ("lost", "gone")


async def test_a_caller_sees_no_arguments_and_writes_no_result(bus: Bus) -> None:
    caller = await bus.member("caller")
    refused = [
        "SELECT arguments FROM pgbus.rpc_requests",
        "SELECT call_id FROM pgbus.rpc_requests",
        "UPDATE pgbus.rpc_requests SET taken_at = now()",
        "SELECT * FROM pgbus.rpc_responses",
        "INSERT INTO pgbus.rpc_responses (call_id, outcome, error) VALUES (pgbus.uuid7(), 'lost', '')",
        "SELECT * FROM pgbus.rpc_calls",
        "UPDATE pgbus.rpc_requests SET arguments = '{}'",
        "DELETE FROM pgbus.rpc_requests",
        "INSERT INTO pgbus.rpc_responses (call_id, outcome, result) VALUES (pgbus.uuid7(), 'answered', '1')",
        "UPDATE pgbus.rpc_responses SET result = '1'",
        "DELETE FROM pgbus.rpc_responses",
        "INSERT INTO pgbus.rpc_servers (worker_id, procedure, concurrency) VALUES (1, 'a.b', 1)",
        "SELECT host FROM pgbus.workers",
        "INSERT INTO pgbus.outbox (topic) VALUES ('a')",
        "SELECT * FROM pgbus.events",
        "SELECT * FROM pgbus.event_history",
        "UPDATE pgbus.alembic_version SET version_num = '0'",
    ]
    assert await bus.refused(caller, refused) == refused
    assert {name: verbs for name, verbs in (await bus.privileges("caller")).items() if verbs} == {
        **dict.fromkeys(("rpc_servers", "live_workers", "schemas", "alembic_version"), ("SELECT",))
    }


async def test_a_worker_runs_the_bus(bus: Bus) -> None:
    worker = await bus.member("worker")
    await migrate.check_async(worker, namespace=bus.namespace)
    for statement in (
        "INSERT INTO pgbus.workers (name, host, pid, version) VALUES ('w', 'h', 1, '0')",
        "INSERT INTO pgbus.listeners (listener_name) VALUES ('ship')",
        "INSERT INTO pgbus.subscriptions (listener_id, pattern) VALUES (1, 'orders.placed')",
        "SELECT nextval('pgbus.wake_slots')",
        "SELECT pgbus.open_partition(1)",
        "INSERT INTO pgbus.outbox (topic) VALUES ('orders.placed')",
        f"""WITH taken AS (DELETE FROM pgbus.outbox RETURNING *)
            INSERT INTO pgbus.events (position, event_id, topic, payload, published_at, logged_at)
            SELECT {SIZE}, event_id, topic, payload, published_at, now() FROM taken""",
        f"INSERT INTO pgbus.deliveries (listener_id, first, last, events) VALUES (1, {SIZE}, {SIZE}, 1)",
        "UPDATE pgbus.deliveries SET claim_token = pgbus.uuid7(), worker_id = 1, lease_expires_at = now()",
        "DELETE FROM pgbus.deliveries",
        f"""INSERT INTO pgbus.history (first, listener_id, attempt, outcome, started_at, duration, worker)
            VALUES ({SIZE}, 1, 1, 'done', now(), 0, 'w')""",
        "INSERT INTO pgbus.dead_letters (listener_id, position, attempts, error, worker) VALUES (1, 7, 1, '', '')",
        "DELETE FROM pgbus.dead_letters",
        "SELECT pgbus.drop_partition(0)",
        *(f"SELECT * FROM pgbus.{view}" for view in VIEWS),
    ):
        await worker.execute(bus.text(statement))
    owner = await bus.owner.fetchval("SELECT tableowner FROM pg_tables WHERE tablename = 'events_p1'")
    assert owner == await bus.owner.fetchval("SELECT current_user")


@pytest.mark.parametrize(
    ("role", "names"),
    [
        ("publisher", tuple(rights.PUBLISHER)),
        ("caller", (*rights.CALLER, "notify", "load_schemas")),
        ("worker", tuple(sql.load().keys() - rights.INBOX - rights.OPERATOR)),
        ("reader", (*rights.READER, "load_schemas")),
        ("operator", (*rights.READER, *rights.OPERATOR, "load_schemas")),
        ("admin", tuple(sql.load().keys() - rights.INBOX)),
    ],
)
async def test_a_role_may_run_the_statements_of_the_code(bus: Bus, role: str, names: Sequence[str], major: int) -> None:
    if major < 16:
        pytest.skip("PostgreSQL explains statements without values, which checks privileges, from version 16 on")
    member = await bus.member(role)
    statements = sql.load(bus.namespace)
    explained = {f"EXPLAIN (GENERIC_PLAN) {expanded(statements[name].asyncpg)}": name for name in names}
    assert [explained[one] for one in await bus.refused(member, list(explained))] == []


async def test_a_worker_does_not_change_what_happened_nor_the_schema(bus: Bus) -> None:
    worker = await bus.member("worker")
    refused = [
        "UPDATE pgbus.events SET payload = '{}'",
        "DELETE FROM pgbus.events",
        "UPDATE pgbus.history SET outcome = 'done'",
        "DELETE FROM pgbus.history",
        "DELETE FROM pgbus.partitions",
        "TRUNCATE pgbus.events",
        "TRUNCATE pgbus.outbox",
        "DROP TABLE pgbus.events_p0",
        "CREATE TABLE pgbus.mine ()",
        "UPDATE pgbus.alembic_version SET version_num = '0'",
    ]
    assert await bus.refused(worker, refused) == refused


async def test_a_worker_reaches_every_table(bus: Bus) -> None:
    less = {
        **dict.fromkeys((*VIEWS, "alembic_version", "partitions", "identity"), ("SELECT",)),
        **dict.fromkeys(("events", "history", "causes"), ("SELECT", "INSERT")),
        **dict.fromkeys((*RECORD, "installation"), ("SELECT",)),
        "received": ("SELECT", "INSERT", "DELETE"),
    }
    privileges = await bus.privileges("worker")
    assert privileges == {name: less.get(name, VERBS) for name in privileges}


async def test_a_reader_reads_the_views_and_what_commands_show(bus: Bus) -> None:
    reader = await bus.member("reader")
    views = [f"SELECT * FROM pgbus.{view}" for view in VIEWS]
    assert await bus.refused(reader, views) == []
    refused = [
        "SELECT claim_token FROM pgbus.deliveries",
        "SELECT * FROM pgbus.dedup_keys",
        "SELECT caller FROM pgbus.rpc_requests",  # who knows it can notify that caller of results
        "SELECT * FROM pgbus.rpc_responses",
        "INSERT INTO pgbus.outbox (topic) VALUES ('a')",
        "DELETE FROM pgbus.scheduled",
        "SELECT pgbus.open_partition(1)",
        "SELECT pgbus.drop_partition(0)",
        "SELECT * FROM pgbus.read_responses('{}')",
    ]
    assert await bus.refused(reader, refused) == refused
    privileges = await bus.privileges("reader")
    assert privileges == {name: ("SELECT",) if name in (*VIEWS, *READ) else () for name in privileges}


async def test_an_operator_changes_things_by_operations_alone(bus: Bus) -> None:
    operator = await bus.member("operator")
    privileges = await bus.privileges("operator")
    assert privileges == {name: ("SELECT",) if name in (*VIEWS, *READ) else () for name in privileges}
    await bus.owner.execute(bus.text("INSERT INTO pgbus.listeners (listener_name) VALUES ('mail')"))
    await operator.execute(bus.text("CALL pgbus.operate('pause', '{\"listener\": \"mail\"}', 'too many', 'ann')"))
    [row] = await operator.fetch(bus.text("SELECT verb, reason, person, requested_by, state FROM pgbus.operations"))
    assert tuple(row) == ("pause", "too many", "ann", f"{bus.namespace}_operator_member", "done")
    assert await bus.owner.fetchval(bus.text("SELECT state FROM pgbus.listeners")) == "paused"
    worker = await bus.member("worker")
    refused = ["begin_operation('discard')", "resume_operation(1)", "continue_operation(1)", "cancel_operation(1)"]
    refused = [f"SELECT pgbus.{call}" for call in refused]
    assert await bus.refused(worker, refused) == refused


async def test_whoever_takes_up_an_operation_of_another_is_in_the_trail(bus: Bus) -> None:
    operator, admin = await bus.member("operator"), await bus.member("admin")
    await bus.owner.execute(bus.text("INSERT INTO pgbus.listeners (listener_name) VALUES ('mail')"))
    pause = bus.text("SELECT pgbus.begin_operation('pause', '{\"listener\": \"mail\"}', 'too many', 'ann')")
    await operator.execute(bus.text("SELECT pgbus.continue_operation($1)"), await operator.fetchval(pause))
    await admin.execute(bus.text("SELECT pgbus.continue_operation($1)"), await operator.fetchval(pause))
    cancelled = await operator.fetchval(pause)
    assert await admin.fetchval(bus.text("SELECT pgbus.cancel_operation($1, 'not mail', 'bob')"), cancelled)
    trail = "SELECT operation_id, action, person, reason, requested_by, state FROM pgbus.audit_trail ORDER BY at"
    begun, taken = ("begin", "ann", "too many", "operator", "done"), ("continue", None, None, "admin", "done")
    assert [(*row[:4], row[4].split("_")[-2], row[5]) for row in await operator.fetch(bus.text(trail))] == [
        (1, *begun),
        (2, *begun),
        (2, *taken),
        (3, *begun[:4], "cancelled"),
        (3, "cancel", "bob", "not mail", "admin", "cancelled"),
    ]


async def test_an_admin_does_everything_but_alter_the_tables(bus: Bus) -> None:
    admin = await bus.member("admin")
    privileges = await bus.privileges("admin")
    assert privileges == {name: ("SELECT",) if name in RECORD else VERBS for name in privileges}
    allowed = [
        "UPDATE pgbus.listeners SET cursor = 0",
        "TRUNCATE pgbus.dead_letters",
        "SELECT setval('pgbus.wake_slots', 7)",
        "SELECT pgbus.open_partition(1)",
        "CREATE VIEW pgbus.mine AS SELECT topic, count(*) FROM pgbus.events GROUP BY topic",
        "INSERT INTO pgbus.outbox (topic) VALUES ('a')",
    ]
    assert await bus.refused(admin, allowed) == []
    refused = [
        "ALTER TABLE pgbus.events ADD COLUMN mine integer",
        "DROP TABLE pgbus.outbox",
        "UPDATE pgbus.operations SET reason = NULL",
        "DELETE FROM pgbus.operation_items",
    ]
    assert await bus.refused(admin, refused) == refused


async def test_a_stranger_gets_nowhere(bus: Bus) -> None:
    stranger = await bus.user("stranger")
    refused = [
        "INSERT INTO pgbus.outbox (topic) VALUES ('a')",
        "SELECT * FROM pgbus.pending",
        "SELECT pgbus.open_partition(1)",
        "SELECT pgbus.drop_partition(0)",
    ]
    assert await bus.refused(stranger, refused) == refused
    with pytest.raises(PrivilegeError, match="permission denied for schema"):
        await migrate.check_async(stranger, namespace=bus.namespace)
    # The functions that run as the owner are barred by themselves, not only by their schema.
    await bus.owner.execute(f"GRANT USAGE ON SCHEMA {bus.namespace} TO PUBLIC")
    assert await bus.refused(stranger, refused) == refused


async def test_granting_again_changes_nothing(bus: Bus) -> None:
    acl = bus.text(
        "SELECT array_agg(ROW(oid, relacl)::text ORDER BY oid) FROM pg_class "
        f"WHERE relnamespace = '{bus.namespace}'::regnamespace"
    )
    before = await bus.owner.fetchval(acl)
    migrate.grant_roles(bus.dsn, namespace=bus.namespace)
    assert await bus.owner.fetchval(acl) == before


async def test_granting_needs_an_upgraded_database(home: str, namespace: str, connect: Connect) -> None:
    with pytest.raises(SchemaVersionError, match="run `pgbus db upgrade`"):
        migrate.grant_roles(home, namespace=namespace)
    connection = await connect(home)
    assert await connection.fetch("SELECT FROM pg_roles WHERE rolname LIKE $1", f"{namespace}\\_%") == []


async def test_an_owner_who_may_not_create_roles_is_told_which(home: str, namespace: str, connect: Connect) -> None:
    superuser = await connect(home)
    owner = await create_user(superuser, f"{namespace}_owner", home)
    await superuser.execute(f"CREATE SCHEMA {namespace} AUTHORIZATION {namespace}_owner")
    migrate.upgrade(owner, namespace=namespace)
    await superuser.execute(f"CREATE ROLE {namespace}_reader")
    with pytest.raises(PrivilegeError, match=rf'run `CREATE ROLE "{namespace}_publisher"; .*`') as caught:
        migrate.grant_roles(owner, namespace=namespace)
    assert "_reader" not in str(caught.value)

    await superuser.execute(str(caught.value).split("`")[1])
    migrate.grant_roles(owner, namespace=namespace)
    reader = await connect(
        await create_user(superuser, f"{namespace}_auditor", home, options=f"IN ROLE {namespace}_reader")
    )
    assert await reader.fetch(f"SELECT * FROM {namespace}.event_history") == []


@pytest.mark.parametrize("role", ["worker", "admin"])
async def test_only_the_owner_grants(bus: Bus, role: str) -> None:
    await bus.member(role)
    with pytest.raises(PrivilegeError, match=f"only the owner of namespace '{bus.namespace}' may grant on it"):
        migrate.grant_roles(dsn_of_user(bus.dsn, f"{bus.namespace}_{role}_member"), namespace=bus.namespace)


async def test_databases_of_one_server_may_be_granted_at_once(namespace: str, server: DatabaseServer) -> None:
    with ExitStack() as stack:
        databases = [stack.enter_context(server.temporary_database()) for _ in range(4)]
        for dsn in databases:
            migrate.upgrade(dsn, namespace=namespace)
        await asyncio.gather(*(asyncio.to_thread(migrate.grant_roles, dsn, namespace=namespace) for dsn in databases))
        for dsn in databases:
            migrate.grant_roles(dsn, namespace=namespace)


async def test_the_namespace_of_roles_may_be_a_word_of_sql(server: DatabaseServer, connect: Connect) -> None:
    with server.temporary_database() as dsn:
        migrate.upgrade(dsn, namespace="user")
        migrate.grant_roles(dsn, namespace="user")
        connection = await connect(dsn)
        await connection.execute("SET ROLE user_publisher")
        await connection.execute("INSERT INTO \"user\".outbox (topic) VALUES ('a')")
    await drop_roles(server.dsn, "user")


async def test_a_reader_can_run_every_query_of_the_sql_dashboard(home: str, namespace: str, connect: Connect) -> None:
    await asyncio.to_thread(migrate.upgrade, home, namespace=namespace)
    await asyncio.to_thread(migrate.grant_roles, home, namespace=namespace)
    connection = await connect(home)
    await connection.execute(f"SET ROLE {namespace}_reader")
    for query in chart_queries(namespace).values():
        await connection.fetch(expanded(query))
