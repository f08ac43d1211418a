"""`bus.schema`: what is known of every API: of this process's own from its code, of others from the database or a file.

What the database holds is read once, when it is first needed, and again when a notification tells that it changed.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Protocol, TypeAlias, TypeVar

import asyncpg
import msgspec

from pgbus.codec import ancestors_of, event_classes
from pgbus.config import Config
from pgbus.errors import (
    CannotBlockHere,
    InvalidArguments,
    InvalidEventError,
    RemoteSchemasNotLoaded,
    SchemaNotFound,
    UnknownApi,
    ValidationError,
)
from pgbus.handlers import type_hints
from pgbus.procedures import Procedure
from pgbus.registry import Listener, Registry
from pgbus.schema import Declaration, Documents, Field, Fields, Schema, Stored, find_broken, payload_schema, type_schema
from pgbus.schema.documents import Kind, encode_documents, read_documents, split_name, to_documents, write_documents
from pgbus.schema.generate import signature_fields
from pgbus.schema.validate import Validator, can_validate, make_validator, to_json
from pgbus.store import is_link_error

logger = logging.getLogger("pgbus")

T = TypeVar("T")
# Runs a named statement.
Run: TypeAlias = Callable[[str, dict[str, object]], Awaitable[Sequence[Sequence[Any]]]]
Key: TypeAlias = tuple[Kind, str]

# A live worker's schemas are seen at least this often, in seconds.
SEEN_INTERVAL = 60.0


class DeclaredParameter(Protocol):
    """A parameter of an event of an API."""

    name: str
    annotation: Any
    default: Any

    @property
    def is_required(self) -> bool:
        """Whether the event cannot be fired without it."""
        ...


class DeclaredEvent(Protocol):
    """An event of an API."""

    accepts_any: bool

    @property
    def parameters(self) -> Mapping[str, Any]:
        """DeclaredParameters by name."""
        ...


class Apis(Protocol):
    """The APIs that this process has registered."""

    def event(self, topic: str) -> DeclaredEvent | None:
        """The event that is fired under the topic."""
        ...

    def events(self) -> Iterator[tuple[str, DeclaredEvent]]:
        """Every event, with its topic."""
        ...

    def __contains__(self, name: object) -> bool: ...


class Block(Protocol):
    """Waits for async work in code that blocks; raises CannotBlockHere on the thread of a running event loop."""

    def __call__(self, work: Callable[[], Awaitable[T]], call: str, /) -> T:  # noqa: D102 - told above
        ...


class Catalog:
    """The schemas of every API that is known: registered here, published by any service, or loaded from a file.

    Methods that need what the database holds read it when they are first called. On the thread of a running event
    loop they cannot, and raise RemoteSchemasNotLoaded until someone awaited `ensure_loaded_from_bus()`; a worker does.
    """

    def __init__(self, *, config: Config, registry: Registry, apis: Apis, run: Run, block: Block) -> None:
        self._config = config
        self._registry = registry
        self._apis = apis
        self._run = run
        self._block = block
        self._files: dict[Key, Schema] = {}
        self._stored: dict[Key, Schema] | None = None
        self._is_stale = False
        self._reading: asyncio.Task[None] | None = None
        # Of calls to other services' procedures: the validator of their arguments, or None without a schema.
        self._checks: dict[str, Validator | None] = {}
        self._published: set[tuple[Kind, str, str]] = set()

    # ------------------------------------------------------------------------------------------------------- looking

    @property
    def api_names(self) -> list[str]:
        """The names of the APIs that are known."""
        return sorted({api for _, name in self._names() if (api := split_name(name)[0])})

    @property
    def events(self) -> list[tuple[str, str]]:
        """The events that are known, as pairs of API and name."""
        return sorted(split_name(name) for kind, name in self._names() if kind == "event")

    @property
    def rpcs(self) -> list[tuple[str, str]]:
        """The procedures that are known, as pairs of API and name."""
        return sorted(split_name(name) for kind, name in self._names() if kind == "procedure")

    def get_api_schema(self, api_name: str) -> dict[str, dict[str, Schema]]:
        """`{"events": {name: ...}, "rpcs": {name: ...}}`; raises SchemaNotFound."""
        found = self._documents().get(api_name)
        if found is None:
            raise SchemaNotFound(
                f"no schema is known of API {api_name!r}; known are: {', '.join(self.api_names) or 'none'}"
            )
        return found

    def get_event_schema(self, api_name: str, event_name: str) -> Schema:
        """`{"parameters": ...}`; raises SchemaNotFound."""
        return self._get(("event",), api_name, event_name)

    def get_rpc_schema(self, api_name: str, rpc_name: str) -> Schema:
        """`{"parameters": ..., "response": ...}`; raises SchemaNotFound."""
        return self._get(("procedure",), api_name, rpc_name)

    def get_event_or_rpc_schema(self, api_name: str, name: str) -> Schema:
        """The schema of the event of that name, else of the procedure; raises SchemaNotFound."""
        return self._get(("event", "procedure"), api_name, name)

    def _get(self, kinds: Sequence[Kind], api_name: str, name: str) -> Schema:
        full_name = _join(api_name, name)
        # The database is asked last: it may have to be read first.
        for look in (self._find_here, lambda kind, name: self._loaded().get((kind, name))):
            for kind in kinds:
                if (found := look(kind, full_name)) is not None:
                    return found
        what = " or ".join(kinds)
        raise SchemaNotFound(f"no schema is known of {what} {full_name!r}; `pgbus schema dump` shows what is stored")

    def _find_here(self, kind: Kind, name: str) -> Schema | None:
        declared = self._declared(kind, name)
        return self._files.get((kind, name)) if declared is None else declared.schema

    def _names(self) -> set[Key]:
        declared = {(one.kind, one.name) for one in self.declare() if one.kind != "listener"}
        return {*declared, *self._files, *self._loaded()}

    def _documents(self) -> Documents:
        others = {**self._loaded(), **self._files}
        return to_documents([*(Declaration(*key, schema) for key, schema in others.items()), *self.declare()])

    # ---------------------------------------------------------------------------------------------------- validating

    def validate_parameters(self, api_name: str, name: str, parameters: Mapping[str, object]) -> None:
        """Raise ValidationError unless these are arguments for the event or procedure, as the JSON that they become.

        Raises SchemaNotFound, and ConfigurationError unless pgbus[schema] is installed.
        """
        schema = self.get_event_or_rpc_schema(api_name, name)["parameters"]
        _validate(schema, dict(parameters), subject=f"the arguments of {_join(api_name, name)}")

    def validate_response(self, api_name: str, name: str, response: object) -> None:
        """Raise ValidationError unless this is a result of the procedure; else as `validate_parameters`."""
        schema = self.get_rpc_schema(api_name, name)["response"]
        _validate(schema, response, subject=f"the result of {_join(api_name, name)}")

    async def check_call(self, procedure: str, arguments: str, *, run: Run) -> None:
        """Check the arguments of a call, as JSON text, to a procedure that another service serves.

        Raises InvalidArguments; with `strict_validation` UnknownApi or SchemaNotFound where no schema is known.
        """
        api_name, _ = split_name(procedure)
        settings = self._config.api(api_name)
        if not settings.validate_outgoing or procedure in self._registry.procedures or api_name in self._apis:
            return
        if self._stored is None or self._is_stale:
            await self._load_for_check(run)
        try:
            check = self._checks[procedure]
        except KeyError:
            check = self._checks[procedure] = self._make_check(procedure)
        if check is not None:
            if complaint := check(msgspec.json.decode(arguments)):
                raise InvalidArguments(
                    f"the arguments of {procedure} do not fit its schema: {complaint}", procedure=procedure
                )
        elif settings.strict_validation:
            self._refuse_unknown("procedure", procedure)

    def refuse_unknown_event(self, topic: str) -> None:
        """Raise UnknownApi or SchemaNotFound for an event that no schema is known of, once schemas were read."""
        if self._stored is not None and self._apis.event(topic) is None and topic not in event_classes():
            self._refuse_unknown("event", topic)

    async def _load_for_check(self, run: Run) -> None:
        try:
            await self.load(run)
        except asyncpg.PostgresError as error:  # such as a role that may call and not read schemas
            if is_link_error(error):
                raise
            logger.warning("calls are not checked here, as the stored schemas cannot be read: %s", error)
            self._replace({})

    def _make_check(self, procedure: str) -> Validator | None:
        schema = self._files.get(("procedure", procedure)) or self._loaded().get(("procedure", procedure))
        if schema is None or not can_validate():
            return None
        return make_validator(schema["parameters"])

    def _refuse_unknown(self, kind: Kind, full_name: str) -> None:
        known = {**self._loaded(), **self._files}
        if (kind, full_name) in known:
            return  # it is only that it cannot be validated here
        api_name, name = split_name(full_name)
        if all(split_name(other)[0] != api_name for _, other in known):
            raise UnknownApi(api_name, self.api_names, is_foreign=True)
        raise SchemaNotFound(f"API {api_name!r} has no {kind} {name!r} that is known")

    # --------------------------------------------------------------------------------------------------------- files

    def save_local(self, destination: str | Path | IO[str] | None = None) -> None:
        """Write all schemas that are known as JSON: into a file, one `<api>.json` each into a directory, or a stream.

        A path that ends in a slash is a directory, made if it is not there. Default: stdout.
        """
        if isinstance(destination, str | Path):
            write_documents(self._documents(), destination)
        else:
            (destination or sys.stdout).write(encode_documents(self._documents()).decode())

    def load_local(self, source: str | Path | IO[str] | IO[bytes] | None = None) -> None:
        """Read schemas from a file, the `*.json` of a directory, or an open file (default: stdin), for this process.

        They hold here in place of those that the database has of the same events and procedures. Raises InvalidSchema.
        """
        found = read_documents(sys.stdin if source is None else source)
        self._files.update({(one.kind, one.name): one.schema for one in found})
        self._checks.clear()

    # ------------------------------------------------------------------------------------------------------- the bus

    async def ensure_loaded_from_bus(self) -> None:
        """Read the stored schemas, unless what was read still holds."""
        if self._stored is None or self._is_stale:
            await self.load_from_bus()

    async def load_from_bus(self) -> None:
        """Read the stored schemas now; raises DatabaseUnreachableError."""
        await self.load(self._run)

    async def save_to_bus(self) -> None:
        """Publish the schemas of this process's events, as a worker of it would at its start.

        For programs that no worker is part of: one that publishes in transactions of its own does so by itself.
        """
        await self.publish(self.declare(procedures=(), listeners=()), run=self._run)

    async def load(self, run: Run) -> None:
        """`load_from_bus` through somebody's connection."""
        self._is_stale = False  # before the look: what changes from now on is told once more
        try:
            rows = await run("load_schemas", {})
        except BaseException:
            self._is_stale = True
            raise
        self._replace({(kind, name): msgspec.json.decode(text) for kind, name, text in rows})

    def forget(self) -> None:
        """Begin anew: the bus is to use another database, of which neither this holds, nor what was stored there."""
        self._stored = None
        self._is_stale = False
        self._checks.clear()
        self._published = set()

    def drop(self, run: Run | None = None) -> None:
        """What was read holds no more, and is read again soon, by `run` if that is given; called on an event loop."""
        self._is_stale = True
        if self._stored is not None and (self._reading is None or self._reading.done()):
            reading = self._read_again(run or self._run)
            self._reading = asyncio.get_running_loop().create_task(reading, name="pgbus schemas")

    async def _read_again(self, run: Run) -> None:
        try:
            while self._is_stale:
                await self.load(run)
        except Exception as error:  # whoever needs them next tries again
            logger.info("schemas changed, and could not be read again yet: %s", error)

    def _replace(self, stored: dict[Key, Schema]) -> None:
        self._stored = stored
        self._checks.clear()

    def _loaded(self) -> dict[Key, Schema]:
        if self._stored is None:
            try:
                self._block(self.load_from_bus, "bus.schema")
            except CannotBlockHere as error:
                raise RemoteSchemasNotLoaded(
                    "the schemas of other services were not read yet; `await bus.schema.ensure_loaded_from_bus()` first"
                ) from error
        return self._stored or {}

    # ---------------------------------------------------------------------------------------------------- publishing

    def declare(
        self, *, procedures: Iterable[Procedure] | None = None, listeners: Iterable[Listener] = ()
    ) -> list[Declaration]:
        """What this process's code says: of its events, of its procedures (default: all), of these listeners."""
        served = self._registry.procedures if procedures is None else procedures
        return [
            *(_api_event(topic, event) for topic, event in self._apis.events()),
            *(
                _class_event(topic, cls)
                for topic, cls in sorted(event_classes().items())
                if self._apis.event(topic) is None
            ),
            *(_procedure(one) for one in served),
            *(_listener(one) for one in listeners),
        ]

    def _declared(self, kind: Kind, name: str) -> Declaration | None:
        if kind == "procedure":
            procedure = self._registry.procedures.get(name)
            return None if procedure is None else _procedure(procedure)
        if event := self._apis.event(name):
            return _api_event(name, event)
        cls = event_classes().get(name)
        return None if cls is None else _class_event(name, cls)

    async def publish(self, declared: Sequence[Declaration], *, run: Run, worker_id: int | None = None) -> None:
        """Store what is declared; a worker also says that it speaks it, and is warned of what that breaks."""
        if not declared:
            return
        values = {
            "kinds": [one.kind for one in declared],
            "names": [one.name for one in declared],
            "hashes": [one.hash for one in declared],
            "service": self._config.service_name,
        }
        if worker_id is not None:
            await self._warn_of_breaks(declared, values, run)
        schemas = [msgspec.json.encode(one.schema, order="sorted").decode() for one in declared]
        channel = f"{self._config.namespace}_schemas"
        for _ in range(5):
            rows = await run(
                "publish_schemas", {**values, "schemas": schemas, "worker_id": worker_id, "channel": channel}
            )
            if len(rows) >= len({(one.kind, one.name) for one in declared}):
                break
        for kind, name, version, is_new, _ in rows:
            if is_new:
                level = logging.INFO if version > 1 else logging.DEBUG
                logger.log(level, "%s %s has a new schema: version %d", kind, name, version)
        self._published = {(one.kind, one.name, one.hash) for one in declared}

    async def announce(self, run: Run) -> None:
        """Store the schemas of the events that this process may fire, unless it has done so; never fails."""
        try:
            declared = self.declare(procedures=())
            if any((one.kind, one.name, one.hash) not in self._published for one in declared):
                await self.publish(declared, run=run)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
            logger.info("the schemas of events could not be stored: %s", error)

    async def list_stored(self, run: Run | None = None) -> list[Stored]:
        """Every version of every schema in the database."""
        return read_stored(await (run or self._run)("list_schemas", {}))

    async def _warn_of_breaks(self, declared: Sequence[Declaration], values: dict[str, object], run: Run) -> None:
        new = {(kind, name) for kind, name in await run("find_new_schemas", values)}
        if not new:
            return
        changed = [one for one in declared if (one.kind, one.name) in new]
        for found in find_broken(changed, await self.list_stored(run), with_missing=False):
            logger.warning("this code does not fit the rest of the bus: %s", found)


