"""Names that programs written for Lightbus use."""

import re
import types
from pkgutil import resolve_name
from uuid import uuid4

import pytest

import pgbus
from pgbus.lightbus import LightbusException
from pgbus.messages import OpenEvent
from pgbus.testing import MockResult
from tests.support import ROOT


class Shop(pgbus.Api):
    class Meta:
        name = "shop"


class Backstage(pgbus.Api):
    class Meta:
        name = "backstage"
        internal = True


def test_a_message_reads_as_it_was_fired() -> None:
    message = pgbus.EventMessage(topic="auth.user_created", raw='{"username": "adam", "age": 3}', event_id=uuid4())
    assert str(message) == "auth.user_created(username='adam', age=3)"
    assert str(pgbus.EventMessage(topic="shop.opened", raw="[1]", event_id=uuid4())) == "shop.opened()"


def test_a_message_that_hooks_have_had_shows_itself_as_any_other() -> None:
    message = pgbus.EventMessage(topic="shop.opened", raw='{"n": 1}', event_id=uuid4())
    assert repr(OpenEvent.of(message)) == repr(message)


def test_the_registry_tells_public_apis_from_internal_ones() -> None:
    registry = pgbus.create().client.api_registry
    shop, backstage = Shop(), Backstage()
    registry.add(shop)
    registry.add(backstage)
    assert registry.all() == [shop, backstage]
    assert registry.public() == [shop]
    assert registry.internal() == [backstage]


def test_every_error_is_a_lightbus_exception_and_a_listener_of_nothing_is_one() -> None:
    with pytest.raises(LightbusException) as raised:
        pgbus.create().client.listen_for_events([], print, "nothing")
    assert isinstance(raised.value, pgbus.NothingToListenFor)


# ------------------------------------------------------------------------- the page says of every name where it is now

PAGE = ROOT / "docs" / "how-to" / "move-from-lightbus.md"

# What Lightbus 1.3 shows: its package, its exceptions, and the public attributes of what programs have in hand.
NAMES = {
    "lightbus": """
        Api BusClient BusPath DebugEventTransport DebugResultTransport DebugRpcTransport DebugSchemaTransport Event
        EventMessage EventTransport Message OnError Parameter RedisEventTransport RedisResultTransport RedisRpcTransport
        RedisSchemaTransport ResultMessage ResultTransport RpcMessage RpcTransport Schema SchemaTransport Transport
        WildcardParameter configure_logging create get_bus import_bus_module load_config
        lightbus.plugins.LightbusPlugin lightbus.utilities.async_tools.block lightbus.utilities.django.uses_django_db
        lightbus.utilities.testing.BusMocker lightbus.utilities.testing.bus_mocker lightbus.serializers
    """,
    "exceptions": """
        ApisMustUseSameTransport AsyncFunctionOrMethodRequired BusAlreadyClosed CannotBlockHere CannotProxyPrivateMethod
        CannotProxyProperty CannotProxySynchronousMethod CannotShrinkEmptyPool DatabaseConnectionRequired DeformError
        DuplicateListenerName DuplicateMessage EventNotFound FailedToImportBusModule InvalidApiEventConfiguration
        InvalidApiForSchemaCreation InvalidApiRegistryEntry InvalidBusPathConfiguration InvalidEventArguments
        InvalidEventListener InvalidMessage InvalidName InvalidParameters InvalidPlugins InvalidSchedule InvalidSchema
        InvalidSerializerConfiguration LightbusException LightbusExit LightbusServerMustStartInMainThread
        LightbusShutdownInProgress LightbusTimeout LightbusWorkerError ListenersAlreadyStarted MisconfiguredApiOptions
        MustNotRunInBusThread MustRunInBusThread NoApisSpecified NoApisToListenOn NoBusFoundInBusModule
        NoResponseSchemaFound NoTransportConfigured NothingToListenFor OnlyAvailableOnRootNode PluginHookNotFound
        PluginsNotLoaded PoolProxyError RemoteSchemasNotLoaded SchemaNotFound SuddenDeathException
        TooManyTransportsForApi TransportIsClosed TransportNotFound TransportPoolIsClosed TransportsNotInstalled
        UnexpectedConfigurationFormat UnknownApi UnsupportedOptionValue UnsupportedUse ValidationError
    """,
    "bus and its paths": """
        ancestors api_name call call_async client fire fire_async fully_qualified_name listen name parameter_schema
        parent response_schema schema validate_parameters validate_response
    """,
    "bus.schema": """
        add_api api_names close ensure_loaded_from_bus events get_api_schema get_event_or_rpc_schema get_event_schema
        get_rpc_schema load_from_bus load_local monitor remote_schemas rpcs save_local save_to_bus validate_parameters
        validate_response
    """,
    "bus.client": """
        add_background_task after_event_execution after_event_sent after_rpc_call after_rpc_execution
        after_worker_stopped api_registry before_event_execution before_event_sent before_rpc_call before_rpc_execution
        before_worker_start call_rpc_remote close close_async config consume_rpcs disable_proxy every exit_code features
        fire_event hook_registry lazy_load_now listen_for_event listen_for_events loop on_start on_stop plugin_registry
        raise_errors register_api request_shutdown run_forever schedule set_features start_worker stop_loop stop_worker
        transport_registry
    """,
    "messages and the registry": """
        api_name canonical_name event_name id kwargs native_id version datetime stream consumer_group procedure_name
        return_path result error trace rpc_message_id
        registry.add registry.all registry.get registry.internal registry.names registry.public registry.remove
    """,
    "plugins": """
        after_event_execution after_event_sent after_rpc_call after_rpc_execution after_worker_stopped
        before_event_execution before_event_sent before_parse_args before_rpc_call before_rpc_execution
        before_worker_start exception from_config priority receive_args
    """,
    "tests": """
        assertEventFired assertEventNotFired assertRpcCalled assertRpcNotCalled assert_event_not_fired
        assert_events_fired assert_rpc_called assert_rpc_not_called eventNamesFired event_names_fired getEventMessages
        getRpcMessages get_event_messages get_rpc_messages mockEventFiring mockRpcCall mock_event_firing mock_rpc_call
        rpcNamesCalled rpc_names_called
    """,
}


