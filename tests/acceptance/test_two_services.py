"""Services that know nothing of each other, and versions of one service side by side."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.services import Service, Services
from tests.support.waiting import eventually

# Lightbus's pages, without a service name, and without (seed 000) or with (seed 001) a listener_name.
AUTH = """
import pgbus
from pgbus import Api, Event

bus = pgbus.create()


class AuthApi(Api):
    user_created = Event(parameters=("username", "email"))
    user_updated = Event(parameters=("username", "new_email"))
    user_deleted = Event(parameters=("username",))

    class Meta:
        name = "auth"


bus.client.register_api(AuthApi())
"""
# Its handlers run in threads, so each line is one write.
HEARING = """
import pgbus

bus = pgbus.create()


def handle_created(event, username, email):
    print(f"created {{username}}\\n", end="", flush=True)


def handle_deleted(event, username):
    print(f"deleted {{username}}\\n", end="", flush=True)


def before_server_start():
    bus.auth.user_created.listen(handle_created{created})
    bus.auth.user_deleted.listen(handle_deleted{deleted})
"""
FIRE = """
from bus import bus
for number in range(10):
    bus.auth.user_created.fire(username=f"u{number}", email="e")
    bus.auth.user_deleted.fire(username=f"u{number}")
"""
ALL = sorted(f"{what} u{number}" for what in ("created", "deleted") for number in range(10))

# One plain listener of a name that is taken as it is.
PLAIN = """
import pgbus

bus = pgbus.create()


@bus.listener({topics}, name="mail")
async def mail(event: pgbus.EventMessage):
    print(event.topic, event.payload["n"], flush=True)
