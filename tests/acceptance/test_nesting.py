"""S7: handlers that call, procedures that fire, tasks that do both, all in one worker: nobody waits for himself."""

from __future__ import annotations

import signal

import pytest

from tests.support.services import Services

AUTH = """
import sys

import pgbus


def say(text):
    sys.stdout.write(text + "\\n")
    sys.stdout.flush()


class AuthApi(pgbus.Api):
    user_registered = pgbus.Event(parameters=("username", "round"))
    request_send_email = pgbus.Event(parameters=("username", "round"))
    something_else = pgbus.Event(parameters=("username", "round"))

    class Meta:
        name = "auth"

    {async_}def create_user(self, name, email):
        say(f"created {{name}} {{email}}")
        return {{"name": name}}

    {async_}def check_password(self, username, round):
        {fire}(username=username, round=round)
        return username == "admin"


bus = pgbus.create()
bus.client.register_api(AuthApi())
"""
FORMS = {
    "plain": {"async_": "", "fire": "bus.auth.something_else.fire"},
    "async": {"async_": "async ", "fire": "await bus.auth.something_else.fire_async"},
}

CUSTOMERS = """
import pgbus


class CustomersApi(pgbus.Api):
    new_customer = pgbus.Event(parameters=("customer_name", "email"))

    class Meta:
        name = "customers"


bus = pgbus.create()
bus.client.register_api(CustomersApi())
"""

LISTENER = """

def create_user_for_customer(event, customer_name, email):
    bus.auth.create_user(name=customer_name, email=email, bus_options={"timeout": 30, "wait": True})


def on_start(client):
    bus.customers.new_customer.listen(create_user_for_customer, listener_name="create_user_for_customer")
"""

STRESS = {
    "plain": """
rounds = iter(range(1000))


@bus.client.every(seconds=0.2, also_run_immediately=True)
def register():
    bus.auth.user_registered.fire(username="admin", round=next(rounds))


def handle_registered(event, username, round):
    bus.auth.request_send_email.fire(username=username, round=round)
    accepted = bus.auth.check_password(username=username, round=round, bus_options={"timeout": 30, "wait": True})
    say(f"checked {round} {accepted}")


def handle_email(event, username, round):
    say(f"mailed {round}")


def handle_else(event, username, round):
    say(f"else {round}")
""",
    "async": """
rounds = iter(range(1000))


@bus.client.every(seconds=0.2, also_run_immediately=True)
async def register():
    await bus.auth.user_registered.fire_async(username="admin", round=next(rounds))


async def handle_registered(event, username, round):
    await bus.auth.request_send_email.fire_async(username=username, round=round)
    calling = bus.auth.check_password.call_async
    accepted = await calling(username=username, round=round, bus_options={"timeout": 30, "wait": True})
    say(f"checked {round} {accepted}")


async def handle_email(event, username, round):
    say(f"mailed {round}")


async def handle_else(event, username, round):
    say(f"else {round}")
""",
}
LISTENING = """

bus.auth.user_registered.listen(handle_registered, listener_name="registered")
bus.auth.request_send_email.listen(handle_email, listener_name="email")
bus.auth.something_else.listen(handle_else, listener_name="else")
"""
ROUNDS = 10


@pytest.mark.parametrize("form", FORMS)
async def test_a_handler_calls_a_procedure_of_another_service(services: Services, form: str) -> None:
    auth = services.write("auth_service", AUTH.format(**FORMS[form]))
    customers = services.write("customers_service", CUSTOMERS + LISTENER)
    async with services.worker(auth) as serving, services.worker(customers):
        services.run_code(
            customers,
            "from bus import bus\nbus.customers.new_customer.fire(customer_name='A', email='a@b'); bus.close_sync()",
        )
        assert await serving.line() == "created A a@b"
        await services.settled()
    assert await services.dead_errors() == []


@pytest.mark.parametrize("form", FORMS)
async def test_a_task_a_handler_and_a_procedure_fire_and_call_each_other_ten_rounds(
    services: Services, form: str
) -> None:
    source = AUTH.format(**FORMS[form]) + STRESS[form] + LISTENING
    directory = services.write("everything", source)
    async with services.worker(directory) as worker:
        for kind in ("checked", "mailed", "else"):
            await worker.says(rf"^{kind} \d+", times=ROUNDS)
        worker.child.send_signal(signal.SIGTERM)
        assert await worker.ends() == 0
    checked = [line for line in worker.out if line.startswith("checked")]
    assert all(line.endswith(" True") for line in checked)
    assert len(checked) == len(set(checked))
    assert await services.dead_errors() == []
    assert not [line for line in worker.err if "Traceback" in line]
