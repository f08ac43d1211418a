"""Changes by the dashboard: who may make them, that no other site can, and what each leaves in the audit trail."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import AsyncIterator
from html import unescape

import asyncpg
import httpx2 as httpx
import pytest

from pgbus import migrate
from pgbus.admin import Admin
from pgbus.config import Config
from pgbus.contrib.dashboard import Dashboard, Person
from pgbus.contrib.dashboard.access import Role
from pgbus.contrib.dashboard.changes import CHANGES
from tests.support.dashboards import browser, change, everyone, form_of
from tests.support.rows import Rows


@pytest.fixture
def dashboard(database: str) -> Dashboard:
    return Dashboard(Config(dsn=database), allow=everyone("admin"))


@pytest.fixture
async def client(dashboard: Dashboard) -> AsyncIterator[httpx.AsyncClient]:
    async with browser(dashboard) as opened:
        yield opened


@pytest.fixture
async def letters(rows: Rows) -> list[int]:
    """Three dead letters of the listener mail: two of one kind, one of another."""
    mail = await rows.listener("mail", "orders.*")
    for position in (1, 2, 3):
        await rows.event(position)
    errors = ("KeyError: 'a'", "KeyError: 'b'", "ValueError: no")
    return [await rows.dead_letter(mail, position, error=error) for position, error in enumerate(errors, 1)]


async def operations(rows: Rows) -> list[tuple[str, str, str, str, int]]:
    found = await rows.connection.fetch("SELECT verb, state, person, reason, touched FROM pgbus.operations ORDER BY id")
    return [tuple(row) for row in found]


# ------------------------------------------------------------------------------------------------- preview, confirm, do


async def test_a_change_is_previewed_confirmed_with_a_reason_and_recorded_with_the_person(
    client: httpx.AsyncClient, dashboard: Dashboard, rows: Rows, letters: list[int]
) -> None:
    page = await client.get("/changes/retry", params={"listener": "mail", "error": "KeyError: '*'"})
    assert "2 dead letters" in page.text
    assert await operations(rows) == []
    address = await change(client, "retry", "the server is back", listener="mail", error="KeyError: '*'")
    await dashboard.state.carrier.finish()
    assert await operations(rows) == [("retry", "done", "ann", "the server is back", 2)]
    assert await rows.connection.fetchval("SELECT array_agg(id) FROM pgbus.dead_letters") == [letters[2]]
    shown = (await client.get(address)).text
    assert "the server is back" in shown
    assert "2 of 2" in shown
    assert "KeyError: &#39;a&#39;" in shown


async def test_what_fails_after_the_preview_is_not_a_part_of_the_change(
    client: httpx.AsyncClient, dashboard: Dashboard, rows: Rows, letters: list[int]
) -> None:
    page = await client.get("/changes/discard", params={"listener": "mail"})
    listener_id = await rows.connection.fetchval("SELECT id FROM pgbus.listeners")
    await rows.event(4)
    later = await rows.dead_letter(listener_id, 4)
    form = form_of(page.text, "/changes/discard")
    await client.post("/changes/discard", data={**form, "reason": "not needed"})
    await dashboard.state.carrier.finish()
    assert await rows.connection.fetchval("SELECT array_agg(id) FROM pgbus.dead_letters") == [later]


@pytest.mark.parametrize("reason", ["", "  ", "x" * 1001])
async def test_a_change_without_a_reason_is_not_made_and_its_preview_is_shown_again(
    client: httpx.AsyncClient, rows: Rows, letters: list[int], reason: str
) -> None:
    page = await client.get("/changes/pause", params={"listener": "mail"})
    form = form_of(page.text, "/changes/pause")
    answer = await client.post("/changes/pause", data={**form, "reason": reason})
    assert answer.status_code == 409
    assert "give a reason" in answer.text
    assert form_of(answer.text, "/changes/pause")["filter"] == form["filter"]
    assert await operations(rows) == []


@pytest.mark.parametrize(
    ("verb", "given"),
    [
        ("retry", {"ids": "1"}),
        ("discard", {"ids": "1,2"}),
        ("retry_now", {"listener": "mail"}),
        ("give_up", {"listener": "mail", "since": "2020-01-01T00:00Z"}),
        ("replay", {"listener": "mail", "from": "1", "to": "3", "topic": "orders.*", "where": "n = 2"}),
        ("reset", {"listener": "mail", "to": "beginning"}),
        ("pause", {"listener": "mail"}),
        ("resume", {"listener": "mail"}),
        ("remove", {"listener": "mail"}),
        ("run_schedule", {"schedule": "nightly"}),
        ("pause_schedule", {"schedule": "nightly"}),
        ("resume_schedule", {"schedule": "nightly"}),
        ("remove_schedule", {"schedule": "nightly"}),
        ("adopt", {}),
    ],
)
async def test_each_verb_can_be_previewed_and_carried_out(
    client: httpx.AsyncClient, dashboard: Dashboard, rows: Rows, letters: list[int], verb: str, given: dict[str, str]
) -> None:
    listener_id = await rows.connection.fetchval("SELECT id FROM pgbus.listeners")
    await rows.event(4)
    await rows.delivery(listener_id, 4, attempt=2, last_error="ValueError: no")
    await rows.connection.execute(
        "INSERT INTO pgbus.schedules (schedule_name, rule, next_run_at) VALUES ('nightly', 'every day', now())"
    )
    address = await change(client, verb, "a drill", **given)
    await dashboard.state.carrier.finish()
    [(done, state, person, _, touched)] = await operations(rows)
    assert (done, state, person) == (verb, "done", "ann")
    assert touched >= 1
    assert (await client.get(address)).status_code == 200


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/changes/replay?listener=mail&from=99", "not a position"),
        ("/changes/replay?listener=mail&from=yesterday", "Invalid isoformat"),
        ("/changes/retry?since=2020-01-01T00:00", "no time zone"),
        ("/changes/retry?topic=..", "topic"),
        ("/changes/retry?where=n", "not a condition"),
        ("/changes/retry?ids=x", "invalid literal"),
        ("/changes/reset?listener=mail", "To is missing"),
    ],
)
async def test_a_selection_that_cannot_be_read_says_why_and_cannot_be_confirmed(
    client: httpx.AsyncClient, letters: list[int], path: str, says: str
) -> None:
    answer = await client.get(path)
    assert answer.status_code == 200
    assert says in answer.text
    assert 'method="post"' not in answer.text


@pytest.mark.parametrize(
    "path",
    ["/changes/pause?listener=none", "/changes/pause_schedule?schedule=none", "/changes/none", "/operations/1"],
)
async def test_what_is_not_there_cannot_be_changed(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(path)).status_code == 404


async def test_a_refused_change_leaves_no_operation_and_says_why(
    client: httpx.AsyncClient, rows: Rows, letters: list[int]
) -> None:
    await rows.worker("worker-1", "mail")
    page = await client.get("/changes/remove", params={"listener": "mail"})
    answer = await client.post(
        "/changes/remove", data={**form_of(page.text, "/changes/remove"), "reason": "not needed"}
    )
    assert answer.status_code == 409
    assert "is run by worker-1" in answer.text
    assert await operations(rows) == []


async def test_a_running_operation_shows_how_far_it_is_and_can_be_continued_or_cancelled(
    client: httpx.AsyncClient, dashboard: Dashboard, rows: Rows, letters: list[int]
) -> None:
    begin = "SELECT pgbus.begin_operation('retry', '{}')"
    first, second = await rows.connection.fetchval(begin), await rows.connection.fetchval(begin)
    await rows.connection.execute("SELECT pgbus.continue_operation($1, 1)", first)
    page = (await client.get(f"/operations/{first}")).text
    assert '<progress value="1" max="3"' in page
    assert f'href="/operations/{first}/cancel"' in page
    answer = await step(client, f"/operations/{first}/continue", "the pod was evicted")
    assert answer.headers["location"] == f"/operations/{first}"
    await dashboard.state.carrier.finish()
    assert (await step(client, f"/operations/{second}/cancel", " ")).status_code == 409
    await step(client, f"/operations/{second}/cancel", "not these")
    states = await rows.connection.fetch("SELECT state, touched FROM pgbus.operations ORDER BY id")
    assert [tuple(row) for row in states] == [("done", 3), ("cancelled", 0)]
    steps = await rows.connection.fetch("SELECT operation_id, step, person, reason FROM pgbus.operation_steps")
    assert [tuple(row) for row in steps] == [
        (first, "continue", "ann", "the pod was evicted"),
        (second, "cancel", "ann", "not these"),
    ]
    assert "ann: not these" in (await client.get(f"/operations/{second}")).text
    exported = (await client.get("/operations.json")).json()
    told = [[(step["step"], step["person"], step["reason"]) for step in one["steps"]] for one in exported]
    assert told == [[("cancel", "ann", "not these")], [("continue", "ann", "the pod was evicted")]]
    assert "not these" in (await client.get("/operations.csv")).text
    assert "It has ended already" in (await client.get(f"/operations/{second}/cancel")).text
    assert (await client.get(f"/operations/{second}/erase")).status_code == 404


async def step(client: httpx.AsyncClient, address: str, reason: str) -> httpx.Response:
    """Cancel or continue an operation by its form."""
    return await client.post(address, data={**form_of((await client.get(address)).text, address), "reason": reason})


async def test_an_operation_that_its_dashboard_leaves_can_be_continued_by_another(
    database: str, dashboard: Dashboard, client: httpx.AsyncClient, rows: Rows, letters: list[int]
) -> None:
    number = await rows.connection.fetchval("SELECT pgbus.begin_operation('retry', '{}')")
    dashboard.state.carrier.start(number)
    await dashboard.state.carrier.close()
    async with browser(Dashboard(Config(dsn=database), allow=everyone("operator"))) as other:
        page = (await other.get(f"/operations/{number}")).text
        if "/continue" in page:  # it may have been quicker than the end of its dashboard
            await step(other, f"/operations/{number}/continue", "the dashboard went away")
        await other._transport.app.state.carrier.finish()  # type: ignore[attr-defined]
    assert await rows.connection.fetchval("SELECT touched FROM pgbus.operations") == 3


# --------------------------------------------------------------------------------------------------------------- people


ROLES: dict[Role, set[str]] = {
    "reader": set(),
    "operator": {verb for verb, one in CHANGES.items() if one.role == "operator"},
    "admin": set(CHANGES),
}


@pytest.mark.parametrize("role", ROLES)
async def test_a_person_sees_and_may_make_the_changes_of_the_role(
    database: str, rows: Rows, letters: list[int], role: Role
) -> None:
    await rows.connection.execute(
        "INSERT INTO pgbus.schedules (schedule_name, rule, next_run_at) VALUES ('nightly', 'every day', now())"
    )
    async with browser(Dashboard(Config(dsn=database), allow=everyone("admin"))) as client:
        page = (await client.get("/changes/pause?listener=mail")).text
        form = form_of(page, "/changes/pause")
    refused = set()
    async with browser(Dashboard(Config(dsn=database), allow=everyone(role)), cookies=client.cookies) as client:
        for path in ("/dead", "/listeners/mail", "/schedules"):
            shown = set(re.findall(r'href="/changes/(\w+)', (await client.get(path)).text))
            assert shown <= ROLES[role]
            assert bool(shown) == bool(ROLES[role])
        for verb in CHANGES:
            if (await client.get(f"/changes/{verb}")).status_code == 403:
                refused.add(verb)
                assert (await client.post(f"/changes/{verb}", data={**form, "reason": "x"})).status_code == 403
        if role == "reader":
            assert (await client.post("/operations/1/cancel", data=form)).status_code == 403
    assert refused == set(CHANGES) - ROLES[role]
    assert await operations(rows) == []


async def test_a_change_needs_the_right_of_the_databases_user_as_well(
    database: str, connection: asyncpg.Connection, rows: Rows, letters: list[int]
) -> None:
    migrate.grant_roles(database)
    await connection.execute(
        "CREATE ROLE dashboard_looker LOGIN PASSWORD 'pw'; GRANT pgbus_reader TO dashboard_looker;"
        "CREATE ROLE dashboard_changer LOGIN PASSWORD 'pw'; GRANT pgbus_operator TO dashboard_changer"
    )
    try:
        dsn = re.sub(r"//[^@]*@", "//dashboard_looker:pw@", database)
        async with browser(Dashboard(Config(dsn=dsn), allow=everyone("admin"))) as client:
            page = await client.get("/changes/pause?listener=mail")  # a preview changes nothing
            answer = await client.post("/changes/pause", data={**form_of(page.text, "/changes/pause"), "reason": "try"})
            assert answer.status_code == 503
            assert "pgbus_operator" in answer.text
        dsn = re.sub(r"//[^@]*@", "//dashboard_changer:pw@", database)
        dashboard = Dashboard(Config(dsn=dsn), allow=everyone("operator"))
        async with browser(dashboard) as client:
            for verb, given in (("pause", {"listener": "mail"}), ("retry", {"listener": "mail"})):
                await change(client, verb, "a drill", **given)
            await dashboard.state.carrier.finish()
        made = await connection.fetch("SELECT requested_by, person, state FROM pgbus.operations")
        assert {tuple(row) for row in made} == {("dashboard_changer", "ann", "done")}
    finally:
        await connection.execute(
            "DROP OWNED BY dashboard_looker, dashboard_changer; DROP ROLE dashboard_looker, dashboard_changer"
        )


# ------------------------------------------------------------------------------------------------- forms of other sites


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil"},
        {"origin": "null"},
        {"origin": "http://dashboard.evil"},
        {"referer": "http://evil/dashboard"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site", "origin": "http://dashboard"},
        {"sec-fetch-site": "none"},
    ],
)
async def test_a_form_that_another_site_has_sent_is_refused_also_with_the_right_token(
    client: httpx.AsyncClient, rows: Rows, letters: list[int], headers: dict[str, str]
) -> None:
    form = form_of((await client.get("/changes/pause?listener=mail")).text, "/changes/pause")
    answer = await client.post("/changes/pause", data={**form, "reason": "x"}, headers=headers)
    assert answer.status_code == 403
    assert await operations(rows) == []


@pytest.mark.parametrize("headers", [{}, {"origin": "http://dashboard"}, {"origin": "https://dashboard"},
                                     {"referer": "http://dashboard/changes/pause"},
                                     {"sec-fetch-site": "same-origin", "origin": "http://dashboard"}])  # fmt: skip
async def test_a_form_of_our_own_is_accepted_whatever_the_browser_says_of_its_origin(
    client: httpx.AsyncClient, rows: Rows, letters: list[int], headers: dict[str, str]
) -> None:
    form = form_of((await client.get("/changes/pause?listener=mail")).text, "/changes/pause")
    assert (await client.post("/changes/pause", data={**form, "reason": "x"}, headers=headers)).status_code == 303


async def test_a_form_needs_the_token_of_its_browser_and_person(
    dashboard: Dashboard, client: httpx.AsyncClient, rows: Rows, letters: list[int]
) -> None:
    form = {**form_of((await client.get("/changes/pause?listener=mail")).text, "/changes/pause"), "reason": "x"}
    async with browser(dashboard) as other:
        of_other = form_of((await other.get("/changes/pause?listener=mail")).text, "/changes/pause")["form_token"]
        assert (await other.post("/changes/pause", data=form)).status_code == 403
    for token in ("", "x", of_other):
        assert (await client.post("/changes/pause", data={**form, "form_token": token})).status_code == 403
    by_eve = await client.post("/changes/pause", data=form, headers={"x-person": "eve"})
    assert by_eve.status_code == 403
    as_json = await client.post("/changes/pause", content="{}", headers={"content-type": "text/plain"})
    assert as_json.status_code == 415
    assert await operations(rows) == []
    assert (await client.post("/changes/pause", data=form)).status_code == 303


async def test_the_cookie_of_forms_is_for_this_dashboard_alone(dashboard: Dashboard, letters: list[int]) -> None:
    async with browser(dashboard, mount="/bus") as client:
        cookie = (await client.get("/bus/changes/pause?listener=mail")).headers["set-cookie"]
        assert {"HttpOnly", "SameSite=lax", "Path=/bus"} <= set(cookie.split("; "))
    async with browser(dashboard) as client:
        cookie = (await client.get("https://dashboard/changes/pause?listener=mail")).headers["set-cookie"]
        assert cookie.startswith("__Host-")
        assert {"HttpOnly", "SameSite=lax", "Path=/", "Secure"} <= set(cookie.split("; "))


@pytest.mark.parametrize("filter_", ["", "[]", "{", '{"listener": "none"}', '{"key": "mail"}', '{"listener": {}}'])
async def test_a_filter_that_no_page_has_written_is_refused(
    client: httpx.AsyncClient, rows: Rows, letters: list[int], filter_: str
) -> None:
    form = form_of((await client.get("/changes/pause?listener=mail")).text, "/changes/pause")
    answer = await client.post("/changes/pause", data={**form, "filter": filter_, "reason": "x"})
    assert answer.status_code == 400
    assert await operations(rows) == []


# ---------------------------------------------------------------------------------------------------------- audit trail


@pytest.fixture
async def trail(rows: Rows, letters: list[int]) -> None:
    for verb, filter_, reason, person in (
        ("pause", '{"listener": "mail"}', "too many errors", "ann"),
        ("retry", '{"listener": "mail", "where": {"email": "eve@example.com"}}', "=cmd()", "bob"),
        ("resume", '{"listener": "mail"}', "all is well", "ann"),
    ):
        await rows.connection.execute("CALL pgbus.operate($1, $2, $3, $4)", verb, filter_, reason, person)
    await rows.connection.execute("UPDATE pgbus.operations SET requested_at = '2026-01-01T00:00Z' WHERE verb = 'pause'")


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({}, ["resume", "retry", "pause"]),
        ({"verb": "pause"}, ["pause"]),
        ({"who": "ann"}, ["resume", "pause"]),
        ({"who": "postgres"}, ["resume", "retry", "pause"]),
        ({"subject": "mail", "who": "bob"}, ["retry"]),
        ({"subject": "none"}, []),
        ({"state": "running"}, []),
        ({"since": "2026-01-02T00:00Z"}, ["resume", "retry"]),
        ({"until": "2026-01-02T00:00Z"}, ["pause"]),
    ],
)
async def test_operations_are_found_by_verb_person_subject_state_and_time(
    client: httpx.AsyncClient, trail: None, asked: dict[str, str], found: list[str]
) -> None:
    page = (await client.get("/operations", params=asked)).text
    assert re.findall(r'<a href="/operations/\d+">([a-z_]+)</a>', page) == found
    exported = (await client.get("/operations.json", params=asked)).json()
    assert [one["verb"] for one in exported] == found


async def test_operations_are_exported_as_csv_that_no_spreadsheet_runs_and_without_hidden_fields(
    database: str, trail: None
) -> None:
    dashboard = Dashboard(Config(dsn=database), allow=everyone("reader"), hidden=["email"])
    async with browser(dashboard) as client:
        answer = await client.get("/operations.csv", params={"who": "bob"})
        assert answer.headers["content-disposition"] == 'attachment; filename="operations.csv"'
        [row] = csv.DictReader(io.StringIO(answer.text))
        assert (row["verb"], row["person"], row["reason"], row["touched"]) == ("retry", "bob", "'=cmd()", "0")
        for path in ("/operations.json", "/operations.csv", f"/operations/{row['id']}"):
            text = (await client.get(path)).text
            assert "eve@example.com" not in text
            assert "(hidden)" in text
        assert (await client.get("/operations.json?since=now")).status_code == 400


async def test_all_that_an_operation_has_touched_is_exported(
    database: str, client: httpx.AsyncClient, rows: Rows, letters: list[int]
) -> None:
    await rows.connection.execute("UPDATE pgbus.dead_letters SET error = '=cmd()' WHERE id = $1", letters[0])
    await rows.connection.execute("CALL pgbus.operate('discard', jsonb_build_object('listener', 'mail'))")
    [number] = [row[0] for row in await rows.connection.fetch("SELECT id FROM pgbus.operations")]
    found = (await client.get(f"/operations/{number}/items.json")).json()
    assert [one["letter_id"] for one in found] == letters
    answer = await client.get(f"/operations/{number}/items.csv")
    assert answer.headers["content-disposition"] == f'attachment; filename="operation-{number}.csv"'
    assert next(row["error"] for row in csv.DictReader(io.StringIO(answer.text))) == "'=cmd()"
    assert f'href="/operations/{number}/items.csv"' in (await client.get(f"/operations/{number}")).text
    assert (await client.get("/operations/99/items.csv")).status_code == 404
    async with browser(Dashboard(Config(dsn=database))) as stranger:
        assert (await stranger.get(f"/operations/{number}/items.csv")).status_code == 401


async def test_the_person_of_the_applications_own_check_is_the_person_of_the_operation(
    database: str, rows: Rows, letters: list[int]
) -> None:
    dashboard = Dashboard(Config(dsn=database), allow=lambda _: Person("Zoë O'Hara", "operator"))
    async with browser(dashboard) as client:
        await change(client, "pause", "a drill", listener="mail")
    assert [row[2] for row in await operations(rows)] == ["Zoë O'Hara"]


# --------------------------------------------------------------------------------------------------------- dead letters


async def test_one_dead_letter_is_retried_as_a_probe_and_its_group_after_it_is_done(
    client: httpx.AsyncClient, dashboard: Dashboard, rows: Rows, letters: list[int]
) -> None:
    await rows.connection.execute("UPDATE pgbus.dead_letters SET fingerprint = 'KeyError at shop:send' WHERE id <> $1",
                                  letters[2])  # fmt: skip
    page = (await client.get("/dead")).text
    assert f'href="/changes/retry?ids={letters[1]}"' in page
    address = await change(client, "retry", "a probe", ids=str(letters[1]))
    await dashboard.state.carrier.finish()
    assert "waiting" in (await client.get(address)).text
    listener_id = await rows.connection.fetchval("DELETE FROM pgbus.deliveries RETURNING listener_id")
    await rows.attempt(listener_id, 2)
    page = (await client.get(address)).text
    assert 'href="/changes/retry?listener=mail&amp;error=KeyError+at+shop%3Asend"' in page
    await change(client, "retry", "the probe is done", listener="mail", error="KeyError at shop:send")
    await dashboard.state.carrier.finish()
    assert [row[4] for row in await operations(rows)] == [1, 1]


async def test_a_dead_letter_shows_how_often_it_was_retried_before(
    client: httpx.AsyncClient, rows: Rows, letters: list[int]
) -> None:
    await rows.connection.execute(
        "CALL pgbus.operate('retry', jsonb_build_object('ids', ARRAY[$1::bigint]))", letters[0]
    )
    listener_id = await rows.connection.fetchval("DELETE FROM pgbus.deliveries RETURNING listener_id")
    await rows.dead_letter(listener_id, 1, error="KeyError: 'a'")
    page = (await client.get("/dead")).text
    assert "retried 1 time<" in page
    assert (
        '</svg></td><td class="n" data-label="last hour">2</td><td class="n some" data-label="retried before">1</td>'
        in page
    )


async def test_a_group_shows_how_many_died_in_each_of_the_last_24_hours(
    database: str, client: httpx.AsyncClient, rows: Rows, letters: list[int]
) -> None:
    ages = "UPDATE pgbus.dead_letters SET dead_at = now() - $2 * interval '1 minute', fingerprint = 'a' WHERE id = $1"
    for letter, minutes in zip(letters, (0, 90, 25 * 60), strict=True):
        await rows.connection.execute(ages, letter, minutes)
    async with Admin.connect(Config(dsn=database)) as admin:
        [group] = await admin.dead_letters.summarize()
    assert (group.letters, group.trend) == (3, [0] * 22 + [1, 1])
    page = (await client.get("/dead")).text
    assert 'aria-label="2 in 24 hours, at most 1 in one of them"' in page


async def test_twenty_thousand_failures_of_twelve_causes_are_triaged_as_twelve_groups(
    client: httpx.AsyncClient, dashboard: Dashboard, rows: Rows
) -> None:
    listener_id = await rows.listener("mailer", "orders.*")
    await rows.event(1)
    await rows.connection.execute(
        """
        INSERT INTO pgbus.dead_letters (listener_id, position, attempts, error, fingerprint, worker)
        SELECT $1, 1, 5, 'ValueError: order ' || n || ' of ' || md5(n::text) || ' has no item ' || (n * 7),
               'ValueError at shop.mail:step_' || chr(97 + n % 12), 'w'
        FROM generate_series(1, 20000) AS n
        """,
        listener_id,
    )
    groups = re.findall(r"<code>ValueError at shop.mail:step_(\w)</code>", (await client.get("/dead")).text)
    assert sorted(groups) == list("abcdefghijkl")
    page = (await client.get("/changes/discard?listener=mailer&error=ValueError at shop.mail:step_c")).text
    assert "1\u202f667 dead letters" in page
    await change(client, "discard", "withdrawn", listener="mailer", error="ValueError at shop.mail:step_c")
    await dashboard.state.carrier.finish()
    groups = re.findall(r"<code>ValueError at shop.mail:step_(\w)</code>", (await client.get("/dead")).text)
    assert sorted(groups) == list("abdefghijkl")


# ------------------------------------------------------------------------------------------------- an event, once more


SCHEMA = """{"parameters": {"type": "object", "required": ["order_id"], "additionalProperties": true,
                            "properties": {"order_id": {"type": "integer"}}}}"""


@pytest.fixture
async def typo(rows: Rows) -> str:
    """The id of an event whose payload has a typo and a secret; its topic has a schema."""
    await rows.listener("mail", "orders.*")
    await rows.connection.execute(
        "INSERT INTO pgbus.schemas (kind, name, service, version, schema, hash)"
        " VALUES ('event', 'orders.placed', 'shop', 1, $1, 'x')",
        SCHEMA,
    )
    payload = {"order_id": 7, "email": "adam@exmaple.com", "card": {"number": "4711"}, "cards": [{"number": "0815"}]}
    return str(await rows.event(1, payload=payload, key="customer 7", headers={"correlation_id": "c1", "tenant": "a"}))


async def send_again(client: httpx.AsyncClient, event_id: str, payload: str, reason: str = "a typo") -> httpx.Response:
    address = f"/events/{event_id}/again"
    form = form_of((await client.get(address)).text, address)
    return await client.post(address, data={**form, "payload": payload, "reason": reason})


async def test_an_edited_payload_is_published_as_a_new_event_that_names_the_old_one(
    database: str, rows: Rows, typo: str
) -> None:
    dashboard = Dashboard(Config(dsn=database), allow=everyone("operator"), hidden=["number"])
    async with browser(dashboard) as client:
        page = unescape((await client.get(f"/events/{typo}/again")).text)
        assert "4711" not in page
        text = re.search(r"<textarea[^>]*>\n(.*?)</textarea>", page, re.DOTALL)
        assert text is not None
        answer = await send_again(client, typo, text.group(1).replace("exmaple", "example"))
        assert answer.status_code == 303, answer.text
        assert typo in (await client.get(answer.headers["location"])).text
    [new] = await rows.connection.fetch("SELECT event_id, topic, key, payload, headers FROM pgbus.outbox")
    assert (new["topic"], new["key"]) == ("orders.placed", "customer 7")
    assert json.loads(new["payload"]) == {
        "order_id": 7, "email": "adam@example.com", "card": {"number": "4711"}, "cards": [{"number": "0815"}],
    }  # fmt: skip
    assert json.loads(new["headers"]) == {"correlation_id": "c1", "causation_id": typo, "tenant": "a"}
    [done] = await rows.connection.fetch("SELECT verb, person, reason, filter, result FROM pgbus.operations")
    assert tuple(done)[:3] == ("republish", "ann", "a typo")
    assert json.loads(done["filter"]) == {"event": typo}
    assert json.loads(done["result"]) == {"event_id": str(new["event_id"])}


@pytest.mark.parametrize(
    ("payload", "reason", "says"),
    [
        ('{"order_id": "seven"}', "a typo", "does not fit the schema"),
        ("{}", "a typo", "does not fit the schema"),
        ("{", "a typo", "this is not JSON"),
        ('{"order_id": 8}', "", "give a reason"),
    ],
)
async def test_a_payload_that_does_not_fit_is_shown_again_with_the_reason_and_not_published(
    client: httpx.AsyncClient, rows: Rows, typo: str, payload: str, reason: str, says: str
) -> None:
    answer = await send_again(client, typo, payload, reason)
    assert answer.status_code == 409
    assert says in answer.text
    assert payload in unescape(answer.text)
    assert await rows.connection.fetchval("SELECT count(*) FROM pgbus.outbox") == 0
    assert await operations(rows) == []


async def test_a_reader_cannot_publish_and_an_event_that_is_not_there_cannot_be_published_again(
    database: str, client: httpx.AsyncClient, typo: str
) -> None:
    async with browser(Dashboard(Config(dsn=database), allow=everyone("reader"))) as reader:
        assert (await reader.get(f"/events/{typo}/again")).status_code == 403
        assert "/again" not in (await reader.get(f"/events/{typo}")).text
    for event_id in ("none", "018f4e7e-0000-7000-8000-000000000000"):
        assert (await client.get(f"/events/{event_id}/again")).status_code == 404
