"""The mock of a bus: nothing here has a database, so whatever reached for one would fail."""

import asyncio
import unittest
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any
from unittest.mock import patch

import pytest

import pgbus
from pgbus.testing import BusMocker, MockResult, bus_mocker

NOWHERE = "postgresql://nobody@127.0.0.1:1/none"
SESSION: Any = object()  # a mocked bus does not look at what `using` names


class AuthApi(pgbus.Api):
    user_registered = pgbus.Event(parameters=("username", "email"))
    user_left = pgbus.Event(parameters=("username",))

    class Meta:
        name = "auth"
        version = 3

    def check_password(self, username: str, password: str) -> bool:
        raise AssertionError("a mocked procedure does not run")


@pytest.fixture
def bus() -> Iterator[pgbus.Bus]:
    made = pgbus.create(NOWHERE, max_payload=200)
    made.client.register_api(AuthApi())
    yield made
    made.close_sync()


async def test_every_way_to_publish_is_recorded_in_order(bus: pgbus.Bus) -> None:
    with BusMocker(bus, require_mocking=False) as mock:
        await bus.auth.user_registered.fire_async(username="ada", email="a@example.com")
        await bus.publish({"n": 1}, topic="numbers.one", key="k", headers={"from": "test"})
        await bus.publish_many([{"n": 2}, {"n": 3}], topic="numbers.many")
        await bus.publish_many([{"n": 4}], topic="numbers.many", using=SESSION)
        await bus.publish({"n": 5}, topic="numbers.using", using=SESSION)
        bus.publish_sync({"n": 6}, topic="numbers.sync", using=SESSION)
        bus.publish_many_sync([{"n": 7}], topic="numbers.sync", using=SESSION)
        bus.auth.user_left.fire(username="ada", using=SESSION)
    assert mock.event_names_fired == [
        "auth.user_registered", "numbers.one", "numbers.many", "numbers.many", "numbers.many", "numbers.using",
        "numbers.sync", "numbers.sync", "auth.user_left",
    ]  # fmt: skip
    assert [message.kwargs["n"] for message in mock.get_event_messages() if "n" in message.kwargs] == list(range(1, 8))
    (fired,) = mock.get_event_messages("auth.user_registered")
    assert fired.kwargs == {"username": "ada", "email": "a@example.com"}
    assert (fired.api_name, fired.event_name, fired.version) == ("auth", "user_registered", 3)
    (one,) = mock.get_event_messages("numbers.one")
    assert (one.key, one.headers) == ("k", {"from": "test"})


def test_blocking_calls_are_mocked_in_any_thread(bus: pgbus.Bus) -> None:
    with BusMocker(bus) as mock, ThreadPoolExecutor(8) as threads:
        mock.mock_event_firing("auth.user_left")
        mock.mock_rpc_call("auth.check_password", result=True)
        fired = [threads.submit(bus.auth.user_left.fire, username=str(n)) for n in range(50)]
        called = [threads.submit(bus.auth.check_password, username="a", password=str(n)) for n in range(50)]
        assert {call.result() for call in called} == {True}
        ids = {one.result().event_id for one in fired}
        bus.publish_many_sync([{"username": "x"}], topic="auth.user_left")
    mock.assert_events_fired("auth.user_left", times=51)
    mock.assert_rpc_called("auth.check_password", times=50)
    assert ids < {message.event_id for message in mock.get_event_messages()}


async def test_what_is_not_mocked_is_refused_and_not_recorded(bus: pgbus.Bus) -> None:
    with BusMocker(bus) as mock:
        with pytest.raises(AssertionError, match=r"mock_event_firing\('auth.user_left'\)"):
            await bus.auth.user_left.fire_async(username="ada")
        with pytest.raises(AssertionError, match=r"mock_rpc_call\('auth.check_password', result="):
            await bus.auth.check_password.call_async(username="ada", password="x")
    assert (mock.event_names_fired, mock.rpc_names_called) == ([], [])