"""


async def _heard(service: Service, wanted: list[str]) -> None:
    await eventually(lambda: len(service.out) >= len(wanted), 40.0)
    assert sorted(service.out) == wanted


@pytest.mark.parametrize(
    "names", [("", ""), (', listener_name="user_created"', ', listener_name="user_deleted"')], ids=["unnamed", "named"]
)
async def test_two_services_without_a_service_name_each_get_their_own_copy(
    services: Services, names: tuple[str, str]
) -> None:
    auth = services.write("auth_service", AUTH)
    source = HEARING.format(created=names[0], deleted=names[1])
    async with (
        services.worker(services.write("mail_service", source)) as mail,
        services.worker(services.write("audit_service", source)) as audit,
    ):
        services.run(auth, _script(auth, FIRE))
        await _heard(mail, ALL)
        await _heard(audit, ALL)
    names_there = [row[0] for row in await services.connection.fetch("SELECT DISTINCT service FROM pgbus.listeners")]
    assert sorted(names_there) == ["audit_service", "mail_service"]
    assert "split" not in repr(mail) + repr(audit)


async def test_services_whose_listeners_share_a_name_hear_each_its_own_event(services: Services) -> None:
    auth = services.write("auth_service", AUTH)
    mail_source = HEARING.format(created=', listener_name="users"', deleted="")
    audit_source = HEARING.format(created="", deleted=', listener_name="users"')
    mail, audit = services.write("mail_service", mail_source), services.write("audit_service", audit_source)
    async with services.worker(mail), services.worker(audit) as second:
        async with services.worker(mail) as again:  # at whose start it used to flip back
            services.run(auth, _script(auth, FIRE))
            await services.settled()
        await _heard(second, ALL)
        assert "no longer hears" not in repr(again)
    assert await services.dead_errors() == []


async def test_a_listener_is_not_taken_from_a_live_worker_of_another_service(services: Services) -> None:
    shop, mail = (
        services.write(name, PLAIN.format(topics=topic)) for name, topic in (("shop", '"a.b"'), ("mailer", '"c.d"'))
    )
    async with services.worker(shop) as worker:
        refused = services.command(mail, "run")
        assert refused.returncode == 2
        first = r"\S+ \(process \d+ on .*\) of service 'shop' \(.*/shop\) runs it for a\.b"
        second = r"this process, of service 'mailer' \(.*/mailer\), declares it for c\.d"
        advice = "If they are two services, give each its own service_name, or the listener another name;"
        assert re.match(
            rf"pgbus: listener 'mail' is taken: {first}, and {second}\. {advice}", refused.stderr.splitlines()[-1]
        )
        services.pgbus(mail, "publish", "a.b", '{"n": 1}')
        await _heard(worker, ["a.b 1"])
    async with services.worker(mail) as worker:  # nobody is there whom it would rob
        services.pgbus(mail, "publish", "c.d", '{"n": 2}')
        await _heard(worker, ["c.d 2"])


@pytest.mark.parametrize("second", ["mailer", "elsewhere/shop"])
async def test_services_that_share_a_listener_by_accident_are_told(services: Services, second: str) -> None:
    (services.directory / "elsewhere").mkdir()
    source = PLAIN.format(topics='"a.b"')
    async with (
        services.worker(services.write("shop", source)),
        services.worker(services.write(second, source)) as other,
    ):
        await other.says(r"listener mail: .* of service 'shop' \(.*/shop\) runs it too, and this process is of service")


@pytest.mark.parametrize("second", ["mail_service", "elsewhere/shop"])
async def test_services_that_share_a_procedure_or_a_schedule_by_accident_are_told(
    services: Services, second: str
) -> None:
    (services.directory / "elsewhere").mkdir()
    source = """
    import pgbus

    bus = pgbus.create()


    @bus.procedure("math.double")
    async def double(n: int) -> int:
        return 2 * n


    @bus.client.every(hours=1, name="nightly")
    def nightly() -> None:
        pass
    """
    async with (
        services.worker(services.write("shop", source)),
        services.worker(services.write(second, source)) as other,
    ):
        await other.says(r"procedure math.double: .* of service 'shop' serves it too, and this process is of service")
        if second == "elsewhere/shop":
            await other.says(
                r"is of service 'shop' too, whose folder is .*/shop, and that of this process is .*elsewhere/shop"
            )


# ------------------------------------------------------------------------------------------------------ rolling deploys


def _releases(services: Services, old: str = '"a.b"', new: str = '"a.b", "c.d"') -> tuple[Path, Path]:
    for folder in ("shop", "shop/releases"):
        (services.directory / folder).mkdir()
    return (
        services.write("shop/releases/1", PLAIN.format(topics=old)),
        services.write("shop/releases/2", PLAIN.format(topics=new)),
    )


def _publish(services: Services, cwd: Path, numbers: range) -> None:
    services.run_code(
        cwd,
        f"""
        import pgbus
        bus = pgbus.create()
        for n in {numbers!r}:
            bus.publish_sync({{"n": n}}, topic="a.b")
            bus.publish_sync({{"n": n}}, topic="c.d")
        """,
    )


async def _all_done(services: Services, numbers: range, topics: tuple[str, ...] = ("a.b", "c.d")) -> None:
    await services.settled()
    assert await services.dead_errors() == []
    done = await services.connection.fetch(
        """SELECT e.topic || ' ' || (e.payload ->> 'n') AS event FROM pgbus.attempts AS h
           JOIN pgbus.events AS e ON e.position = h.position WHERE h.outcome = 'done'"""
    )
    assert sorted(row["event"] for row in done) == sorted(f"{topic} {n}" for topic in topics for n in numbers)


@pytest.mark.parametrize("starts_first", ["old", "new"])
async def test_old_and_new_workers_run_side_by_side_in_a_rolling_deploy(services: Services, starts_first: str) -> None:
    old, new = _releases(services)
    first, second = (old, new) if starts_first == "old" else (new, old)
    async with services.worker(first) as one, services.worker(second) as other:
        _publish(services, old, range(30))
        await _all_done(services, range(30))
        old_worker = one if first is old else other
        assert not [line for line in old_worker.out if line.startswith("c.d")]


async def test_restarts_in_a_rolling_deploy_lose_no_event_of_the_added_topic(services: Services) -> None:
    old, new = _releases(services)
    async with services.worker(old), services.worker(new):
        _publish(services, old, range(5))
    # Both are gone. The older one is back first, and alone.
    async with services.worker(old) as alone:
        _publish(services, old, range(5, 20))
        await eventually(lambda: len([line for line in alone.out if line.startswith("a.b")]) >= 15, 40.0)
        async with services.worker(new):
            _publish(services, old, range(20, 25))
            await _all_done(services, range(25))
        assert not [line for line in alone.out if line.startswith("c.d")]


async def test_an_older_worker_that_restarts_beside_a_newer_one_leaves_it_its_options(services: Services) -> None:
    for folder in ("shop", "shop/releases"):
        (services.directory / folder).mkdir()
    old, new = (
        services.write(f"shop/releases/{number}", PLAIN.format(topics=f'"a.b", concurrency={number}'))
        for number in (1, 2)
    )
    query = "SELECT options ->> 'concurrency' FROM pgbus.listeners"
    async with services.worker(old):
        assert await services.connection.fetchval(query) == "1"
        async with services.worker(new):
            assert await services.connection.fetchval(query) == "2"
            async with services.worker(old) as again:
                await again.says("listener mail keeps the options of the newer version that runs")
                assert await services.connection.fetchval(query) == "2"
        async with services.worker(old) as rolled_back:
            await rolled_back.says("listener mail has new options")
            assert await services.connection.fetchval(query) == "1"


async def test_a_version_that_drops_a_topic_leaves_its_events_to_the_older_worker(services: Services) -> None:
    old, new = _releases(services, old='"a.b", "c.d"', new='"a.b"')
    async with services.worker(old), services.worker(new) as newer:
        _publish(services, old, range(10))
        await _all_done(services, range(10))
        assert not [line for line in newer.out if line.startswith("c.d")]
    async with services.worker(services.write("shop/releases/3", PLAIN.format(topics='"a.b", "e.f"'))):
        rows = await services.connection.fetch("SELECT pattern FROM pgbus.subscriptions ORDER BY pattern")
        assert [row["pattern"] for row in rows] == ["a.b", "e.f"]


def _script(cwd: Path, code: str) -> str:
    (cwd / "fire.py").write_text(code)
    return "fire.py"


# A service that publishes and one that hears, for two versions of an event: neither version reads the other.
VERSIONS = {1: "number: int", 2: "reference: str"}
PUBLISHING = """
import asyncio, sys
from dataclasses import dataclass
import pgbus

