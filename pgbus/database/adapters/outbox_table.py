"""The outbox as a table of SQLAlchemy's, with the columns that publishers write."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Column, Dialect, MetaData, Table, Text, cast, func, literal_column
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP, UUID
from sqlalchemy.types import TypeDecorator

from pgbus.database.sql import as_text


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


def outbox_table(metadata: MetaData) -> Table:
    """The outbox in the schema of the metadata. `ancestors` takes the topics as one text with spaces between them."""
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
        implicit_returning=False,  # who may publish need not be allowed to read
    )
