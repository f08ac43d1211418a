"""A bus without a database, for unit tests: what is fired and called is recorded, and calls get the answers one chose.

    with BusMocker(bus) as mock:
        mock.mock_event_firing("auth.user_registered")
        sign_up("ada")
        mock.assert_events_fired("auth.user_registered", times=1)

Everything that needs no database still runs: unknown APIs, wrong arguments and payloads that are too large are refused,
and hooks are called.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NoReturn, TypeVar, cast
from uuid import UUID, uuid4

import msgspec

from pgbus.bus import Bus
from pgbus.causality import read_headers
from pgbus.codec.payloads import encode
from pgbus.database.statements.rpc import Request, Response
from pgbus.errors import CallError
from pgbus.messages import EventMessage, RpcMessage
from pgbus.publishing.rows import OutboxRow
from pgbus.rpc.caller import Caller
from pgbus.rpc.hooks import rpc_message
from pgbus.rpc.wire import failure, to_error

T = TypeVar("T", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Answer:
    """The outcome of a mocked call: a result, or an error to raise."""

    result: Any = None
    error: BaseException | str | bool = False
    trace: str = ""
    is_default: bool = False


class MockResult:
    """The mock of `with BusMocker(bus) as mock`: declares mocked events and calls, and has the assertions.

    Every method also has a camel-case name, for `unittest`. `times=None` means at least once.
    """

    def __init__(self, *, require_mocking: bool = True) -> None:
        self._require_mocking = require_mocking
        self._lock = threading.Lock()
        self._mocked_events: set[str] = set()
        self._answers: dict[str, Answer] = {}
        self._events: list[EventMessage] = []
        self._calls: list[RpcMessage] = []

    # ------------------------------------------------------------------------------------------------------- mocking

    def mock_event_firing(self, event_name: str) -> None:
        """Allow `api.event` to be fired or published: it is recorded, and not sent."""
        self._mocked_events.add(event_name)

    def mock_rpc_call(
        self,
        rpc_name: str,
        result: object = None,
        *,
        error: BaseException | str | bool = False,
        trace: str = "",
    ) -> None:
        """Allow `api.procedure` to be called: each call returns `result`, converted to JSON and back.

        With an `error` it raises instead: a CallError as it is, the WorkerLost of a SuddenDeathException, and for any
        other exception, a string or True as a procedure's exception, so the caller gets a RemoteError, with `trace` as
        its `remote_traceback`.
        """
        self._answers[rpc_name] = Answer(result, error, trace)

    # ------------------------------------------------------------------------------------------------------- asserting

    def assert_events_fired(self, event_name: str, *, times: int | None = None) -> None:
        """Raise AssertionError unless the event was fired this many times."""
        self._assert_count("event", event_name, times, self.event_names_fired)

    def assert_event_not_fired(self, event_name: str) -> None:
        """Raise AssertionError if the event was fired."""
        self._assert_count("event", event_name, 0, self.event_names_fired)

    def assert_rpc_called(self, rpc_name: str, *, times: int | None = None) -> None:
        """Raise AssertionError unless the procedure was called this many times."""
        self._assert_count("procedure", rpc_name, times, self.rpc_names_called)

    def assert_rpc_not_called(self, rpc_name: str) -> None:
        """Raise AssertionError if the procedure was called."""
        self._assert_count("procedure", rpc_name, 0, self.rpc_names_called)

    def get_event_messages(self, event_name: str | None = None) -> list[EventMessage]:
        """Return the fired events, in order; with `event_name` (`api.event`) only those of that event."""
        return [message for message in self._events if event_name in (None, message.canonical_name)]

    def get_rpc_messages(self, rpc_name: str | None = None) -> list[RpcMessage]:
        """Return the calls, in order; with `rpc_name` (`api.procedure`) only those of that procedure."""
        return [message for message in self._calls if rpc_name in (None, message.canonical_name)]

    @property
    def event_names_fired(self) -> list[str]:
        """Return the names of the fired events, one for each time, in order."""
        return [message.canonical_name for message in self._events]

    @property
    def rpc_names_called(self) -> list[str]:
        """Return the names of the called procedures, one for each call, in order."""
        return [message.canonical_name for message in self._calls]

    mockEventFiring = mock_event_firing
    mockRpcCall = mock_rpc_call
    assertEventFired = assert_events_fired
    assertEventsFired = assert_events_fired
    assertEventNotFired = assert_event_not_fired
    assertRpcCalled = assert_rpc_called
    assertRpcNotCalled = assert_rpc_not_called
    getEventMessages = get_event_messages
    getRpcMessages = get_rpc_messages
    eventNamesFired = event_names_fired
    rpcNamesCalled = rpc_names_called

    def _assert_count(self, kind: str, name: str, times: int | None, names: Sequence[str]) -> None:
        count = names.count(name)
        if count == times or (times is None and count):
            return
        wanted = "at least once" if times is None else f"{times} times"
        happened = ", ".join(dict.fromkeys(names)) or "nothing"
        verb = "fired" if kind == "event" else "called"
        raise AssertionError(f"{kind} {name!r} was {verb} {count} times, not {wanted}; {verb} was: {happened}")

    # ------------------------------------------------------------------------------------------------------- recording

    def record_event(self, row: OutboxRow) -> None:
        """Take an event that would go to the outbox; raises AssertionError for one that is not mocked."""
        if self._require_mocking and row.topic not in self._mocked_events:
            _refuse(f"event {row.topic!r} was fired", f"mock_event_firing({row.topic!r})")
        with self._lock:
            self._events.append(row.message())

    def record_call(self, request: Request) -> Answer:
        """Take a call that would be posted; raises AssertionError for one that is not mocked."""
        procedure = request.procedure
        answer = self._answers.get(procedure)
        if answer is None and self._require_mocking:
            _refuse(f"procedure {procedure!r} was called", f"mock_rpc_call({procedure!r}, result=...)")
        message = rpc_message(
            procedure,
            msgspec.json.decode(request.arguments),
            call_id=request.call_id,
            headers=read_headers(request.headers),
        )
        with self._lock:
            self._calls.append(message)
        return answer or Answer(is_default=True)


def _refuse(happened: str, remedy: str) -> NoReturn:
    raise AssertionError(f"{happened}, and is not mocked: call {remedy} before, or allow it with require_mocking=False")


class MockedOutbox:
    """An OutboxDouble that records events instead of storing them."""

    def __init__(self, result: MockResult) -> None:
        self._result = result
        self._holders: dict[str, UUID] = {}
        self._scheduled: set[UUID] = set()

    def insert(self, rows: Sequence[OutboxRow]) -> list[UUID]:
        """Record events, the first of each dedup key; the ids of the events that stand for them."""
        return [self._insert(row) for row in rows]

    def cancel(self, event_id: UUID | str) -> bool:
        """Whether a scheduled event was there to be cancelled; what was fired remains recorded."""
        if (cancelled := UUID(str(event_id))) not in self._scheduled:
            return False
        self._scheduled.remove(cancelled)
        return True

    def _insert(self, row: OutboxRow) -> UUID:
        if row.dedup_key in self._holders:
            return self._holders[row.dedup_key]
        self._result.record_event(row)
        if row.dedup_key is not None:
            self._holders[row.dedup_key] = row.event_id
        if row.deliver_at or row.delay:
            self._scheduled.add(row.event_id)
        return row.event_id


class Unmocked(Exception):
    """The call was recorded, and the test has given no result for it."""


class MockedCaller(Caller):
    """A caller that checks arguments and decodes results, and in between asks the mock and not a server."""

    def __init__(self, bus: Bus, result: MockResult) -> None:
        super().__init__(bus.config, procedures=bus.registry.procedures)
        self._result = result

    async def call(self, procedure: str, arguments: Mapping[str, object], **options: Any) -> Any:
        """The mocked result; None for a call that was not mocked, whatever it should return."""
        try:
            return await super().call(procedure, arguments, **options)
        except Unmocked:
            return None

    async def _call(self, request: Request, **_: object) -> str:
        procedure = request.procedure
        declared = self._procedures.get(procedure)
        if declared:
            declared.decode(request.arguments)
        answer = self._result.record_call(request)
        if answer.is_default:
            raise Unmocked
        if answer.error:
            raise self._error(procedure, answer)
        result = encode(answer.result, limit=self._config.rpc_max_payload)
        if declared:
            declared.check(result, answer.result)
        return result

    def _error(self, procedure: str, answer: Answer) -> Exception:
        if isinstance(answer.error, CallError):
            return answer.error
        if isinstance(answer.error, BaseException):
            response = failure(uuid4(), answer.error)
        else:
            text = answer.error if isinstance(answer.error, str) else "the call was mocked to fail"
            response = Response(uuid4(), "failed", error_type="Exception", error=text)
        if answer.trace:
            response = msgspec.structs.replace(response, traceback=answer.trace)
        return to_error(response, procedure=procedure, allowed=self._procedures.errors)


class BusMocker:
    """Mocks a bus, as a context manager or as a decorator of a test, which gets the mock as its last argument.

    With `require_mocking=False`, events that were not mocked are recorded like others, and calls return None; else both
    raise AssertionError. `using` is ignored. Mocks of one bus may be nested: the inner one records everything until it
    ends.
    """

    def __init__(self, bus: Bus, require_mocking: bool = True) -> None:
        self._bus = bus
        self._require_mocking = require_mocking
        self._mocks: list[ExitStack] = []

    def __enter__(self) -> MockResult:
        result = MockResult(require_mocking=self._require_mocking)
        mock = ExitStack()
        mock.enter_context(self._bus.client.sender.doubled_by(MockedOutbox(result)))
        caller = MockedCaller(self._bus, result)
        mock.enter_context(self._bus.client.calls.doubled_by(lambda _: caller))
        self._mocks.append(mock)
        return result

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._mocks.pop().close()

    def __call__(self, test: T) -> T:
        """Decorate a function, async or plain; raises TypeError for anything else."""
        if not inspect.isroutine(test):
            raise TypeError(f"bus_mocker decorates a test function, not {test!r}")
        signature = inspect.signature(test)
        last = _last_positional(signature)

        def given(mock: MockResult, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
            # By name where there is one: pytest passes fixtures by name, which leaves no position to append to.
            return ((*args, mock), kwargs) if last is None else (args, {**kwargs, last: mock})

        @functools.wraps(test)
        def run(*args: Any, **kwargs: Any) -> Any:
            with self as mock:
                args, kwargs = given(mock, args, kwargs)
                return test(*args, **kwargs)

        @functools.wraps(test)
        async def run_async(*args: Any, **kwargs: Any) -> Any:
            with self as mock:
                args, kwargs = given(mock, args, kwargs)
                return await test(*args, **kwargs)

        wrapper: Any = run_async if inspect.iscoroutinefunction(test) else run
        # What is left for pytest to provide.
        kept = [parameter for name, parameter in signature.parameters.items() if name != last]
        wrapper.__signature__ = signature.replace(parameters=kept)
        return cast("T", wrapper)


def _last_positional(signature: inspect.Signature) -> str | None:
    """The parameter that takes the last positional argument; None where that is `*args`."""
    parameters = list(signature.parameters.values())
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return None
    names = [parameter.name for parameter in parameters if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    return names[-1] if names else None


bus_mocker = BusMocker
