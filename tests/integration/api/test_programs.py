"""Services as they are written in their own directories, run as processes: `pgbus run` beside a `bus.py`."""

from __future__ import annotations

import pytest

from tests.support import eventually
from tests.support.services import Services

AUTH_SERVICE = """
import pgbus
from pgbus import Api, Event


class AuthApi(Api):
    user_created = Event(parameters=('username', 'email'))
    user_updated = Event(parameters=('username', 'new_email'))
    user_deleted = Event(parameters=('username'))

    class Meta:
        name = 'auth'


bus = pgbus.create()
bus.client.register_api(AuthApi())
"""

HANDLERS = """
import pgbus

bus = pgbus.create()
user_db = {}


def handle_created(username, email):
    user_db[username] = email
    print(user_db)


def handle_updated(username, email):
    user_db[username] = email
    print(user_db)


def handle_deleted(username):
    user_db.pop(username)
    print(user_db)

"""

WITHOUT_NAMES = """
def before_server_start():
    bus.auth.user_created.listen(handle_created)
    bus.auth.user_updated.listen(handle_updated)
    bus.auth.user_deleted.listen(handle_deleted)
"""

WITH_NAMES = """
def before_server_start():
    bus.auth.user_created.listen(
        handle_created,
        listener_name="user_created"
    )
    bus.auth.user_updated.listen(
        handle_updated,
        listener_name="user_updated"
    )
    bus.auth.user_deleted.listen(
        handle_deleted,
        listener_name="user_deleted"
    )
"""

AWAITED = """
async def before_server_start():
    await bus.auth.user_created.listen_async(
        handle_created,
        listener_name="user_created"
    )
    await bus.auth.user_updated.listen_async(handle_updated, listener_name="user_updated")
    await bus.auth.user_deleted.listen_async(handle_deleted, listener_name="user_deleted")
"""


# ------------------------------------------------------------------------------------------ the events page, as written


FIRE = """
from bus import bus
bus.auth.user_created.fire(username='adam', email='adam@example.com')
"""

FIRE_ASYNC = """
import asyncio
from bus import bus

async def main():
    await bus.auth.user_deleted.fire_async(username='adam')

asyncio.run(main())
"""


@pytest.mark.parametrize("listening", [WITHOUT_NAMES, WITH_NAMES, AWAITED])
async def test_one_service_hears_the_events_that_another_one_fires(services: Services, listening: str) -> None:
    auth = services.write("auth_service", AUTH_SERVICE)
    other = services.write("other_service", HANDLERS + listening)
    async with services.worker(other) as worker:
        done = services.execute(auth, FIRE)
        assert done.returncode == 0, done.stderr
        assert await worker.line() == "{'adam': 'adam@example.com'}"
        done = services.execute(auth, FIRE_ASYNC)
        assert done.returncode == 0, done.stderr
        assert await worker.line() == "{}"
    assert await services.dead_errors() == []


async def test_a_handler_whose_parameters_are_not_those_of_its_event_is_told_so(services: Services) -> None:
    auth = services.write("auth_service", AUTH_SERVICE)
    other = services.write("other_service", HANDLERS + WITH_NAMES)
    async with services.worker(other) as worker:
        services.execute(auth, "from bus import bus; bus.auth.user_updated.fire(username='adam', new_email='a')")
        errors = await eventually(services.dead_errors)
        services.execute(auth, FIRE)
        assert await worker.line() == "{'adam': 'adam@example.com'}"
    [error] = errors
    assert "bus.handle_updated cannot take auth.user_updated" in error
    assert "the event has no 'email' and the handler has no parameter 'new_email'" in error


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("username='adam', password='adam@example.com'", "InvalidEventArguments: password: "),
        ("username='adam'", "InvalidEventArguments: email: "),
        ("'adam', 'adam@example.com'", "InvalidParameters: "),
    ],
)
async def test_firing_with_wrong_arguments_fails_naming_them(services: Services, arguments: str, reason: str) -> None:
    auth = services.write("auth_service", AUTH_SERVICE)
    done = services.execute(auth, f"from bus import bus; bus.auth.user_created.fire({arguments})")
    assert done.returncode == 1
    assert reason in done.stderr


