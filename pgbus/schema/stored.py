"""The schemas that the database holds, as this process read them last.

They are read once, when they are first needed, and again when a notification tells that they changed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, TypeAlias, TypeVar

from pgbus.database.faults import ServerError, is_link_error
from pgbus.database.statements import schemas
from pgbus.database.statements.schemas import Kind
from pgbus.database.store import Store
from pgbus.errors import CannotBlockHere, PrivilegeError, RemoteSchemasNotLoaded
from pgbus.schema.documents import read_schema
from pgbus.schema.keywords import Schema

logger = logging.getLogger("pgbus")

T = TypeVar("T")
Key: TypeAlias = tuple[Kind, str]


class Block(Protocol):
    """Waits for async work in code that blocks; raises CannotBlockHere on the thread of a running event loop."""

    def __call__(self, work: Callable[[], Awaitable[T]], call: str, /) -> T:  # noqa: D102 - told above
        ...


class StoredSchemas:
    """The version of each event and procedure that holds on the bus. `store` is the bus's own connection."""

    def __init__(self, *, store: Store, block: Block) -> None:
        self._store = store
        self._block = block
        self._schemas: dict[Key, Schema] | None = None
        # Set by each notification of a change, and cleared when a read begins: what it reads has all changes notified
        # before.
        self._is_stale = False
        # Reads are counted as they begin. Several may be under way, on different connections, and end in another order:
        # what began last has seen most, and an older one must not replace it.
        self._begun = self._newest = 0
        self._reading: asyncio.Task[None] | None = None

    @property
    def seen(self) -> Mapping[Key, Schema] | None:
        """The schemas that were read last, stale or not; None before the first read."""
        return self._schemas

    def here(self) -> Mapping[Key, Schema]:
        """Return the current schemas, for blocking code.

        On the thread of a running event loop nothing can be read: it is what was seen last there, and
        RemoteSchemasNotLoaded is raised if nothing was.
        """
        if not self._holds:
            try:
                self._block(self.ensure_loaded, "bus.schema")
            except CannotBlockHere as error:
                if self._schemas is None:
                    raise RemoteSchemasNotLoaded(
                        "the schemas of other services were not read yet; "
                        "`await bus.schema.ensure_loaded_from_bus()` first"
                    ) from error
        return self._schemas or {}

    async def ensure_loaded(self) -> None:
        """Read the stored schemas, unless those that were read last still hold."""
        if not self._holds:
            await self.load()

    async def load(self, store: Store | None = None) -> None:
        """Read them now, through `store` if that is given; raises DatabaseUnreachableError."""
        self._begun += 1
        number = self._begun
        self._is_stale = False  # before the query: a later change is notified again
        try:
            found = await schemas.load_schemas(store or self._store)
        except BaseException:
            self._is_stale = True
            raise
        if number > self._newest:
            self._newest = number
            self._schemas = {
                (one.kind, one.name): schema for one in found if (schema := read_schema(one.schema)) is not None
            }

    async def load_if_allowed(self, store: Store) -> None:
        """Read them, unless what was read still holds; to a user who may call and not read them, there are none."""
        if self._holds:
            return
        try:
            await self.load(store)
        except (ServerError, PrivilegeError) as error:
            if is_link_error(error):
                raise
            logger.warning(
                "calls are not checked in this process, because the stored schemas cannot be read: %s", error
            )
            self._schemas = {}

    def drop(self, store: Store | None = None) -> None:
        """Have them read again soon, through `store` if that is given: they changed. Called on an event loop."""
        self._is_stale = True
        if self._schemas is not None and (self._reading is None or self._reading.done()):
            self._reading = asyncio.get_running_loop().create_task(self._read_again(store), name="pgbus schemas")

    def forget(self) -> None:
        """Begin again: the bus is to use another database."""
        self._schemas = None
        self._is_stale = False
        self._newest = self._begun  # what is being read is of the database before

    @property
    def _holds(self) -> bool:
        return self._schemas is not None and not self._is_stale

    async def _read_again(self, store: Store | None) -> None:
        try:
            while self._is_stale:
                await self.load(store)
        except Exception as error:  # the next use tries again
            logger.info("schemas have changed, and could not be read again: %s", error)
