"""The history of a service that has fired and handled, as `pgbus inspect` shows it."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support import eventually
from tests.support.programs import PROGRAM
from tests.support.services import PATIENCE, Services
from tests.support.workers import open_bus

AUTH = """
import pgbus


class AuthApi(pgbus.Api):
    user_registered = pgbus.Event(parameters=("email", "age", "address"))
    user_deleted = pgbus.Event(parameters=("email",))

    class Meta:
        name = "my.auth"
        version = 2


class ShopApi(pgbus.Api):
    opened = pgbus.Event()

    class Meta:
        name = "shop"


bus = pgbus.create(service_name="auth")
bus.client.register_api(AuthApi())
bus.client.register_api(ShopApi())


def welcome(event, email, **others):
    pass


bus.my.auth.user_registered.listen(welcome, listener_name="welcome")
"""

FIRE = """
from bus import bus

registered = bus.my.auth.user_registered
for email, age, city in (("joe@example.com", 9, "London"), ("eve@example.com", 18, "Paris")):
    print(registered.fire(email=email, age=age, address={"city": city}).id)
print(bus.my.auth.user_deleted.fire(email="joe@example.com").id)
print(bus.shop.opened.fire().id)
"""


async def test_events_are_found_by_their_names_ids_versions_and_arguments(services: Services) -> None:
    """S16 and N16"""
    auth = services.write("auth", AUTH)

    def found(*options: str) -> list[str]:
        shown = services.pgbus(auth, "inspect", *options).splitlines()
        return [json.loads(line)["id"] for line in reversed(shown)]  # the newest came first

    async with services.worker(auth):
        joe, eve, deleted, opened = services.run_code(auth, FIRE).split()
        await services.settled()
        assert found() == [joe, eve, deleted, opened]
        assert found("--id", eve) == [eve]
        position = await services.connection.fetchval(
            "SELECT position::text FROM pgbus.events WHERE event_id = $1", eve
        )
        assert found("--native-id", position) == [eve]
        assert found("--api", "my.auth") == found("--api", "my.*") == found("--version", ">=2") == [joe, eve, deleted]
        assert found("--event", "user_registered") == found("--event", "*_registered") == [joe, eve]
        assert found("-j", "email=joe@example.com") == [joe, deleted]
        assert found("-j", "address.city=London") == found("-j", "age<=9") == found("-j", "age!=18") == [joe]
        human = services.pgbus(auth, "inspect", "--id", joe, "--format", "human")
        assert "my.auth.user_registered" in human
        assert "auth-welcome" in human
        await follow_one_api(services, auth)
    nothing = services.command(auth, "inspect", "--api", "nobody")
    assert (nothing.returncode, nothing.stdout) == (1, "")


async def follow_one_api(services: Services, auth: Path) -> None:
    command = (PROGRAM, "inspect", "--follow", "--api", "shop", "--format", "json")
    async with services.process(*command, cwd=auth) as following, open_bus(services.dsn) as bus:

        async def something_is_shown() -> bool:
            for topic in ("my.auth.user_deleted", "shop.opened"):
                await bus.publish({"email": "joe@example.com"}, topic=topic)
            return bool(following.out)

        await eventually(something_is_shown, PATIENCE)  # from when on it looks, nobody says
        assert {json.loads(line)["api_name"] for line in following.out} == {"shop"}
