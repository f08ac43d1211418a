"""JSON Schemas of events and procedures: made from types, compared, and written as documents and as stubs."""

from pgbus.schema.catalog import Catalog
from pgbus.schema.documents import Declaration, Documents, Stored, read_schema
from pgbus.schema.fields import Field, Fields
from pgbus.schema.generate import parameters_schema, payload_schema, type_schema
from pgbus.schema.keywords import Schema
from pgbus.schema.publication import SEEN_INTERVAL, read_versions
from pgbus.schema.stored import Block

__all__ = [
    "SEEN_INTERVAL",
    "Block",
    "Catalog",
    "Declaration",
    "Documents",
    "Field",
    "Fields",
    "Schema",
    "Stored",
    "parameters_schema",
    "payload_schema",
    "read_schema",
    "read_versions",
    "type_schema",
]