async def test_permissive_mode_swallows_events_and_answers_calls_with_none(bus: pgbus.Bus) -> None:
    with BusMocker(bus, require_mocking=False) as mock:
        await bus.auth.user_left.fire_async(username="ada")
        assert await bus.auth.check_password.call_async(username="ada", password="x") is None
        assert await bus.call("stock.take", {"n": 1}) is None
    assert mock.event_names_fired == ["auth.user_left"]
    assert mock.rpc_names_called == ["auth.check_password", "stock.take"]
    assert mock.get_rpc_messages("stock.take")[0].kwargs == {"n": 1}


async def test_local_checks_still_run(bus: pgbus.Bus) -> None:
    with BusMocker(bus, require_mocking=False) as mock:
        with pytest.raises(pgbus.UnknownApi):
            await bus.nobody.knows.fire_async(this=1)
        with pytest.raises(pgbus.EventNotFound):
            await bus.auth.user_promoted.fire_async(username="ada")
        with pytest.raises(pgbus.InvalidEventArguments):
            await bus.auth.user_left.fire_async(name="ada")
        with pytest.raises(pgbus.InvalidEventError, match="payload"):
            await bus.auth.user_left.fire_async(username="a" * 300)
        with pytest.raises(pgbus.InvalidArguments):
            await bus.auth.check_password.call_async(username="ada")
        with pytest.raises(pgbus.ConfigurationError):
            await bus.call("no_api")
        with pytest.raises(pgbus.CannotBlockHere):
            bus.auth.user_left.fire(username="ada")
    assert (mock.event_names_fired, mock.rpc_names_called) == ([], [])


async def test_a_mocked_result_is_decoded_and_must_fit_the_procedure(bus: pgbus.Bus) -> None:
    with BusMocker(bus) as mock:
        mock.mock_rpc_call("clock.read", result=datetime(2026, 1, 2, tzinfo=UTC))
        assert await bus.call("clock.read") == "2026-01-02T00:00:00Z"
        assert await bus.call("clock.read", returns=datetime) == datetime(2026, 1, 2, tzinfo=UTC)
        mock.mock_rpc_call("auth.check_password", result="yes")
        with pytest.raises(pgbus.InvalidResult):
            await bus.auth.check_password.call_async(username="ada", password="x")


@pytest.mark.parametrize(
    ("error", "raised", "says"),
    [
        (True, pgbus.RemoteError, "mocked to fail"),
        ("out of order", pgbus.RemoteError, "out of order"),
        (ValueError("boom"), pgbus.RemoteError, "ValueError: boom"),
        (pgbus.CallTimeout("too late"), pgbus.CallTimeout, "too late"),
        (pgbus.NoWorkerAvailable("nobody"), pgbus.NoWorkerAvailable, "nobody"),
        (pgbus.SuddenDeathException(), pgbus.WorkerLost, "auth.check_password"),
    ],
)
async def test_a_mocked_error_is_raised_as_its_caller_would_see_it(
    bus: pgbus.Bus, error: Any, raised: type[Exception], says: str
) -> None:
    with BusMocker(bus) as mock:
        mock.mock_rpc_call("auth.check_password", error=error, trace="the line")
        with pytest.raises(raised, match=says) as caught:
            await bus.auth.check_password.call_async(username="ada", password="x")
    if isinstance(caught.value, pgbus.RemoteError):
        assert caught.value.remote_traceback == "the line"
    mock.assert_rpc_called("auth.check_password", times=1)


async def test_an_allowed_error_is_raised_as_itself(bus: pgbus.Bus) -> None:
    bus.registry.procedures.allow_errors(KeyError)
    with BusMocker(bus) as mock:
        mock.mock_rpc_call("stock.take", error=KeyError("pen"))
        with pytest.raises(KeyError, match="pen"):
            await bus.call("stock.take")


async def test_a_dedup_key_makes_the_second_event_the_first_one(bus: pgbus.Bus) -> None:
    with BusMocker(bus, require_mocking=False) as mock:
        first = await bus.publish({}, topic="a.b", dedup_key="once")
        second = await bus.publish({}, topic="a.b", dedup_key="once")
    assert first.event_id == second.event_id
    mock.assert_events_fired("a.b", times=1)


