"""Calls of procedures, between hooks, from any event loop and from code that blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypedDict, TypeVar, Unpack, overload

from uuid_utils.compat import uuid7

from pgbus.aio.blocking import BlockingCalls, refuse_to_block
from pgbus.aio.loopbound import LoopBound
from pgbus.causality import current_headers
from pgbus.config import Config
from pgbus.handlers.hooks import Hooks
from pgbus.rpc.caller import Caller, Schemas
from pgbus.rpc.hooks import exchange, exchange_here, rpc_message
from pgbus.rpc.procedures import Procedures
from pgbus.telemetry import Call

T = TypeVar("T")


class CallOptions(TypedDict, total=False):
    """The options of a call, besides `returns`."""

    timeout: float | None
    """Seconds; default: the procedure's own, else the setting `rpc_timeout`."""
    wait: bool
    """Wait for a worker, until the timeout, when there is none; default: false."""


class Calls:
    """Calls procedures for one bus; for the options see `Bus.call`.

    `config` may be replaced while no connection is open.
    """

    def __init__(
        self, config: Config, *, procedures: Procedures, schemas: Schemas, hooks: Hooks, blocking: BlockingCalls
    ) -> None:
        self.config = config
        self._hooks = hooks
        self._blocking = blocking
        self._callers = LoopBound(lambda: Caller(self.config, procedures=procedures, schemas=schemas))
        # Set by `doubled_by` alone, in a test.
        self._double: Callable[[Caller], Caller] | None = None

    async def call(
        self,
        procedure: str,
        arguments: Mapping[str, object] | None = None,
        *,
        returns: Any = Any,
        **options: Unpack[CallOptions],
    ) -> Any:
        """Call a procedure; see `Bus.call`."""
        given: dict[str, Any] = {"timeout": None, "wait": False, "returns": returns, **options}
        if not self._hooks.on_calling:
            return await self.caller.call(procedure, arguments or {}, **given)
        given["call_id"] = call_id = uuid7()
        message = rpc_message(procedure, arguments or {}, call_id=call_id, headers=current_headers())

        async def work() -> Any:
            given["headers"] = message.headers
            with self._hooks.instruments.around(Call(procedure, call_id, message.headers)):
                return await self.caller.call(procedure, message.kwargs, **given)

        return await exchange(self._hooks.before_rpc_call, self._hooks.after_rpc_call, message, work)

    def call_sync(
        self,
        procedure: str,
        arguments: Mapping[str, object] | None = None,
        *,
        returns: Any = Any,
        **options: Unpack[CallOptions],
    ) -> Any:
        """Call a procedure from blocking code; see `Bus.call_sync`."""
        given: dict[str, Any] = {"timeout": None, "wait": False, "returns": returns, **options}
        refuse_to_block("call")
        if not self._hooks.on_calling:
            return self._blocking.run(lambda: self.caller.call(procedure, arguments or {}, **given))
        given["call_id"] = call_id = uuid7()
        message = rpc_message(procedure, arguments or {}, call_id=call_id, headers=current_headers())

        def work() -> Any:
            given["headers"] = message.headers
            with self._hooks.instruments.around(Call(procedure, call_id, message.headers)):
                return self._blocking.run(lambda: self.caller.call(procedure, message.kwargs, **given))

        before, after = self._hooks.before_rpc_call, self._hooks.after_rpc_call
        return exchange_here(before, after, message, work, block=self._blocking.run)

    @property
    def caller(self) -> Caller:
        """The caller of the running event loop."""
        own = self._callers.here()
        return self._double(own) if self._double else own

    async def close_here(self) -> None:
        """Close what belongs to the running loop."""
        await self._callers.close_here()

    @contextmanager
    def doubled_by(self, double: Callable[[Caller], Caller]) -> Iterator[None]:
        """Make all calls by way of a test's double, which is made from the real caller; may be nested."""
        outer, self._double = self._double, double
        try:
            yield
        finally:
            self._double = outer


class CallingVerbs:
    """The part of a bus that calls procedures, as its users see it."""

    _calls: Calls

    @overload
    async def call(
        self,
        procedure: str,
        arguments: Mapping[str, object] | None = None,
        *,
        returns: type[T],
        **options: Unpack[CallOptions],
    ) -> T: ...
    @overload
    async def call(
        self,
        procedure: str,
        arguments: Mapping[str, object] | None = None,
        *,
        returns: Any = Any,
        **options: Unpack[CallOptions],
    ) -> Any: ...
    async def call(
        self,
        procedure: str,
        arguments: Mapping[str, object] | None = None,
        *,
        returns: Any = Any,
        **options: Unpack[CallOptions],
    ) -> Any:
        """Call a procedure on whatever worker serves it, and return its result, decoded into `returns`.

        - `arguments`: by name; anything that an event's payload may hold.
        - `timeout`: seconds; default: the procedure's own, else the setting `rpc_timeout`. A call that no worker has
          begun by then is never executed; one that is running is cancelled.
        - `returns`: the type of the result; default: the procedure's return annotation, if this process has it, else
          plain JSON values.
        - `wait`: wait for a worker, until the timeout, when there is none.

        Raises a CallError: NoWorkerAvailable, CallTimeout, WorkerLost, InvalidArguments (a DeformError if they have no
        JSON form), InvalidResult, CallCancelled;
        RemoteError for what the procedure raised, or that very class if `registry.procedures.allow_errors` has it.
        Cancelling the task that awaits takes the call back.
        """
        return await self._calls.call(procedure, arguments, returns=returns, **options)

    @overload
    def call_sync(
        self,
        procedure: str,
        arguments: Mapping[str, object] | None = None,
        *,
        returns: type[T],
        **options: Unpack[CallOptions],
    ) -> T: ...
    @overload
    def call_sync(
        self,
        procedure: str,
        arguments: Mapping[str, object] | None = None,
        *,
        returns: Any = Any,
        **options: Unpack[CallOptions],
    ) -> Any: ...
    def call_sync(
        self,
        procedure: str,
        arguments: Mapping[str, object] | None = None,
        *,
        returns: Any = Any,
        **options: Unpack[CallOptions],
    ) -> Any:
        """`call` for code that blocks; raises CannotBlockHere on the thread of a running event loop."""
        return self._calls.call_sync(procedure, arguments, returns=returns, **options)