async def test_a_service_fires_no_events_of_an_api_that_is_not_its_own(services: Services) -> None:
    other = services.write("other_service", HANDLERS + WITH_NAMES)
    done = services.execute(other, FIRE)
    assert done.returncode == 1
    assert "UnknownApi: no API named 'auth' is registered here" in done.stderr


# ---------------------------------------------------------------------------------------------------------------- calls

QUICK_START = AUTH_SERVICE.replace(
    "    class Meta:",
    """
    def check_password(self, username, password):
        return username == 'admin' and password == 'secret'

    def create_user(self, name, email):
        print(f"created {name} {email}")

    class Meta:""",
)


async def test_a_handler_calls_another_service_for_each_event(services: Services) -> None:
    auth = services.write("auth_service", QUICK_START)
    customers = services.write(
        "customers_service",
        """
        import pgbus

        class CustomersApi(pgbus.Api):
            new_customer = pgbus.Event(parameters=('customer_name', 'email'))

            class Meta:
                name = 'customers'

        bus = pgbus.create()
        bus.client.register_api(CustomersApi())

        def create_user_for_customer(event_message,
                                     customer_name, email):
            bus.auth.create_user(
                name=customer_name,
                email=email
            )

        # Setup our listeners on startup
        def on_start():
            # Create a new user for each new customer
            bus.customers.new_customer.listen(create_user_for_customer, listener_name="create_user_for_customer")
        """,
    )
    async with services.worker(auth) as worker, services.worker(customers):
        services.execute(
            customers, "from bus import bus; bus.customers.new_customer.fire(customer_name='A', email='a')"
        )
        assert await worker.line() == "created A a"


# ----------------------------------------------------------------------------------------------------- the worker alone


async def test_a_start_hook_that_is_decorated_and_named_on_start_runs_once(services: Services) -> None:
    directory = services.write(
        "another_service",
        """
        import pgbus

        bus = pgbus.create()

        def handle_new_user(event, username, email):
            print(f"{event.canonical_name}: {username} {email}")

        @bus.client.on_start()
        def on_start(client):
            bus.auth.user_created.listen(handle_new_user, listener_name="print_on_new_registration")
            print("started", type(client).__name__)
        """,
    )
    auth = services.write("auth_service", AUTH_SERVICE)
    async with services.worker(directory) as worker:
        assert await worker.line() == "started BusClient"
        services.execute(auth, FIRE)
        assert await worker.line() == "auth.user_created: adam adam@example.com"


@pytest.mark.parametrize(
    ("source", "code", "said"),
    [
        ("import pgbus\nbus = pgbus.create()\ndef on_start(): bus.a.b.listen(1)\n", 2, "a listener needs a function"),
        ("import pgbus\nbus = pgbus.create()\ndef on_start(): raise ValueError('no')\n", 70, "ValueError: no"),
    ],
)
async def test_a_service_that_cannot_start_says_why_and_fails(
    services: Services, source: str, code: int, said: str
) -> None:
    done = services.command(services.write("broken", source), "run")
    assert done.returncode == code, done.stderr
    assert said in done.stderr


# --------------------------------------------------------------------------------------------------------- the examples


async def test_the_tutorial_runs(services: Services) -> None:
    auth, other, customers = (services.copy(name) for name in ("auth_service", "other_service", "customers_service"))
    async with (
        services.worker(auth) as auth_worker,
        services.worker(other) as other_worker,
        services.worker(customers),
    ):
        services.run(auth, "fire.py")
        said = sorted([await other_worker.line() for _ in range(3)])
        assert [text.partition(":")[0] for text in said] == [
            "created",
            "deleted, as auth.user_deleted says",
            "updated",
        ]
        assert services.run(other, "check_password.py").split() == ["secret:", "True", "guess:", "False"]
        services.run(customers, "sign_up.py")
        assert await auth_worker.line() == "creating eve"
        assert "'eve': 'eve@example.com'" in await other_worker.line()