async def test_a_scheduled_event_is_cancelled_once(bus: pgbus.Bus) -> None:
    with BusMocker(bus, require_mocking=False):
        later = await bus.publish({}, topic="a.b", delay=60)
        now = await bus.publish({}, topic="a.b")
        assert await bus.cancel(later.event_id)
        assert not await bus.cancel(later.event_id)
        assert not bus.cancel_sync(now.event_id, using=SESSION)


async def test_hooks_are_called_and_the_mock_sees_what_they_make_of_it(bus: pgbus.Bus) -> None:
    seen: list[str] = []

    @bus.client.before_event_sent()
    async def sign(event_message: pgbus.EventMessage) -> None:
        event_message.kwargs = {"username": event_message.kwargs["username"].title()}

    @bus.client.after_event_sent()
    def note(event_message: pgbus.EventMessage) -> None:
        seen.append(f"sent {event_message.kwargs['username']}")

    @bus.client.before_rpc_call()
    def call(rpc_message: pgbus.RpcMessage) -> None:
        rpc_message.kwargs["password"] = "hidden"

    @bus.client.after_rpc_call()
    def called(result_message: pgbus.ResultMessage) -> None:
        seen.append(f"result {result_message.result}")

    with BusMocker(bus, require_mocking=False) as mock:
        mock.mock_rpc_call("auth.check_password", result=True)
        await bus.auth.user_left.fire_async(username="ada")
        await asyncio.to_thread(bus.auth.user_left.fire, username="eve")
        await bus.publish_many([{"username": "bob"}], topic="auth.user_left")
        assert await bus.auth.check_password.call_async(username="ada", password="secret")
    assert [message.kwargs["username"] for message in mock.get_event_messages()] == ["Ada", "Eve", "Bob"]
    assert mock.get_rpc_messages()[0].kwargs == {"username": "ada", "password": "hidden"}
    assert seen == ["sent Ada", "sent Eve", "sent Bob", "result True"]


def test_the_assertions_say_what_happened(bus: pgbus.Bus) -> None:
    with BusMocker(bus, require_mocking=False) as mock:
        bus.auth.user_left.fire(username="ada")
    mock.assert_events_fired("auth.user_left")
    mock.assert_events_fired("auth.user_registered", times=0)
    mock.assert_event_not_fired("auth.user_registered")
    mock.assert_rpc_not_called("auth.check_password")
    with pytest.raises(AssertionError, match=r"fired 1 times, not 2 times; fired was: auth.user_left"):
        mock.assert_events_fired("auth.user_left", times=2)
    with pytest.raises(AssertionError, match="fired 0 times, not at least once"):
        mock.assert_events_fired("auth.user_registered")
    with pytest.raises(AssertionError, match="not 0 times"):
        mock.assert_event_not_fired("auth.user_left")
    with pytest.raises(AssertionError, match="called 0 times, not at least once; called was: nothing"):
        mock.assert_rpc_called("auth.check_password")


def test_every_name_is_there_in_camel_case() -> None:
    pairs = {
        "mock_event_firing": "mockEventFiring", "mock_rpc_call": "mockRpcCall",
        "assert_events_fired": "assertEventsFired", "assert_event_not_fired": "assertEventNotFired",
        "assert_rpc_called": "assertRpcCalled", "assert_rpc_not_called": "assertRpcNotCalled",
        "get_event_messages": "getEventMessages", "get_rpc_messages": "getRpcMessages",
        "event_names_fired": "eventNamesFired", "rpc_names_called": "rpcNamesCalled",
    }  # fmt: skip
    assert all(getattr(MockResult, snake) is getattr(MockResult, camel) for snake, camel in pairs.items())
    assert MockResult.assertEventFired is MockResult.assert_events_fired


