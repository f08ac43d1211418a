"""A service whose handler calls another service: every new customer becomes a user. Run `pgbus run` here."""

import pgbus
from pgbus import Api, Event, EventMessage


class CustomersApi(Api):
    new_customer = Event(parameters=("customer_name", "email"))

    class Meta:
        name = "customers"


bus = pgbus.create(service_name="customers")
bus.client.register_api(CustomersApi())


def create_user_for_customer(event_message: EventMessage, customer_name: str, email: str) -> None:
    print(f"{event_message.canonical_name}: {customer_name}")
    # If the call fails because no worker serves it, the event is retried later.
    bus.auth.create_user(name=customer_name, email=email)


def on_start() -> None:
    bus.customers.new_customer.listen(create_user_for_customer, listener_name="create_user_for_customer")