bus = pgbus.create(service_name="shop")


@pgbus.event("orders.placed")
@dataclass
class OrderPlaced:
    {field}


async def publish(values):
    async with bus:
        for value in values:
            await bus.publish(OrderPlaced(value), key="adam")
"""
READING = """
from dataclasses import dataclass
import pgbus

bus = pgbus.create(service_name="mail")


@dataclass
class Placed:
    {field}


@bus.listener("orders.placed", name="mail", ordered={ordered})
async def mail(event: Placed):
    print("version {version}", *vars(event).values(), flush=True)
"""
PUBLISH = "import asyncio; from bus import publish; asyncio.run(publish({values}))"


def _two_versions(services: Services, *, ordered: bool = False) -> tuple[list[Path], list[Path]]:
    """The directories of the publisher's two versions, and of the listener's."""
    shops = [services.write(f"shop_{n}", PUBLISHING.format(field=field)) for n, field in VERSIONS.items()]
    mails = [
        services.write(f"mail_{n}", READING.format(field=field, version=n, ordered=ordered))
        for n, field in VERSIONS.items()
    ]
    return shops, mails


@pytest.mark.parametrize("ordered", [False, True])
async def test_events_of_a_new_version_wait_for_the_code_that_reads_them(services: Services, ordered: bool) -> None:
    (old_shop, new_shop), (old_mail, new_mail) = _two_versions(services, ordered=ordered)
    numbers, references = list(range(10)), [f"r{n}" for n in range(200)]
    async with services.worker(old_mail) as old:
        services.run_code(old_shop, PUBLISH.format(values=numbers))
        await eventually(lambda: len(old.out) == len(numbers), 40.0)
        services.run_code(new_shop, PUBLISH.format(values=references))

        async def is_parked() -> bool:
            why = await services.connection.fetchval("SELECT max(last_error) FROM pgbus.pending WHERE state = 'parked'")
            return bool(why == "version 2 of orders.placed is newer than this listener: left to one that reads it")

        await eventually(is_parked, 40.0)  # the old worker asks again now and then, and has it in flight then
        async with services.worker(new_mail) as new:
            await eventually(lambda: len(new.out) >= len(references), 60.0)
            await services.settled()
            said = list(new.out)
    assert old.out == [f"version 1 {n}" for n in numbers]
    assert (said if ordered else sorted(said)) == (
        [f"version 2 {one}" for one in references] if ordered else sorted(f"version 2 {one}" for one in references)
    )
    assert await services.dead_errors() == []
    burnt = await services.connection.fetchval("SELECT count(*) FROM pgbus.event_history WHERE attempt > 1")
    assert burnt == 0


async def test_two_versions_of_a_listener_each_handle_the_events_that_they_read(services: Services) -> None:
    (old_shop, new_shop), (old_mail, new_mail) = _two_versions(services)
    numbers, references = list(range(100)), [f"r{n}" for n in range(100)]
    async with services.worker(old_mail) as old, services.worker(new_mail) as new:
        services.run_code(old_shop, PUBLISH.format(values=numbers))
        services.run_code(new_shop, PUBLISH.format(values=references))
        await eventually(lambda: len(old.out) + len(new.out) >= 200, 60.0)
        await services.settled()
    assert sorted(old.out) == sorted(f"version 1 {n}" for n in numbers)
    assert sorted(new.out) == sorted(f"version 2 {one}" for one in references)
    assert await services.dead_errors() == []


async def test_an_event_that_no_version_reads_is_a_dead_letter_at_once(services: Services) -> None:
    _, (old_mail, _) = _two_versions(services)
    async with services.worker(old_mail):
        await services.connection.execute(
            "INSERT INTO pgbus.outbox (topic, payload) VALUES ('orders.placed', '{\"what\": 1}')"
        )

        async def is_dead() -> bool:
            return len(await services.dead_errors()) == 1

        await eventually(is_dead, 40.0)
