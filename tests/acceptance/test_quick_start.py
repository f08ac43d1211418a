"""Lightbus's first pages, as their readers take them: a worker, a call, an event, and whose events they are."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.support.services import Services

AUTH = """
import pgbus


class AuthApi(pgbus.Api):
    user_registered = pgbus.Event(parameters=("username", "email"))

    class Meta:
        name = "auth"

    def check_password(self, username, password):
        return username == "admin" and password == "secret"


bus = pgbus.create()
bus.client.register_api(AuthApi())
"""

REGISTER = """
import json
from bus import bus

username = input("New username? ")
email = input("Email? ")
event = bus.auth.user_registered.fire(username=username, email=email)
print(json.dumps([event.id, event.native_id, event.version, str(event)]))
"""

ANOTHER = """
import pgbus

bus = pgbus.create()


def handle_new_user(event, username, email):
    print(f"{event.id} {event.native_id}: {username} {email}")


@bus.client.on_start()
def on_start(client):
    bus.auth.user_registered.listen(handle_new_user, listener_name="print_on_new_registration")
"""


async def test_a_worker_of_nothing_but_a_bus_waits_for_ctrl_c_and_ends_with_0(services: Services) -> None:
    """S1"""
    async with services.worker(services.write("nothing", "import pgbus\nbus = pgbus.create()\n")) as worker:
        await worker.says(r"pgbus +\d+\.\d+")  # the banner
    assert worker.out == []


async def test_a_service_checks_a_password_for_another_one(services: Services) -> None:
    """S2"""
    auth = services.write("auth_service", AUTH)
    another = services.write("another_service", "import pgbus\nbus = pgbus.create()\n")
    code = """
    from bus import bus
    for password in ("secret", "not the password"):
        print(bus.auth.check_password(username="admin", password=password))
    """
    async with services.worker(auth) as worker:
        await worker.says(r"procedures +auth\.check_password$")
        assert services.run_code(another, code).split() == ["True", "False"]
    assert "no listeners to run" not in "".join(worker.err)
    query = "SELECT array_agg(procedure || ' ' || state) FROM pgbus.rpc_calls"
    assert await services.connection.fetchval(query) == ["auth.check_password answered"] * 2


async def test_each_registration_is_printed_once_by_another_service(services: Services) -> None:
    """S3"""
    auth = services.write("auth_service", AUTH, register=REGISTER)
    async with services.worker(services.write("another_service", ANOTHER)) as worker:
        for username in ("adam", "eve"):
            event_id, native_id, version, text = registered(services, auth, username)
            # The place in the log is known once the event is there, and that is after `fire` has returned.
            assert (native_id, version) == (None, 1)
            assert text == f"auth.user_registered(username='{username}', email='{username}@example.com')"
            assert re.fullmatch(rf"{event_id} \d+: {username} {username}@example\.com", await worker.line())
        await services.settled()
    assert len(worker.out) == 2


def registered(services: Services, auth: Path, username: str) -> tuple[str, str | None, int, str]:
    done = services.python(auth, "register.py", stdin=f"{username}\n{username}@example.com\n")
    assert done.returncode == 0, done.stderr
    event_id, native_id, version, text = json.loads(done.stdout.removeprefix("New username? Email? "))
    return event_id, native_id, version, text


async def test_a_service_listens_and_calls_but_fires_no_events_of_another_ones_api(services: Services) -> None:
    """S4"""
    auth, another = services.write("auth_service", AUTH), services.write("another_service", ANOTHER)
    fire = "bus.auth.user_registered.fire(username='eve', email='eve@example.com')"
    code = f"""
    import pgbus
    from bus import bus
    print(bus.auth.check_password(username="admin", password="secret"))
    try:
        {fire}
    except pgbus.UnknownApi as error:
        print(error.api_name)
    """
    async with services.worker(auth), services.worker(another) as worker:
        assert services.run_code(another, code).split() == ["True", "auth"]
        services.run_code(auth, f"from bus import bus\n{fire}")
        assert (await worker.line()).endswith("eve eve@example.com")


async def test_both_listeners_of_a_service_get_every_event_and_a_name_is_given_once(services: Services) -> None:
    """S5"""
    monitor = services.write(
        "price_monitor",
        """
        import pgbus
        import sys

        class CompetitorPricesApi(pgbus.Api):
            changed = pgbus.Event(parameters=("sku", "price"))

            class Meta:
                name = "competitor_prices"

        bus = pgbus.create(service_name="price-monitor")
        bus.client.register_api(CompetitorPricesApi())

        def send_price_alerts(event, sku, price):
            sys.stdout.write(f"alert {sku} {price}\\n")

        def update_db(event, sku, price):
            sys.stdout.write(f"update {sku} {price}\\n")

        bus.competitor_prices.changed.listen(send_price_alerts, listener_name="send_price_alerts")
        bus.competitor_prices.changed.listen(update_db, listener_name="update_db")
        """,
    )
    fire = "from bus import bus\nfor price in (1, 2, 3): bus.competitor_prices.changed.fire(sku='figs', price=price)"
    async with services.worker(monitor) as worker:
        services.run_code(monitor, fire)
        said = sorted([await worker.line() for _ in range(6)])
        await services.settled()
    assert said == sorted(f"{what} figs {price}" for what in ("alert", "update") for price in (1, 2, 3))
    assert len(worker.out) == 6
    names = await services.connection.fetchval("SELECT array_agg(listener_name ORDER BY 1) FROM pgbus.listeners")
    assert names == ["price-monitor-send_price_alerts", "price-monitor-update_db"]
    twice = services.execute(
        monitor, "from bus import *\nbus.competitor_prices.changed.listen(update_db, listener_name='update_db')"
    )
    assert twice.returncode == 1
    assert "DuplicateListenerName: two listeners are named 'price-monitor-update_db'" in twice.stderr


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (None, "there is no module 'bus'"),
        ("x = 1", "module 'bus' has no 'bus'"),
        ("bus = 1", "not a bus made by `pgbus.create()`"),
        ("raise ValueError('no')", "ValueError: no"),
    ],
    ids=["no module", "no bus", "another bus", "failing"],
)
async def test_a_module_without_a_bus_makes_the_worker_fail(services: Services, module: str | None, said: str) -> None:
    """N15"""
    broken = services.write("broken", module or "")
    if module is None:
        (broken / "bus.py").unlink()
    done = services.command(broken, "run")
    assert done.returncode != 0
    assert said in done.stderr
