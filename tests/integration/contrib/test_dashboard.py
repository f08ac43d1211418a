"""The dashboard over HTTP: who may see it, and what each page shows."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from uuid import UUID

import asyncpg
import httpx2 as httpx
import pytest
from starlette.requests import Request
from starlette.responses import RedirectResponse

from pgbus import migrate
from pgbus.config import Config
from pgbus.contrib.dashboard import Dashboard, Person, any_of, by_password, by_token
from pgbus.errors import ConfigurationError
from tests.support.command_line import NOWHERE
from tests.support.dashboards import browser, everyone
from tests.support.programs import program
from tests.support.rows import Rows
from tests.support.waiting import PATIENCE

PAGES = [
    "/", "/listeners", "/events", "/dead", "/calls", "/schedules", "/schemas", "/workers", "/operations", "/doctor",
]  # fmt: skip
NASTY = "<b>mail</b>/er"


@pytest.fixture
async def client(database: str) -> AsyncIterator[httpx.AsyncClient]:
    async with browser(Dashboard(Config(dsn=database), allow=everyone("reader"))) as opened:
        yield opened


@pytest.fixture
async def seeded(rows: Rows) -> UUID:
    """Events with every kind of end, a call, a schedule and workers; the id of the event that failed."""
    mailer = await rows.listener(NASTY, "orders.*")
    await rows.worker("worker-1", NASTY, leads=True)
    event_id = await rows.event(1, payload={"order_id": 7, "password": "s3cret", "note": "<script>"}, key="customer 7")
    await rows.attempt(mailer, 1, "retry", error="ValueError: no <address>")
    await rows.attempt(mailer, 1, "dead", attempt=2, error="ValueError: no <address>")
    await rows.dead_letter(mailer, 1, error="ValueError: no <address>")
    await rows.event(2, payload={"order_id": 8})
    await rows.delivery(mailer, 2)
    await rows.connection.execute(
        """
        INSERT INTO pgbus.rpc_requests (call_id, procedure, arguments, caller, caller_name, deadline)
        VALUES (pgbus.uuid7(), 'shop.prices.of', '{}', 'c', 'web', now() + interval '1 minute');
        INSERT INTO pgbus.schedules (schedule_name, rule, next_run_at) VALUES ('nightly', 'every day', now());
        INSERT INTO pgbus.schedule_runs
            (run_id, schedule_name, due_at, attempt, worker, started_at, finished_at, outcome)
        VALUES (gen_random_uuid(), 'nightly', now(), 1, 'worker-1', now(), now(), 'done');
        INSERT INTO pgbus.schemas (kind, name, service, version, schema, hash)
        VALUES ('event', 'orders.placed', 'shop', 1, '{"parameters": {}}', 'x');
        """
    )
    return event_id


# -------------------------------------------------------------------------------------------------------------- access


@pytest.mark.parametrize("page", PAGES)
async def test_it_is_closed_until_someone_gives_access(database: str, seeded: UUID, page: str) -> None:
    async with browser(Dashboard(Config(dsn=database))) as client:
        answer = await client.get(page)
    assert answer.status_code == 401
    assert "This dashboard is closed" in answer.text
    assert "orders" not in answer.text


async def test_a_link_with_the_token_lets_a_browser_in_and_the_token_leaves_the_address(database: str) -> None:
    async with browser(Dashboard(Config(dsn=database), allow=by_token("t0ken"))) as client:
        assert (await client.get("/events")).status_code == 401
        assert (await client.get("/events?token=other", follow_redirects=True)).status_code == 401
        answer = await client.get("/events?token=t0ken&topic=a", follow_redirects=False)
        assert answer.headers["location"] == "http://dashboard/events?topic=a"
        assert {"HttpOnly", "SameSite=lax"} <= set(answer.headers["set-cookie"].split("; "))
        assert "t0ken" not in answer.headers["set-cookie"]
        assert (await client.get(answer.headers["location"])).status_code == 200
    async with browser(Dashboard(Config(dsn=database), allow=by_token("t0ken"))) as client:
        assert (await client.get("/events", headers={"authorization": "Bearer t0ken"})).status_code == 200


async def test_a_password_is_asked_for_by_http_basic(database: str) -> None:
    async with browser(Dashboard(Config(dsn=database), allow=by_password("ops", "pa:ss"))) as client:
        assert (await client.get("/")).headers["www-authenticate"].startswith("Basic")
        assert (await client.get("/", auth=("ops", "pa:ss"))).status_code == 200
        assert (await client.get("/", auth=("ops", "pass"))).status_code == 401
        assert (await client.get("/", headers={"authorization": "Basic ???"})).status_code == 401


async def test_a_session_ends_and_cannot_be_prolonged_by_its_browser(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with browser(Dashboard(Config(dsn=database), allow=by_token("t0ken"))) as client:
        await client.get("/workers?token=t0ken")
        expires, _, signature = client.cookies["pgbus_dashboard"].partition(".")
        later = {"cookie": f"pgbus_dashboard={int(expires) + 1}.{signature}"}
        assert (await client.get("/workers")).status_code == 200
        monkeypatch.setattr("pgbus.contrib.dashboard.access.time.time", lambda: float(expires) + 0.5)
        assert (await client.get("/workers")).status_code == 401
        client.cookies.clear()
        assert (await client.get("/workers", headers=later)).status_code == 401


async def test_the_applications_own_check_says_who_it_is_or_where_to_log_in(database: str) -> None:
    async def allow(request: Request) -> Person | RedirectResponse:
        if request.headers.get("x-user") == "adam":
            return Person("adam")
        return RedirectResponse("/login")

    async with browser(Dashboard(Config(dsn=database), allow=allow)) as client:
        assert "adam, reader" in (await client.get("/workers", headers={"x-user": "adam"})).text
        assert (await client.get("/workers", headers={"x-user": "eve"})).headers["location"] == "/login"


async def test_the_first_of_several_checks_that_knows_the_sender_decides(database: str) -> None:
    people = any_of(by_password("ann", "a", role="operator"), by_password("bob", "b"))
    async with browser(Dashboard(Config(dsn=database), allow=people)) as client:
        assert "ann, operator" in (await client.get("/workers", auth=("ann", "a"))).text
        assert "bob, reader" in (await client.get("/workers", auth=("bob", "b"))).text
        assert (await client.get("/workers", auth=("ann", "b"))).status_code == 401


@pytest.mark.parametrize("make", [
    lambda: by_token(""), lambda: by_password("ann", ""), lambda: Person(""), lambda: Person("ann", "root"),  # type: ignore[arg-type] # not a role
])  # fmt: skip
def test_access_that_would_let_everybody_in_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ConfigurationError):
        make()


@pytest.mark.parametrize("path", [*PAGES, "/nothing", "/events/none", "/static/dashboard.js"])
async def test_nothing_comes_from_elsewhere_and_no_page_can_be_framed(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(path)
    policy = answer.headers["content-security-policy"]
    assert "script-src 'self';" in policy
    assert "frame-ancestors 'none'" in policy
    assert not re.findall(r'(?:src|href)="https?:', answer.text)
    assert "<style" not in answer.text
    assert not re.findall(r"\son\w+=|\sstyle=", answer.text.split("<main", 1)[-1].split("</main>")[0])


# --------------------------------------------------------------------------------------------------------------- pages


@pytest.mark.parametrize("page", PAGES)
async def test_a_page_of_an_empty_bus_says_that_there_is_nothing(client: httpx.AsyncClient, page: str) -> None:
    answer = await client.get(page)
    assert answer.status_code == 200, answer.text
    assert "<h1>" in answer.text
    assert re.search(r'class="quiet">(No|Nothing|There are no)', answer.text) or page == "/doctor"


@pytest.mark.parametrize(
    ("page", "shown"),
    [
        ("/", "orders.placed"),
        ("/listeners", "&lt;b&gt;mail&lt;/b&gt;/er"),
        ("/listeners/%3Cb%3Email%3C%2Fb%3E%2Fer", "no &lt;address&gt;"),
        ("/events", "customer 7"),
        ("/dead", "ValueError: no &lt;address&gt;"),
        ("/calls", "shop.prices.of"),
        ("/schedules", "every day"),
        ("/schedules/nightly", "worker-1"),
        ("/schemas", "shop"),
        ("/workers", "leads"),
        ("/doctor", "dead-letters"),
    ],
)
async def test_a_page_shows_what_there_is_and_escapes_it(
    client: httpx.AsyncClient, seeded: UUID, page: str, shown: str
) -> None:
    answer = await client.get(page)
    assert answer.status_code == 200, answer.text
    assert shown in answer.text
    assert "<b>mail" not in answer.text
    assert "<address>" not in answer.text


async def test_the_journey_of_an_event_shows_each_attempt_and_the_payload(
    client: httpx.AsyncClient, seeded: UUID
) -> None:
    answer = await client.get(f"/events/{seeded}")
    assert answer.text.count('<rect class="bar retry"') == 1
    assert answer.text.count('<rect class="bar dead"') == 1
    assert "&#34;note&#34;: &#34;&lt;script&gt;&#34;" in answer.text
    assert "dead letter" in answer.text


async def test_a_bus_that_sleeps_has_no_leader_and_no_fault(client: httpx.AsyncClient, rows: Rows) -> None:
    await rows.worker("worker-1")
    alarm = '<div class="bad"><dt>leader</dt>'
    assert alarm in (await client.get("/")).text
    # A slot that nobody has called yet says that the bus sleeps.
    await rows.connection.execute("SELECT setval('pgbus.wake_slots', 2, false)")
    page = (await client.get("/")).text
    assert alarm not in page
    assert "asleep</span>" in page


@pytest.mark.parametrize("path", ["/events/none", "/events/018f4e7e-0000-7000-8000-000000000000", "/listeners/none",
                                  "/schedules/none", "/nothing"])  # fmt: skip
async def test_what_is_not_there_is_said_to_be_missing(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(path)).status_code == 404


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("topic=orders.*", {"1", "2"}),
        ("topic=other.*", set()),
        ("key=customer 7", {"1"}),
        ("where=order_id = 8", {"2"}),
        ("dead=1", {"1"}),
        ("before=2", {"1"}),
        ("owed_to=<b>mail</b>/er", {"2"}),
    ],
)
async def test_events_are_found_by_their_fields(
    client: httpx.AsyncClient, seeded: UUID, query: str, found: set[str]
) -> None:
    name, _, value = query.partition("=")
    answer = await client.get("/events", params={name: value})
    assert set(re.findall(r'<td class="n">(\d+)</td>', answer.text)) == found


@pytest.mark.parametrize("query", ["topic=..", "where=order_id", "id=7", "before=x", "owed_to=nobody"])
async def test_a_search_that_cannot_be_read_says_why(client: httpx.AsyncClient, query: str) -> None:
    name, _, value = query.partition("=")
    answer = await client.get("/events", params={name: value})
    assert answer.status_code == 200
    assert 'class="problem" role="alert"' in answer.text


async def test_hidden_fields_are_not_shown_wherever_they_stand(database: str, seeded: UUID) -> None:
    async with browser(Dashboard(Config(dsn=database), allow=everyone("reader"), hidden=["password"])) as client:
        answer = await client.get(f"/events/{seeded}")
    assert "s3cret" not in answer.text
    assert "order_id" in answer.text


async def test_it_can_be_mounted_in_an_application(database: str, seeded: UUID) -> None:
    async with browser(Dashboard(Config(dsn=database), allow=everyone("reader")), mount="/ops/bus") as client:
        answer = await client.get("/ops/bus/events")
        assert answer.status_code == 200
        links = set(re.findall(r'(?:href|src|action)="([^"#]+)"', answer.text))
        assert all(link.startswith("/ops/bus/") for link in links), links
        for link in links:
            assert (await client.get(link)).status_code == 200, link


async def test_who_audits_may_read_every_page(database: str, connection: asyncpg.Connection, seeded: UUID) -> None:
    migrate.grant_roles(database)
    await connection.execute(
        "CREATE ROLE dashboard_auditor LOGIN PASSWORD 'pw'; GRANT pgbus_reader TO dashboard_auditor"
    )
    try:
        dsn = re.sub(r"//[^@]*@", "//dashboard_auditor:pw@", database)
        async with browser(Dashboard(Config(dsn=dsn), allow=everyone("reader"))) as client:
            for page in [*PAGES, f"/events/{seeded}", "/listeners/%3Cb%3Email%3C%2Fb%3E%2Fer", "/schedules/nightly"]:
                answer = await client.get(page)
                assert answer.status_code == 200, (page, answer.text)
    finally:
        await connection.execute("DROP OWNED BY dashboard_auditor; DROP ROLE dashboard_auditor")


async def test_a_database_that_cannot_be_reached_is_a_503_without_its_password() -> None:
    async with browser(Dashboard(Config(dsn=NOWHERE), allow=everyone("reader"))) as client:
        answer = await client.get("/")
    assert answer.status_code == 503
    assert "s3cret" not in answer.text


async def test_a_lost_connection_is_replaced(database: str, client: httpx.AsyncClient, rows: Rows) -> None:
    assert (await client.get("/workers")).status_code == 200
    await rows.connection.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    assert (await client.get("/workers")).status_code == 200


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
async def test_the_program_serves_it_and_prints_its_address_until_a_signal(
    database: str, tmp_path: Path, ending: signal.Signals
) -> None:
    async with program("dashboard", "--port", "0", cwd=tmp_path, environ={"PGBUS_DSN": database}) as child:
        assert child.stdout is not None
        async with asyncio.timeout(PATIENCE):
            line = (await child.stdout.readline()).decode()
            address = line.removeprefix("dashboard: ").strip()
            async with httpx.AsyncClient(follow_redirects=True) as client:
                answer = await client.get(address)
            assert "No listener is registered" in answer.text
            child.send_signal(ending)
            assert await child.wait() == 0
            assert child.stderr is not None
            assert await child.stderr.read() == b""
