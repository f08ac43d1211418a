"""`bus.auth.user_created`: attribute access that spells the name of an event or a procedure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pgbus.api.client import BusClient, OnError
from pgbus.config.options import given_options
from pgbus.database.adapters import AsyncUsing, SyncUsing
from pgbus.errors import InvalidName, InvalidParameters
from pgbus.errors.spelling import find_close
from pgbus.handlers.signatures import Handler
from pgbus.messages import EventMessage


class BusPath:
    """Words after `bus.`: the last one names an event or a procedure, those before it the API.

    The bus itself is the path without any words. Nothing is looked up until it is fired or called, and anything may be
    listened to: the API may be another service's.
    """

    __slots__ = ("_client", "_words")

    def __init__(self, client: BusClient, words: tuple[str, ...]) -> None:
        self._client = client
        self._words = words

    # -------------------------------------------------------------------------------------------------------- events

    def fire(
        self,
        /,
        *args: object,
        using: SyncUsing | None = None,
        bus_options: Mapping[str, object] | None = None,
        **kwargs: object,
    ) -> EventMessage:
        """Fire the event with these arguments, in its own transaction or in that of `using`; for blocking code.

        - `using`: a psycopg Connection, or SQLAlchemy's Session or Connection.
        - `bus_options`: `using`, `require_transaction`, `key`, `headers`, `deliver_at`, `delay`, `dedup_key`,
          `event_id`; see `Bus.publish`.

        Raises UnknownApi unless this service has registered the API; EventNotFound, InvalidEventArguments,
        InvalidParameters; and CannotBlockHere on the thread of a running event loop, unless `using` is given.
        """
        self._refuse_positional(args)
        return self._client.fire_event_sync(*self._split(), kwargs, _with_using(bus_options, using))

    async def fire_async(
        self,
        /,
        *args: object,
        using: AsyncUsing | None = None,
        bus_options: Mapping[str, object] | None = None,
        **kwargs: object,
    ) -> EventMessage:
        """`fire` for async code; `using` is an asyncpg, psycopg or SQLAlchemy async connection or session."""
        self._refuse_positional(args)
        return await self._client.fire_event(*self._split(), kwargs, _with_using(bus_options, using))

    def listen(
        self,
        listener: Handler,
        *,
        listener_name: str | None = None,
        bus_options: Mapping[str, object] | None = None,
        on_error: OnError = OnError.SHUTDOWN,
    ) -> None:
        """Call a function with the event's arguments; see `BusClient.listen_for_events`."""
        self._client.listen_for_event(*self._split(), listener, listener_name, bus_options, on_error)

    async def listen_async(
        self,
        listener: Handler,
        *,
        listener_name: str | None = None,
        bus_options: Mapping[str, object] | None = None,
        on_error: OnError = OnError.SHUTDOWN,
    ) -> None:
        """The same as `listen`, for async code; the worker registers its listeners with the database later."""
        self.listen(listener, listener_name=listener_name, bus_options=bus_options, on_error=on_error)

    # --------------------------------------------------------------------------------------------------------- calls

    def __call__(self, /, *args: object, bus_options: Mapping[str, object] | None = None, **kwargs: object) -> Any:
        """Call the procedure; the same as `call`."""
        if not self._words:
            self._split()
        if len(self._words) == 1:
            raise AttributeError(f"a bus has no method {self._words[0]!r}; {self._remedy(self._words[0])}")
        return self.call(*args, bus_options=bus_options, **kwargs)

    def call(self, /, *args: object, bus_options: Mapping[str, object] | None = None, **kwargs: object) -> Any:
        """Call the procedure with these arguments, and return its result; for code that blocks.

        `bus_options`: `timeout` in seconds, `returns`, a type for the result, and `wait`, for a worker where there is
        none; see `Bus.call`. Raises InvalidParameters; CannotBlockHere on the thread of a running event loop; and what
        `Bus.call` does.
        """
        self._refuse_positional(args)
        return self._client.call_rpc_sync(*self._split(), kwargs, bus_options)

    async def call_async(
        self, /, *args: object, bus_options: Mapping[str, object] | None = None, **kwargs: object
    ) -> Any:
        """Call the procedure from async code; see `call`."""
        self._refuse_positional(args)
        return await self._client.call_rpc_remote(*self._split(), kwargs, bus_options)

    # ------------------------------------------------------------------------------------------------------- schemas

    @property
    def parameter_schema(self) -> dict[str, Any]:
        """The JSON Schema of the arguments of the event or procedure; raises SchemaNotFound."""
        self._refuse_root()
        found: dict[str, Any] = self._client.schema.get_event_or_rpc_schema(*self._split())["parameters"]
        return found

    @property
    def response_schema(self) -> dict[str, Any]:
        """The JSON Schema of the procedure's result; raises SchemaNotFound."""
        self._refuse_root()
        found: dict[str, Any] = self._client.schema.get_rpc_schema(*self._split())["response"]
        return found

    def validate_parameters(self, parameters: Mapping[str, object]) -> None:
        """Raise ValidationError unless these are valid arguments; raises SchemaNotFound without a known schema."""
        self._client.schema.validate_parameters(*self._split(), parameters)

    def validate_response(self, response: object) -> None:
        """Raise ValidationError unless this is a valid result of the procedure; raises SchemaNotFound without a known
        schema.
        """
        self._client.schema.validate_response(*self._split(), response)

    # --------------------------------------------------------------------------------------------------------- words

    def __getattr__(self, word: str) -> BusPath:
        if word.startswith("_"):
            raise AttributeError(f"{self!r} has no attribute {word!r}; private names are not on the bus")
        return BusPath(self._client, (*self._words, word))

    def __dir__(self) -> Iterable[str]:
        return {
            *super().__dir__(),
            *self._client.api_registry.next_words(self._words),
            *self._client.schema.known.next_words(self._words),
        }

    def __str__(self) -> str:
        return ".".join(self._words)

    def __repr__(self) -> str:
        return f"<BusPath {self}>"

    def _split(self) -> tuple[str, str]:
        if not self._words:
            raise InvalidName("a bus by itself is neither an event nor a procedure: name one, as in `bus.api.name`")
        *api_words, name = self._words
        return ".".join(api_words), name

    def _remedy(self, word: str) -> str:
        names = [name for name in self._client.api_registry.taken_names if not name.startswith("_")]
        if close := find_close(word, names, most=1):
            return f"did you mean `bus.{close[0]}`?"
        return "a procedure is called as `bus.api.procedure`"

    def _refuse_root(self) -> None:
        if not self._words:  # what looks at all attributes of a bus is not to fail
            raise AttributeError("a bus by itself has no schema of a name")

    def _refuse_positional(self, args: tuple[object, ...]) -> None:
        if args:
            raise InvalidParameters(
                f"{self} takes its arguments by name, and not {args[0]!r} by position: write name={args[0]!r}"
            )


def _with_using(bus_options: Mapping[str, object] | None, using: object) -> Mapping[str, object]:
    options = given_options("bus_options", bus_options)
    return options if using is None else {**options, "using": using}
