"""Checks of events and calls against the schemas of the services that declare them."""

from __future__ import annotations

import logging
from typing import Literal

import msgspec

from pgbus.config import Config
from pgbus.database.store import Store
from pgbus.errors import InvalidArguments, InvalidSchema, SchemaNotFound, UnknownApi
from pgbus.schema.keywords import Schema
from pgbus.schema.known import Known
from pgbus.schema.unserved import why_unserved
from pgbus.schema.validate import Validator, can_validate, make_validator
from pgbus.topics import split_name

logger = logging.getLogger("pgbus")


class Checks:
    """Checks of callers and publishers before they send, against the declarations of other services."""

    def __init__(self, *, config: Config, known: Known) -> None:
        self._config = config
        self._known = known
        # Of other services' procedures: the schema of the arguments and what checks them, made once per schema.
        self._validators: dict[str, tuple[Schema, Validator | None]] = {}

    async def check_call(self, procedure: str, arguments: str, *, store: Store) -> None:
        """Check the arguments of a call, as JSON text, to a procedure that another service serves.

        Raises InvalidArguments; with `strict_validation` UnknownApi or SchemaNotFound where no schema is known.
        """
        api_name, _ = split_name(procedure)
        settings = self._config.api(api_name)
        if not settings.validate_outgoing or self._known.code.serves(api_name, procedure):
            return
        await self._known.stored.load_if_allowed(store)
        schema = self._known.find_foreign("procedure", procedure)
        if schema is None:
            if settings.strict_validation:
                self._refuse("procedure", procedure)
            return
        validate = self._validator(procedure, schema)
        if validate and (complaint := validate(msgspec.json.decode(arguments))):
            raise InvalidArguments(
                f"the arguments of {procedure} do not fit its schema: {complaint}", procedure=procedure
            )

    async def why_unserved(self, procedure: str, *, store: Store) -> str | None:
        """Return the fault of the name of a procedure that no live worker serves; None if the name seems right."""
        await self._known.stored.load_if_allowed(store)
        names = self._known.names_seen
        if not self._known.stored.seen and ("event", procedure) not in names:
            return None  # no schema is stored, or this role cannot read them
        return why_unserved(procedure, names)

    def refuse_unknown_event(self, topic: str) -> None:
        """Raise UnknownApi or SchemaNotFound for an event that no schema is known of, once schemas were read."""
        if self._known.stored.seen is None or self._known.code.fires(topic):
            return
        if self._known.find_foreign("event", topic) is None:
            self._refuse("event", topic)

    def drop(self, store: Store | None = None) -> None:
        """Have the schemas read again: they changed."""
        self._known.stored.drop(store)

    def _validator(self, procedure: str, schema: Schema) -> Validator | None:
        made_of, validate = self._validators.get(procedure, (None, None))
        if made_of is not schema:
            validate = _make_validator(procedure, schema)
            self._validators[procedure] = (schema, validate)
        return validate

    def _refuse(self, kind: Literal["event", "procedure"], full_name: str) -> None:
        api_name, name = split_name(full_name)
        if all(split_name(other)[0] != api_name for _, other in self._known.foreign_names_seen):
            apis = {api for _, other in self._known.names_seen if (api := split_name(other)[0])}
            raise UnknownApi(api_name, sorted(apis), is_foreign=True)
        raise SchemaNotFound(f"API {api_name!r} has no {kind} {name!r} that is known")


def _make_validator(procedure: str, schema: Schema) -> Validator | None:
    if not can_validate():
        return None
    try:
        return make_validator(schema["parameters"])
    except InvalidSchema as error:  # any publisher may store any schema; the server checks the arguments itself
        logger.warning("calls of %s are not checked in this process: %s", procedure, error)
        return None
