"""Names that no path can spell, and names that are spelt wrongly."""

from __future__ import annotations

import inspect
import io
from types import ModuleType
from typing import Any

import pytest

import pgbus
from pgbus import Api, Event
from tests.support.workers import open_bus, running


class AuthApi(Api):
    user_created = Event(parameters=("username",))

    class Meta:
        name = "auth"

    def check_password(self, username: str) -> bool:
        return True


@pytest.fixture
def here() -> pgbus.Bus:
    return pgbus.create("postgresql://localhost/nowhere")


async def test_calling_an_event_or_a_misspelt_procedure_names_the_mistake(bus: pgbus.Bus, database: str) -> None:
    bus.client.register_api(AuthApi())
    async with open_bus(database) as caller, running(bus):
        with pytest.raises(pgbus.NoWorkerAvailable, match=r"it is an event, .*bus\.auth\.user_created\.fire"):
            await caller.auth.user_created.call_async(username="a")
        with pytest.raises(pgbus.NoWorkerAvailable, match=r"did you mean 'auth\.check_password'"):
            await caller.auth.chek_password.call_async(username="a")
        with pytest.raises(pgbus.NoWorkerAvailable, match="API 'auth' has check_password"):
            await bus.auth.login.call_async()
    with pytest.raises(pgbus.NoWorkerAvailable, match="no live worker serves it; start one, or call with wait=True"):
        await bus.auth.check_password.call_async(username="a")


def test_a_private_event_is_refused_when_its_class_is_defined() -> None:
    with pytest.raises(pgbus.InvalidApiEventConfiguration, match=r"_created: names that begin with an underscore"):

        class SecretApi(Api):
            _created = Event()

            class Meta:
                name = "secret"


@pytest.mark.parametrize("api_name", ["_secret", "shop._secret"])
def test_a_private_api_is_refused_when_its_class_is_defined(api_name: str) -> None:
    with pytest.raises(pgbus.MisconfiguredApiOptions, match="words that begin with an underscore are private"):

        class SecretApi(Api):
            class Meta:
                name = api_name


@pytest.mark.parametrize("name", ["auth._check", "_auth.check"])
def test_a_private_procedure_is_refused_where_it_is_declared(here: pgbus.Bus, name: str) -> None:
    with pytest.raises(pgbus.InvalidName, match="begin with an underscore are private"):
        here.procedure(name)


@pytest.mark.parametrize("names", [("auth", "_x"), ("_auth", "x"), ("auth", ""), ("auth", 7), (7, "x")])
def test_what_no_path_can_spell_is_not_listened_to(here: pgbus.Bus, names: tuple[Any, Any]) -> None:
    with pytest.raises(pgbus.InvalidName):
        here.client.listen_for_event(*names, print)


async def test_dir_lists_each_word_once(bus: pgbus.Bus) -> None:
    bus.client.register_api(AuthApi())
    await bus.schema.ensure_loaded_from_bus()
    saved = io.StringIO()
    bus.schema.save_local(saved)
    saved.seek(0)
    bus.schema.load_local(saved)
    for place, word in ((bus, "auth"), (bus.auth, "user_created"), (bus.auth, "check_password")):
        assert dir(place).count(word) == 1


# ------------------------------------------------------------------------------------------------- the bus as a path


def test_a_bus_is_a_path_without_words(here: pgbus.Bus) -> None:
    def listens(bus: pgbus.BusPath) -> pgbus.BusPath:
        return bus.auth.user_created

    assert isinstance(here, pgbus.BusPath)
    assert str(listens(here)) == "auth.user_created"
    assert repr(here).startswith("<pgbus.bus.Bus object at ")


async def test_a_bus_by_itself_is_neither_fired_nor_called_nor_listened_to(here: pgbus.Bus) -> None:
    for use in (here.fire, here, lambda: here.listen(print)):
        with pytest.raises(pgbus.InvalidName, match="neither an event nor a procedure"):
            use()
    for wait in (here.fire_async, here.call_async):
        with pytest.raises(pgbus.InvalidName, match="neither an event nor a procedure"):
            await wait()


def test_all_attributes_of_a_bus_can_be_looked_at(here: pgbus.Bus) -> None:
    assert {name for name, _ in inspect.getmembers(here)} >= {"call", "client", "fire", "response_schema"}


async def test_start_hooks_get_the_bus_where_they_ask_for_it(bus: pgbus.Bus) -> None:
    given: list[object] = []

    def named(bus):  # type: ignore[no-untyped-def] # as programs for Lightbus have it
        given.append(bus)

    def annotated(anything: pgbus.BusPath) -> None:
        given.append(anything)

    def of_the_client(bus: pgbus.BusClient) -> None:
        given.append(bus)

    def both(client: pgbus.BusClient, bus: pgbus.Bus) -> None:
        given.extend([client, bus])

    for hook in (named, annotated, of_the_client, both):
        bus.client.on_start(hook)
    module = ModuleType("shop")
    module.before_server_start = lambda bus: given.append(bus)  # type: ignore[attr-defined] # that is how it is made
    bus.client.adopt_start_hooks(module)
    async with running(bus):
        assert given == [bus, bus, bus.client, bus.client, bus, bus]


async def test_other_hooks_get_the_bus_by_its_name(bus: pgbus.Bus) -> None:
    given: list[object] = []

    @bus.client.before_event_sent()
    def before(event_message: pgbus.EventMessage, bus: pgbus.Bus | None = None) -> None:
        given.append(bus)

    @bus.client.after_event_sent()
    def after(event_message: pgbus.EventMessage, bus: object = "another") -> None:
        given.append(bus)

    await bus.publish({}, topic="a.b")
    assert given == [bus, "another"]