def test_the_end_of_a_mock_is_the_end_of_mocking_also_after_an_error(bus: pgbus.Bus) -> None:
    with pytest.raises(ZeroDivisionError), BusMocker(bus, require_mocking=False):
        raise ZeroDivisionError
    with pytest.raises(pgbus.DatabaseUnreachableError):
        bus.auth.user_left.fire(username="ada")


def test_of_nested_mocks_the_inner_one_takes_everything_until_it_ends(bus: pgbus.Bus) -> None:
    mocker = BusMocker(bus, require_mocking=False)
    with mocker as outer:
        with mocker as inner:
            bus.auth.user_left.fire(username="ada")
        bus.auth.user_left.fire(username="eve")
    assert [message.kwargs["username"] for message in inner.get_event_messages()] == ["ada"]
    assert [message.kwargs["username"] for message in outer.get_event_messages()] == ["eve"]


def test_two_buses_are_mocked_apart(bus: pgbus.Bus) -> None:
    other = pgbus.create(NOWHERE)
    with BusMocker(bus, require_mocking=False) as one, BusMocker(other, require_mocking=False) as two:
        bus.publish_sync({}, topic="a.b", using=SESSION)
        other.publish_sync({}, topic="c.d", using=SESSION)
    assert (one.event_names_fired, two.event_names_fired) == (["a.b"], ["c.d"])


class TestDecorator:
    module_bus = pgbus.create(NOWHERE)

    @bus_mocker(module_bus)
    def test_the_mock_is_the_last_argument_after_fixtures(self, bus: pgbus.Bus, mock: MockResult) -> None:
        mock.mock_event_firing("a.b")
        self.module_bus.publish_sync({}, topic="a.b", using=bus)
        mock.assert_events_fired("a.b", times=1)

    @bus_mocker(module_bus, require_mocking=False)
    async def test_async_tests_are_mocked_until_they_end(self, mock: MockResult) -> None:
        await asyncio.sleep(0)
        await self.module_bus.publish({}, topic="a.b")
        mock.assert_events_fired("a.b", times=1)

    @bus_mocker(module_bus)
    @patch("os.getcwd")
    def test_other_decorators_inside_keep_their_places(self, getcwd: Any, mock: MockResult) -> None:
        assert getcwd is not mock
        assert isinstance(mock, MockResult)

    @patch("os.getcwd")
    @bus_mocker(module_bus)
    def test_and_so_do_those_outside(self, getcwd: Any, mock: MockResult) -> None:
        assert getcwd is not mock
        assert isinstance(mock, MockResult)

    @pytest.mark.parametrize("number", [1, 2])
    @bus_mocker(module_bus, require_mocking=False)
    def test_each_run_has_a_mock_of_its_own(self, number: int, mock: MockResult) -> None:
        self.module_bus.publish_sync({"n": number}, topic="a.b", using=SESSION)
        assert [message.payload for message in mock.get_event_messages()] == [{"n": number}]

    def test_what_takes_any_arguments_gets_the_mock_at_the_end(self) -> None:
        @bus_mocker(self.module_bus)
        def test(*args: object) -> tuple[object, ...]:
            return args

        assert [type(argument) for argument in test("one")] == [str, MockResult]

    def test_mocking_a_class_is_refused(self) -> None:
        with pytest.raises(TypeError, match="decorates a test function"):
            bus_mocker(self.module_bus)(TestDecorator)


class TestOfUnittest(unittest.TestCase):
    bus = pgbus.create(NOWHERE)

    @bus_mocker(bus)
    def test_assertions_have_names_in_camel_case(self, mock: MockResult) -> None:
        mock.mockEventFiring("a.b")
        self.bus.publish_sync({}, topic="a.b", using=SESSION)
        mock.assertEventFired("a.b", times=1)


class TestOfAsyncUnittest(unittest.IsolatedAsyncioTestCase):
    bus = pgbus.create(NOWHERE)

    @bus_mocker(bus)
    async def test_a_mocked_call_returns_what_the_test_gave(self, mock: MockResult) -> None:
        mock.mockRpcCall("stock.take", result=[1])
        assert await self.bus.call("stock.take") == [1]
        mock.assertRpcCalled("stock.take")
