"""What is known of every API, looked up and validated against.

What the database holds is read once, when it is first needed, and again when a notification tells that it changed.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Protocol, TypeAlias, TypeVar

import msgspec

from pgbus.config import Config
from pgbus.database import channels
from pgbus.database.faults import DATABASE_ERRORS, ServerError, is_link_error
from pgbus.database.store import Run
from pgbus.errors import (
    CannotBlockHere,
    InvalidArguments,
    InvalidEventError,
    InvalidSchema,
    PrivilegeError,
    RemoteSchemasNotLoaded,
    SchemaNotFound,
    UnknownApi,
    ValidationError,
)
from pgbus.listeners.listener import Listener
from pgbus.registry import Registry
from pgbus.rpc.procedures import Procedure
from pgbus.schema.declared import Apis, Code
from pgbus.schema.documents import (
    Declaration,
    Documents,
    Kind,
    encode_documents,
    read_documents,
    to_documents,
    write_documents,
)
from pgbus.schema.generate import Schema
from pgbus.schema.publication import Publication, read_schema
from pgbus.schema.unserved import why_unserved
from pgbus.schema.validate import Validator, can_validate, make_validator, to_json
from pgbus.topics import split_name

logger = logging.getLogger("pgbus")

T = TypeVar("T")
Key: TypeAlias = tuple[Kind, str]


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
        self._code = Code(registry=registry, apis=apis)
        self._publication = Publication(service=config.service_name, channel=channels.schemas(config.namespace))
        self._run = run
        self._block = block
        self._files: dict[Key, Schema] = {}
        self._stored: dict[Key, Schema] | None = None
        self._is_stale = False
        self._reading: asyncio.Task[None] | None = None
        # Of calls to other services' procedures: the validator of their arguments, or None without a schema.
        self._checks: dict[str, Validator | None] = {}

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
        declared = self._code.find(kind, name)
        return self._files.get((kind, name)) if declared is None else declared.schema

    def _names(self) -> set[Key]:
        declared = {(one.kind, one.name) for one in self.declare() if one.kind != "listener"}
        return {*declared, *self._files, *self._loaded()}

    def next_words(self, prefix: Sequence[str]) -> list[str]:
        """What may follow the words of a path, by the schemas that were read so far."""
        length = len(prefix)
        found = (name.split(".") for _, name in {**(self._stored or {}), **self._files})
        return sorted({words[length] for words in found if len(words) > max(1, length) and words[:length] == [*prefix]})

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
        if not settings.validate_outgoing or self._code.serves(api_name, procedure):
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

    async def why_unserved(self, procedure: str, *, run: Run) -> str | None:
        """What is wrong with the name of a procedure that no live worker serves, if it looks wrong."""
        if self._stored is None or self._is_stale:
            await self._load_for_check(run)
        declared = [(one.kind, one.name) for one in self.declare()]
        if not self._stored and ("event", procedure) not in declared:
            return None  # nobody has told of anything, or it cannot be read by this role
        return why_unserved(procedure, [*declared, *self._files, *(self._stored or {})])

    def refuse_unknown_event(self, topic: str) -> None:
        """Raise UnknownApi or SchemaNotFound for an event that no schema is known of, once schemas were read."""
        if self._stored is not None and not self._code.fires(topic):
            self._refuse_unknown("event", topic)

    async def _load_for_check(self, run: Run) -> None:
        try:
            await self.load(run)
        except (ServerError, PrivilegeError) as error:  # such as a user who may call and not read schemas
            if is_link_error(error):
                raise
            logger.warning("calls are not checked here, as the stored schemas cannot be read: %s", error)
            self._replace({})

    def _make_check(self, procedure: str) -> Validator | None:
        schema = self._files.get(("procedure", procedure)) or self._loaded().get(("procedure", procedure))
        if schema is None or not can_validate():
            return None
        try:
            return make_validator(schema["parameters"])
        except InvalidSchema as error:  # whoever may publish may store any; the server checks what it is called with
            logger.warning("calls of %s are not checked here: %s", procedure, error)
            return None

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
        self._replace({(kind, name): schema for kind, name, text in rows if (schema := read_schema(text)) is not None})

    def forget(self) -> None:
        """Begin again: the bus is to use another database, of which neither this holds, nor what was stored there."""
        self._stored = None
        self._is_stale = False
        self._checks.clear()
        self._publication.forget()

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
        if self._stored is None or self._is_stale:
            try:
                self._block(self.ensure_loaded_from_bus, "bus.schema")
            except CannotBlockHere as error:
                if self._stored is None:
                    raise RemoteSchemasNotLoaded(
                        "the schemas of other services were not read yet; "
                        "`await bus.schema.ensure_loaded_from_bus()` first"
                    ) from error
        return self._stored or {}

    # ---------------------------------------------------------------------------------------------------- publishing

    def declare(
        self, *, procedures: Iterable[Procedure] | None = None, listeners: Iterable[Listener] = ()
    ) -> list[Declaration]:
        """What this process's code says: of its events, of its procedures (default: all), of these listeners."""
        return self._code.declare(procedures=procedures, listeners=listeners)

    async def publish(self, declared: Sequence[Declaration], *, run: Run, worker_id: int | None = None) -> None:
        """Store what is declared; a worker also says that it speaks it, and is warned of what that breaks."""
        await self._publication.publish(declared, run=run, worker_id=worker_id)

    async def announce(self, run: Run) -> None:
        """Store the schemas of the events that this process may fire, unless it has done so; never fails."""
        try:
            declared = self.declare(procedures=())
            if not self._publication.covers(declared):
                await self.publish(declared, run=run)
        except (PrivilegeError, *DATABASE_ERRORS) as error:
            logger.info("the schemas of events could not be stored: %s", error)


def _join(api_name: str, name: str) -> str:
    return f"{api_name}.{name}" if api_name else name


def _validate(schema: Schema, value: object, *, subject: str) -> None:
    try:
        plain = to_json(value, field=subject)
    except InvalidEventError as error:
        raise ValidationError(str(error)) from error
    if complaint := make_validator(schema)(plain):
        raise ValidationError(f"{subject} do not fit the schema: {complaint}")
