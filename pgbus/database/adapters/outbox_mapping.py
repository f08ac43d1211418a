"""The outbox for SQLAlchemy's ORM, with the columns that publishers write: what is added to a session is published.

A column that publishing gains has to stand here, too: a row's attribute that no column takes is lost without an error.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from sqlalchemy import Column, Dialect, FetchedValue, MetaData, Table, Text, cast, func, inspect, literal_column
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP, UUID
from sqlalchemy.orm import Mapper, registry
from sqlalchemy.types import TypeDecorator

from pgbus.database.sql import DEFAULT_NAMESPACE, as_text


class _ReadAs(TypeDecorator[Any]):
    """A string that the server casts to another type, because the engine may have its own codecs and serializers."""

    impl = Text
    cache_ok = True

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:  # noqa: ARG002 - SQLAlchemy's signature
        return as_text(value)

    def bind_expression(self, bindparam: Any) -> Any:
        return _READ[self.kind](bindparam)


_READ: dict[str, Callable[[Any], Any]] = {
    "uuid": lambda text: cast(text, UUID),
    "jsonb": lambda text: cast(text, JSONB),
    "timestamptz": lambda text: cast(text, TIMESTAMP(timezone=True)),
    "topics": lambda text: func.string_to_array(text, literal_column("' '")),
}


class MappedEvent:
    """An event as a row of the outbox of the namespace `pgbus`, which is due at once, or at `deliver_at`.

    All values are strings, or what `as_text` makes one of; `ancestors` is one string with spaces between the topics.
    Without `published_by` it is the database's user.
    """


@lru_cache(maxsize=64)
def mapped_event(namespace: str) -> type:
    """The class of such rows in a namespace: MappedEvent for `pgbus`, one like it for another."""
    cls = MappedEvent if namespace == DEFAULT_NAMESPACE else type("MappedEvent", (), {})
    # Metadata of its own, so that neither `create_all` nor Alembic takes the outbox for a table of the user's.
    metadata = MetaData(schema=namespace)
    registry(metadata=metadata).map_imperatively(cls, _outbox(metadata), eager_defaults=False)
    return cls


def map_subclass(cls: type[MappedEvent]) -> None:
    """Map a class of the user's side to the same rows. One flush inserts both kinds in the order of adding."""
    mapper: Mapper[Any] = inspect(mapped_event(DEFAULT_NAMESPACE), raiseerr=True)
    mapper.registry.map_imperatively(cls, inherits=mapper, eager_defaults=False)


def _outbox(metadata: MetaData) -> Table:
    # Publishers may insert and not read: nothing is fetched back, and so the identity is the id that we make.
    return Table(
        "outbox",
        metadata,
        Column("event_id", _ReadAs("uuid"), primary_key=True),
        Column("topic", Text),
        Column("ancestors", _ReadAs("topics")),
        Column("key", Text),
        Column("payload", _ReadAs("jsonb")),
        Column("headers", _ReadAs("jsonb")),
        Column("deliver_at", _ReadAs("timestamptz")),
        Column("published_by", Text, server_default=FetchedValue()),
        implicit_returning=False,
    )
