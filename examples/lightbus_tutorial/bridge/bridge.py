"""A bridge between Lightbus and pgbus, while some services use one and some the other.

Two processes: `lightbus run --bus bridge` forwards events to pgbus, and calls from services on Lightbus to those that
have moved; `pgbus run bridge:new` forwards them in the other direction. Each API is in exactly one of the two lists
below; in both, its events would circulate forever.
"""

from collections.abc import Callable
from typing import Any

import lightbus

import pgbus

# Still on Lightbus: the APIs, with their procedures.
STAYING = {"auth": ["check_password"]}


# Has moved: the API as Lightbus knows it, so that its events may be fired there. Its procedures ask pgbus.
class StoreApi(lightbus.Api):
    page_viewed = lightbus.Event(parameters=("url",))

    class Meta:
        name = "store"

    def price_of(self, pet: int) -> int:
        return int(new.call_sync("store.price_of", {"pet": pet}))


MOVED: list[lightbus.Api] = [StoreApi()]

old = bus = lightbus.create(service_name="bridge")  # `lightbus run` looks for a `bus`
new = pgbus.create(service_name="bridge")


def to_pgbus(event: lightbus.EventMessage, **arguments: object) -> None:
    new.publish_sync(
        arguments,
        topic=event.canonical_name,
        headers={"api_version": str(event.version)},
        dedup_key=event.id,  # Lightbus may deliver it again, pgbus has it once
    )


def to_lightbus(event: pgbus.EventMessage, /, **arguments: object) -> None:
    find_on_lightbus(event.canonical_name).fire(**arguments)


def ask_lightbus(procedure: str) -> Callable[..., Any]:
    def call(**arguments: object) -> Any:
        return find_on_lightbus(procedure)(**arguments)

    return call


def find_on_lightbus(name: str) -> Any:
    path = old
    for word in name.split("."):
        path = getattr(path, word)
    return path


for api, procedures in STAYING.items():
    old.client.listen_for_events([(api, "*")], to_pgbus, listener_name="to_pgbus")
    for name in procedures:
        new.procedure(f"{api}.{name}")(ask_lightbus(f"{api}.{name}"))

for moved in MOVED:
    old.client.register_api(moved)
    new.client.listen_for_event(moved.meta.name, "*", to_lightbus, f"to_lightbus_{moved.meta.name}")
