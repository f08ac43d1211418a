"""`bus.schema`: what is known of every API, looked up, validated against, and exchanged with files and the bus."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from pgbus.config import Config
from pgbus.database import channels
from pgbus.database.statements.schemas import Kind
from pgbus.database.store import Store
from pgbus.errors import InvalidEventError, SchemaNotFound, ValidationError
from pgbus.registry import Registry
from pgbus.schema.checks import Checks
from pgbus.schema.declared import Apis, Code
from pgbus.schema.documents import join_name, read_documents, readable_json, write_documents
from pgbus.schema.keywords import Schema
from pgbus.schema.known import Known
from pgbus.schema.publication import Publication
from pgbus.schema.stored import Block, StoredSchemas
from pgbus.schema.validate import make_validator, to_json
from pgbus.topics import split_name


class Catalog:
    """The schemas of every API that is known: registered here, published by any service, or loaded from a file.

    Methods that need what the database holds read it when they are first called. On the thread of a running event
    loop they cannot, and raise RemoteSchemasNotLoaded until someone awaited `ensure_loaded_from_bus()`; a worker does.
    """

    def __init__(self, *, config: Config, registry: Registry, apis: Apis, store: Store, block: Block) -> None:
        self.code = Code(registry=registry, apis=apis)
        self.stored = StoredSchemas(store=store, block=block)
        self.known = Known(code=self.code, stored=self.stored)
        self.checks = Checks(config=config, known=self.known)
        self.publication = Publication(
            code=self.code, service=config.service_name, channel=channels.schemas(config.namespace)
        )
        self._store = store

    # ------------------------------------------------------------------------------------------------------- looking

    @property
    def api_names(self) -> list[str]:
        """The names of the APIs that are known."""
        return sorted({api for _, name in self.known.names if (api := split_name(name)[0])})

    @property
    def events(self) -> list[tuple[str, str]]:
        """The events that are known, as pairs of API and name."""
        return sorted(split_name(name) for kind, name in self.known.names if kind == "event")

    @property
    def rpcs(self) -> list[tuple[str, str]]:
        """The procedures that are known, as pairs of API and name."""
        return sorted(split_name(name) for kind, name in self.known.names if kind == "procedure")

    def get_api_schema(self, api_name: str) -> dict[str, dict[str, Schema]]:
        """`{"events": {name: ...}, "rpcs": {name: ...}}`; raises SchemaNotFound."""
        found = self.known.documents.get(api_name)
        if found is None:
            raise SchemaNotFound(
                f"no schema is known of API {api_name!r}; known are: {', '.join(self.api_names) or 'none'}"
            )
        return found

    def get_event_schema(self, api_name: str, event_name: str) -> Schema:
        """Return the event's schema, `{"parameters": ...}`; raises SchemaNotFound."""
        return self._get(("event",), api_name, event_name)

    def get_rpc_schema(self, api_name: str, rpc_name: str) -> Schema:
        """`{"parameters": ..., "response": ...}`; raises SchemaNotFound."""
        return self._get(("procedure",), api_name, rpc_name)

    def get_event_or_rpc_schema(self, api_name: str, name: str) -> Schema:
        """The schema of the event of that name, else of the procedure; raises SchemaNotFound."""
        return self._get(("event", "procedure"), api_name, name)

    def _get(self, kinds: Sequence[Kind], api_name: str, name: str) -> Schema:
        full_name = join_name(api_name, name)
        found = self.known.find(full_name, kinds=kinds)
        if found is None:
            what = " or ".join(kinds)
            raise SchemaNotFound(
                f"no schema is known of {what} {full_name!r}; `pgbus schema dump` shows what is stored"
            )
        return found

    # ---------------------------------------------------------------------------------------------------- validating

    def validate_parameters(self, api_name: str, name: str, parameters: Mapping[str, object]) -> None:
        """Raise ValidationError unless these are arguments for the event or procedure, as the JSON that they become.

        Raises SchemaNotFound, and ConfigurationError unless pgbus[schema] is installed.
        """
        schema = self.get_event_or_rpc_schema(api_name, name)["parameters"]
        _validate(schema, dict(parameters), subject=f"the arguments of {join_name(api_name, name)}")

    def validate_response(self, api_name: str, name: str, response: object) -> None:
        """Raise ValidationError unless this is a result of the procedure; else as `validate_parameters`."""
        schema = self.get_rpc_schema(api_name, name)["response"]
        _validate(schema, response, subject=f"the result of {join_name(api_name, name)}")

    # --------------------------------------------------------------------------------------------------------- files

    def save_local(self, destination: str | Path | IO[str] | None = None) -> None:
        """Write all schemas that are known as JSON: into a file, one `<api>.json` each into a directory, or a stream.

        A path that ends in a slash is a directory, made if it is not there. Default: stdout.
        """
        if isinstance(destination, str | Path):
            write_documents(self.known.documents, destination)
        else:
            (destination or sys.stdout).write(readable_json(self.known.documents).decode())

    def load_local(self, source: str | Path | IO[str] | IO[bytes] | None = None) -> None:
        """Read schemas from a file, the `*.json` of a directory, or an open file (default: stdin), for this process.

        They hold here in place of those that the database has of the same events and procedures. Raises InvalidSchema.
        """
        self.known.add(read_documents(sys.stdin if source is None else source))

    # ------------------------------------------------------------------------------------------------------- the bus

    async def ensure_loaded_from_bus(self) -> None:
        """Read the stored schemas, unless what was read still holds."""
        await self.stored.ensure_loaded()

    async def load_from_bus(self) -> None:
        """Read the stored schemas now; raises DatabaseUnreachableError."""
        await self.stored.load()

    async def save_to_bus(self) -> None:
        """Publish the schemas of this process's events, as a worker of it would at its start.

        For programs that no worker is part of: one that publishes in transactions of its own does so by itself.
        """
        await self.publication.publish(self.code.declare(procedures=(), listeners=()), store=self._store)

    def forget(self) -> None:
        """Begin again: the bus is to use another database, of which neither this holds, nor what was stored there."""
        self.stored.forget()
        self.publication.forget()


def _validate(schema: Schema, value: object, *, subject: str) -> None:
    try:
        plain = to_json(value, field=subject)
    except InvalidEventError as error:
        raise ValidationError(str(error)) from error
    if complaint := make_validator(schema)(plain):
        raise ValidationError(f"{subject} do not fit the schema: {complaint}")
