"""The caller's side: checks a call, sends its request, and makes a result or an exception of the response."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from typing import Any, Protocol
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

from pgbus.causality import current_headers
from pgbus.codec.headers import join_headers
from pgbus.config import Config
from pgbus.config.options import FLAG, check_options, seconds
from pgbus.database import channels
from pgbus.database.statements.rpc import Request
from pgbus.database.store import Store
from pgbus.errors import CallTimeout, NoWorkerAvailable
from pgbus.rpc.connection import CallerConnection
from pgbus.rpc.directory import Directory
from pgbus.rpc.exchange import UNSERVED, Exchange
from pgbus.rpc.procedures import Procedures, check_procedure_name
from pgbus.rpc.wire import encode_arguments, result_receiver, to_error
from pgbus.topics import split_name

# Seconds: a day. The database's own limit, the domain `pgbus.deadline`, is two.
MAX_TIMEOUT = 86_400.0

_OPTIONS = {"timeout": seconds(MAX_TIMEOUT).or_none(), "wait": FLAG}


class Schemas(Protocol):
    """The known schemas of other services' procedures."""

    async def check_call(self, procedure: str, arguments: str, *, store: Store) -> None:
        """Refuse arguments, as JSON text, that do not fit; `store` is the caller's."""
        ...

    async def why_unserved(self, procedure: str, *, store: Store) -> str | None:
        """Return the fault of the name of a procedure that no live worker serves; None if the name seems right."""
        ...

    def drop(self, store: Store | None = None) -> None:
        """Drop the cached schemas: they have changed."""
        ...


class Caller:
    """Calls procedures from one event loop, over one session of its own, opened by the first call."""

    def __init__(self, config: Config, *, procedures: Procedures, schemas: Schemas | None = None) -> None:
        self._config = config
        self._schemas = schemas
        self._procedures = procedures
        # It names the channel on which results travel: who does not know it can neither read nor forge them. 96 bits.
        caller = secrets.token_urlsafe(12)
        self._connection = CallerConnection(
            config,
            channels={
                channels.replies(config.namespace, caller): lambda payload: self._exchange.heard(payload),
                channels.schemas(config.namespace): self._heard_schemas,
            },
            reopened=lambda: self._exchange.look_again(),
        )
        self._store = self._connection.store
        self._directory = Directory(config, connection=self._connection)
        self._exchange = Exchange(
            self._store, caller=caller, caller_name=config.process_name, directory=self._directory
        )

    async def call(
        self,
        procedure: str,
        arguments: Mapping[str, object],
        *,
        timeout: float | None,
        returns: Any,
        wait: bool,
        call_id: UUID | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """`Bus.call`; `call_id` is a new UUIDv7 unless given, and `headers` are those of the current cause."""
        check_procedure_name(procedure)
        declared = self._procedures.get(procedure)
        settings = self._config.api(split_name(procedure)[0])
        receive = result_receiver(procedure, returns, declared=declared, settings=settings)
        check_options(procedure, _OPTIONS, {"timeout": timeout, "wait": wait})
        text = encode_arguments(procedure, arguments, limit=self._config.rpc_max_payload)
        if declared:
            declared.decode.check(text, arguments)
        request = Request(
            call_id or uuid7(),
            procedure,
            text,
            timeout or 0.0,
            headers=join_headers({}, headers if headers is not None else current_headers()),
        )
        return receive(await self._call(request, timeout=timeout, wait=wait))

    async def close(self) -> None:
        """Close the connection; calls that are under way raise CallCancelled."""
        await self._exchange.close()
        await self._connection.close()

    def abandon(self) -> None:
        """Drop the connection of a loop that was closed with it."""
        self._connection.abandon()

    async def _call(self, request: Request, *, timeout: float | None, wait: bool) -> str:
        """The result, as JSON text. Test doubles replace this: what is before and after it needs no database."""
        procedure = request.procedure
        loop = asyncio.get_running_loop()
        started = loop.time()
        scope = asyncio.timeout(timeout)
        try:
            async with scope:
                if not self._connection.is_open:
                    await self._connection.open()
                if self._schemas is not None:
                    await self._schemas.check_call(procedure, request.arguments, store=self._store)
                service = await self._directory.find(procedure, since=started)
                if not (service.is_served or wait):
                    raise await self._unserved(procedure)
                if timeout is None:
                    timeout = service.timeout or self._default_timeout(procedure)
                    # From the call's beginning: the caller does not care which part of it took the time.
                    scope.reschedule(started + timeout)
                response = await self._exchange.send(
                    msgspec.structs.replace(request, timeout=timeout), wait=wait, scope=scope
                )
        except TimeoutError as error:
            if not scope.expired():
                raise
            raise CallTimeout(
                f"{procedure}: no response within {timeout:g} seconds; it is not executed any more if it was not yet",
                procedure=procedure,
            ) from error
        if response.result is None:
            raise to_error(response, procedure=procedure, allowed=self._procedures.errors)
        return response.result

    async def _unserved(self, procedure: str) -> NoWorkerAvailable:
        why = self._schemas and await self._schemas.why_unserved(procedure, store=self._store)
        reason = f", and {why}" if why else "; start one, or call with wait=True"
        return NoWorkerAvailable(f"{procedure}: {UNSERVED}{reason}", procedure=procedure)

    def _default_timeout(self, procedure: str) -> float:
        return self._config.api(split_name(procedure)[0]).rpc_timeout or self._config.rpc_timeout

    def _heard_schemas(self, payload: str) -> None:  # noqa: ARG002 - it tells that something changed, not what
        if self._schemas is not None:
            self._schemas.drop(self._store)