def read_stored(rows: Iterable[Any]) -> list[Stored]:
    """From the rows of the statement `list_schemas`."""
    return [
        Stored(
            kind=kind,
            name=name,
            service=service,
            version=version,
            schema=msgspec.json.decode(schema),
            is_live=is_live,
            workers=tuple(workers),
            is_registered=is_registered,
            first_seen_at=first_seen_at,
            published_at=published_at,
            last_seen_at=last_seen_at,
        )
        for (
            kind, name, service, version, schema, is_live, workers, is_registered, first_seen_at, published_at,
            last_seen_at,
        ) in rows
    ]  # fmt: skip


def _join(api_name: str, name: str) -> str:
    return f"{api_name}.{name}" if api_name else name


def _validate(schema: Schema, value: object, *, subject: str) -> None:
    try:
        plain = to_json(value, field=subject)
    except InvalidEventError as error:
        raise ValidationError(str(error)) from error
    if complaint := make_validator(schema)(plain):
        raise ValidationError(f"{subject} do not fit the schema: {complaint}")


# -------------------------------------------------------------------------------------------------------- declarations


def _api_event(topic: str, event: DeclaredEvent) -> Declaration:
    parameters: Iterable[DeclaredParameter] = event.parameters.values()
    fields = [Field(one.name, one.annotation, one.default, is_required=one.is_required) for one in parameters]
    shape = Fields(fields, is_open=event.accepts_any)
    return Declaration("event", topic, {"parameters": payload_schema(shape, title=f"Event {topic} parameters")})


def _class_event(topic: str, cls: type) -> Declaration:
    schema = {"parameters": payload_schema(cls, title=f"Event {topic} parameters")}
    return Declaration("event", topic, schema, ancestors_of(cls))


def _procedure(procedure: Procedure) -> Declaration:
    hints = type_hints(procedure.handler)
    parameters = signature_fields(procedure.handler, hints)
    schema = {
        "parameters": payload_schema(parameters, title=f"RPC {procedure.name}() parameters"),
        "response": type_schema(hints.get("return", Any), title=f"RPC {procedure.name}() response"),
    }
    return Declaration("procedure", procedure.name, schema)


def _listener(listener: Listener) -> Declaration:
    events = {
        pattern: payload_schema(listener.reads(pattern), title=f"Listener {listener.name} on {pattern}")
        for pattern in listener.patterns
    }
    return Declaration("listener", listener.name, {"events": events})
