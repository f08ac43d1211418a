"""Api classes, events and parameters, without a database."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from uuid import uuid4

import pytest

import pgbus
from pgbus import Api, Event, Parameter, WildcardParameter
from pgbus.api.declarations import event_names, procedures
from pgbus.api.registry import PATH_METHODS
from pgbus.messages import EventMessage
from tests.support import ROOT


class AuthApi(Api):
    user_created = Event(parameters=("username", "email"))
    user_deleted = Event(parameters=("username"))

    class Meta:
        name = "auth"
        version = 3
        colour = "green"

    def check_password(self, username: str, password: str) -> bool:
        return (username, password) == ("admin", "secret")

    @classmethod
    def reset(cls) -> None: ...

    @staticmethod
    def helper() -> None: ...

    @property
    def size(self) -> int:
        raise AssertionError("nobody asked for it")

    def _secret(self) -> None: ...


def make_bus() -> pgbus.Bus:
    return pgbus.create("postgresql://nobody@127.0.0.1:1/nothing")


# --------------------------------------------------------------------------------------------------------- API classes


def test_meta_keeps_name_version_and_any_other_option() -> None:
    assert (AuthApi.meta.name, AuthApi.meta.version, AuthApi.meta.internal) == ("auth", 3, False)
    assert AuthApi.meta.colour == "green"
    assert str(AuthApi()) == "auth"


def test_an_option_that_meta_does_not_have_is_an_attribute_error_naming_it() -> None:
    with pytest.raises(AttributeError, match="API 'auth' has no option 'color'"):
        _ = AuthApi.meta.color


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (None, "no `class Meta`"),
        ({}, "needs a `name`"),
        ({"name": ""}, "needs a `name`"),
        ({"name": "default"}, "cannot be 'default'"),
        ({"name": "default.x"}, "cannot be 'default'"),
        ({"name": "auth..x"}, "not a topic"),
        ({"name": "auth", "version": "1"}, "version is a whole number"),
    ],
)
def test_a_wrong_meta_is_refused_when_the_class_is_defined(options: dict[str, object] | None, reason: str) -> None:
    namespace = {} if options is None else {"Meta": type("Meta", (), options)}
    with pytest.raises(pgbus.MisconfiguredApiOptions, match=reason):
        type("Broken", (Api,), namespace)


def test_a_subclass_inherits_events_and_procedures_and_needs_a_meta_of_its_own() -> None:
    class AdminApi(AuthApi):
        banned = Event(parameters=("username",))

        class Meta:
            name = "auth.admin"

    assert event_names(AdminApi()) == ["banned", "user_created", "user_deleted"]
    assert "check_password" in procedures(AdminApi())
    assert AdminApi.meta.version == 1
    with pytest.raises(pgbus.MisconfiguredApiOptions, match=r"no `class Meta` of its own"):
        type("Nameless", (AuthApi,), {})


def test_procedures_are_public_methods_and_class_methods() -> None:
    assert sorted(procedures(AuthApi())) == ["check_password", "reset"]


def test_an_event_that_is_not_there_is_named_beside_those_that_are() -> None:
    with pytest.raises(pgbus.EventNotFound, match="no event 'user_made'; its events are: user_created, user_deleted"):
        AuthApi.get_event("user_made")


@pytest.mark.parametrize("name", ["meta", "get_event"])
def test_what_every_api_has_cannot_be_an_event(name: str) -> None:
    meta = type("Meta", (), {"name": "auth"})
    with pytest.raises(pgbus.MisconfiguredApiOptions, match="hides what every Api has"):
        type("Broken", (Api,), {"Meta": meta, name: Event()})


# -------------------------------------------------------------------------------------------------------------- events


def test_a_text_alone_is_one_parameter() -> None:
    assert list(Event(parameters=("username")).parameters) == ["username"]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Event(parameters=("a", "a")),
        lambda: Event(parameters=(1,)),  # type: ignore[arg-type]
        lambda: Parameter("not a name"),
        lambda: Parameter("class"),
        lambda: Parameter("using"),
        lambda: Parameter("bus_options"),
        lambda: Parameter("x", list[Path]),
    ],
)
def test_a_parameter_that_makes_no_sense_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(pgbus.InvalidApiEventConfiguration):
        make()


def test_arguments_are_completed_with_defaults() -> None:
    event = Event(
        parameters=(
            "username",
            Parameter("is_admin", bool, default=False),
            Parameter("age", int | None),
        )
    )
    assert event.arguments({"username": "adam"}) == {"username": "adam", "is_admin": False, "age": None}
    assert event.arguments({"username": "adam", "age": 3, "is_admin": True})["age"] == 3


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"username": "adam", "password": "x"}, "password"),
        ({"username": "adam"}, "email"),
        ({}, "username"),
    ],
)
def test_an_argument_too_many_or_too_few_is_named(given: dict[str, object], field: str) -> None:
    with pytest.raises(pgbus.InvalidEventArguments, match=field) as caught:
        AuthApi.get_event("user_created").arguments(given)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("annotation", "good", "bad"),
    [
        (str, "a", 1),
        (int, 1, "1"),
        (Decimal, Decimal("1.5"), [1]),
        (datetime, datetime(2025, 1, 1, tzinfo=UTC), "yesterday"),
        (list[int], [1, 2], ["a"]),
        (tuple[int, ...], (1, 2, 3), ("a",)),
        (int | None, None, "x"),
    ],
)
def test_an_argument_of_the_wrong_type_is_named(annotation: object, good: object, bad: object) -> None:
    event = Event(parameters=(Parameter("value", annotation),))
    assert event.arguments({"value": good}) == {"value": good}
    with pytest.raises(pgbus.InvalidEventArguments, match=r"^value(\[0\])?: ") as caught:
        event.arguments({"value": bad})
    assert caught.value.field == "value"
    assert isinstance(caught.value, pgbus.ValidationError)


def test_an_event_cannot_be_subclassed_and_the_error_says_how_a_class_becomes_an_event() -> None:
    with pytest.raises(pgbus.InvalidApiEventConfiguration, match=r"OrderPlaced cannot be .* by `@pgbus\.event\("):
        type("OrderPlaced", (pgbus.Event,), {})
    with pytest.raises(pgbus.InvalidApiEventConfiguration, match="OrderPlaced"):

        class OrderPlaced(pgbus.Event, topic="orders.placed"):
            order_id: int


def test_a_wildcard_parameter_admits_any_further_argument() -> None:
    event = Event(parameters=("name", WildcardParameter()))
    assert event.arguments({"name": "a", "x": 1}) == {"name": "a", "x": 1}
    with pytest.raises(pgbus.InvalidEventArguments, match="name"):
        event.arguments({"x": 1})


# -------------------------------------------------------------------------------------------------- registering, paths


def test_registering_something_else_than_an_api_is_refused() -> None:
    bus = make_bus()
    with pytest.raises(pgbus.InvalidApiRegistryEntry, match=r"register an instance: AuthApi\(\)"):
        bus.client.register_api(AuthApi)  # type: ignore[arg-type]
    with pytest.raises(pgbus.InvalidApiRegistryEntry, match="derive its class"):
        bus.client.register_api(object())  # type: ignore[arg-type]
    bus.client.register_api(AuthApi())
    with pytest.raises(pgbus.InvalidApiRegistryEntry, match="is already registered"):
        bus.client.register_api(AuthApi())


@pytest.mark.parametrize(
    ("api_name", "member"),
    [
        ("auth", "fire"),
        ("auth", "listen_async"),
        ("auth", "call"),
        ("auth.fire", "created"),
    ],
)
def test_a_name_that_no_path_can_have_is_refused_at_registration(api_name: str, member: str) -> None:
    api = type("Clash", (Api,), {"Meta": type("Meta", (), {"name": api_name}), member: Event()})
    with pytest.raises(pgbus.InvalidApiRegistryEntry, match="choose another name"):
        make_bus().client.register_api(api())


@pytest.mark.parametrize("api_name", ["config", "features", "schema", "publish", "client.x"])
async def test_an_api_named_like_an_attribute_of_the_bus_works_through_the_client(
    api_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    class TakenApi(Api):
        created = Event(parameters=["n"])

        def ask(self) -> int:
            return 1

        class Meta:
            name = api_name

    bus = make_bus()
    bus.client.register_api(TakenApi())
    assert f"API '{api_name}': `bus.{api_name.partition('.')[0]}` is an attribute of every bus" in caplog.text
    assert f"{api_name}.ask" in bus.registry.procedures
    bus.client.listen_for_event(api_name, "created", lambda n: None, listener_name="hears")
    assert [listener.patterns for listener in bus.listeners] == [(f"{api_name}.created",)]


def test_the_reserved_words_are_what_a_path_has_of_its_own() -> None:
    assert {name for name in vars(pgbus.BusPath) if not name.startswith("_")} == PATH_METHODS


def test_the_guide_lists_the_names_that_a_path_has_of_its_own() -> None:
    page = (ROOT / "docs" / "how-to" / "move-from-lightbus.md").read_text(encoding="utf-8")
    listed = (
        " ".join(page.split()).partition("can be named like a method of its path**:")[2].partition(". Registering")[0]
    )
    assert set(re.findall(r"`(\w+)`", listed)) == PATH_METHODS


def test_words_that_lightbus_reserved_are_free() -> None:
    class ConfApi(Api):
        schema = Event()

        class Meta:
            name = "parent.name"

    bus = make_bus()
    bus.client.register_api(ConfApi())
    assert str(bus.parent.name.schema) == "parent.name.schema"


def test_dir_completes_apis_events_and_procedures() -> None:
    class CaseApi(Api):
        opened = Event()

        class Meta:
            name = "support.case"

    bus = make_bus()
    bus.client.register_api(AuthApi())
    bus.client.register_api(CaseApi())
    assert {"auth", "support", "publish", "client"} <= set(dir(bus))
    assert {"user_created", "check_password", "fire", "listen"} <= set(dir(bus.auth))
    assert "case" in dir(bus.support)
    assert "opened" in dir(bus.support.case)
    assert "opened" not in dir(bus.auth)


def test_private_names_are_no_paths() -> None:
    bus = make_bus()
    assert not hasattr(bus, "_nothing")
    assert not hasattr(bus.auth, "__wrapped__")
    with pytest.raises(pgbus.InvalidName, match="'_x'"):
        bus.client.listen_for_event("auth", "_x", print)
    with pytest.raises(pgbus.InvalidName, match=r"bus\.api\.auth"):
        bus.auth.listen(print)


def test_a_bus_that_is_not_yet_made_has_no_paths() -> None:
    with pytest.raises(AttributeError, match="no attribute 'auth'"):
        _ = pgbus.Bus.__new__(pgbus.Bus).auth


def test_two_buses_know_nothing_of_each_other() -> None:
    one, two = make_bus(), make_bus()
    one.client.register_api(AuthApi())
    one.auth.user_created.listen(lambda username, email: None, listener_name="mine")
    assert one.client is not two.client
    assert "auth" not in two.client.api_registry
    assert not two.listeners
    with pytest.raises(pgbus.UnknownApi, match="no API named 'auth'"):
        two.auth.user_created.fire(username="adam", email="x")


# --------------------------------------------------------------------------------------------------- firing and calling


def test_firing_is_refused_before_anything_is_sent() -> None:
    bus = make_bus()  # of a database that does not answer
    with pytest.raises(pgbus.UnknownApi, match="Registered are: none"):
        bus.auth.user_created.fire(username="adam", email="x")
    bus.client.register_api(AuthApi())
    with pytest.raises(pgbus.EventNotFound):
        bus.auth.user_made.fire(username="adam")
    with pytest.raises(pgbus.InvalidEventArguments, match="password"):
        bus.auth.user_created.fire(username="adam", password="x")
    with pytest.raises(pgbus.InvalidParameters, match="by name"):
        bus.auth.user_created.fire("adam", "x")
    with pytest.raises(pgbus.InvalidEventError, match="headers: they must be a mapping"):
        bus.auth.user_deleted.fire(username="adam", bus_options={"headers": 1})
    with pytest.raises(pgbus.ConfigurationError, match="no option 'colour'"):
        bus.auth.user_created.fire(username="adam", email="x", bus_options={"colour": "red"})


def test_calling_is_refused_before_anything_is_sent() -> None:
    bus = make_bus()
    with pytest.raises(pgbus.InvalidParameters, match="by name"):
        bus.auth.check_password("admin")
    with pytest.raises(pgbus.ConfigurationError, match="no option 'using'"):
        bus.auth.check_password.call(username="admin", bus_options={"using": None})
    with pytest.raises(AttributeError, match="no method 'pubish'"):
        bus.pubish("x")


def test_a_registered_api_serves_its_methods_or_is_not_registered() -> None:
    bus = make_bus()
    bus.client.register_api(AuthApi())
    assert [procedure.name for procedure in bus.registry.procedures] == ["auth.check_password", "auth.reset"]

    class WrongApi(Api):
        def fine(self) -> None: ...

        def positional(self, x: int, /) -> None: ...

        class Meta:
            name = "wrong"

    with pytest.raises(pgbus.ConfigurationError, match="positional-only"):
        bus.client.register_api(WrongApi())
    assert "wrong" not in bus.client.api_registry
    assert len(bus.registry.procedures) == 2


def test_a_procedure_takes_no_parameter_that_calling_takes() -> None:
    class OptionsApi(Api):
        def change(self, bus_options: int) -> None: ...

        class Meta:
            name = "options"

    with pytest.raises(pgbus.InvalidApiRegistryEntry, match="bus_options"):
        make_bus().client.register_api(OptionsApi())


def test_lightbus_exceptions_are_in_the_one_tree() -> None:
    names = (
        "UnknownApi EventNotFound InvalidEventArguments InvalidEventListener MisconfiguredApiOptions "
        "InvalidApiEventConfiguration InvalidApiRegistryEntry DuplicateListenerName InvalidName InvalidParameters "
        "CannotBlockHere LightbusTimeout LightbusWorkerError"
    )
    for name in names.split():
        assert issubclass(getattr(pgbus, name), pgbus.PgbusError)


async def test_firing_blocks_no_event_loop() -> None:
    bus = make_bus()
    bus.client.register_api(AuthApi())
    with pytest.raises(pgbus.CannotBlockHere, match="fire_async"):
        bus.auth.user_created.fire(username="adam", email="x")
    with pytest.raises(pgbus.CannotBlockHere, match="call_async"):
        bus.auth.check_password(username="adam", password="x")


def test_an_event_message_speaks_of_its_api() -> None:
    event_id = uuid4()
    message = EventMessage(
        topic="support.case.opened",
        raw='{"id": 1}',
        event_id=event_id,
        raw_headers='{"api_version": "3"}',
        position=7,
    )
    assert (message.api_name, message.event_name) == ("support.case", "opened")
    assert message.canonical_name == "support.case.opened"
    assert message.kwargs == {"id": 1}
    assert (message.id, message.native_id, message.version) == (str(event_id), "7", 3)