def rows(section: str) -> dict[str, str]:
    """From each name in the first column of a table of the page to its second column."""
    part = PAGE.read_text(encoding="utf-8").split(f"### {section}\n")[1].split("\n#")[0]
    found: dict[str, str] = {}
    for line in re.findall(r"^\| (`.*) \|$", part, re.MULTILINE):
        names, _, answer = line.partition(" | ")
        for name in re.findall(r"`([^`]+)`", names):
            assert name not in found, name
            found[name] = answer
    return found


@pytest.mark.parametrize("section", NAMES)
def test_the_page_tells_of_every_name_of_lightbus(section: str) -> None:
    assert sorted(rows(section)) == sorted(NAMES[section].split())


@pytest.mark.parametrize("section", NAMES)
def test_what_the_page_says_is_there_is_there(section: str) -> None:
    bus = pgbus.create()
    own = types.SimpleNamespace(**vars(bus))  # a bus itself has every attribute that one asks for: as a path
    here: dict[str, list[object]] = {
        "lightbus": [pgbus],
        "exceptions": [pgbus],
        "bus and its paths": [pgbus.BusPath, own, pgbus.Bus],
        "bus.schema": [type(bus.schema)],  # some of its properties would connect
        "bus.client": [bus.client],
        "plugins": [pgbus.Plugin],
        "tests": [MockResult],
        "messages and the registry": [pgbus.EventMessage, pgbus.RpcMessage, pgbus.ResultMessage],
        "registry": [bus.client.api_registry],
        "bus": [own, pgbus.Bus],
        "message": [pgbus.EventMessage],
    }
    for name, answer in rows(section).items():
        if answer == "the same":
            root, _, word = name.rpartition(".")
            assert any(hasattr(one, word) for one in here[root or section]), name
        elif answer.startswith("`pgbus."):
            resolve_name(re.findall(r"`([\w.]+)", answer)[0])
        elif answer.startswith("`"):
            root, word = re.findall(r"`(\w+)\.(\w+)", answer)[0]
            assert any(hasattr(one, word) for one in here[root]), answer
        elif section == "plugins" and answer.startswith("methods"):
            assert f"`{name}" in (pgbus.Plugin.__doc__ or "")
        else:
            assert answer.startswith("none: "), name


def test_the_page_lists_every_name_that_an_api_cannot_have_on_the_bus() -> None:
    page = (ROOT / "docs" / "how-to" / "move-from-lightbus.md").read_text(encoding="utf-8")
    [said] = re.findall(r"^- \*\*An API that is named like .*?(?=^- \*\*An API is registered once)", page, re.S | re.M)
    taken = pgbus.create("postgresql://nobody@nowhere/").client.api_registry.taken_names
    assert [name for name in sorted(taken) if not name.startswith("_") and f"`{name}`" not in said] == []
