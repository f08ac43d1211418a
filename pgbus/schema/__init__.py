"""JSON Schemas of events and procedures: made from types, compared, and written as documents and as stubs."""

from pgbus.schema.catalog import Catalog
from pgbus.schema.compare import find_breaks
from pgbus.schema.compatibility import Break, Change, find_broken, find_changes
from pgbus.schema.documents import Declaration, Documents, Stored, read_schema
from pgbus.schema.fields import Field, Fields
from pgbus.schema.generate import parameters_schema, payload_schema, type_schema
from pgbus.schema.keywords import Schema
from pgbus.schema.publication import SEEN_INTERVAL, read_versions
from pgbus.schema.stored import Block
from pgbus.schema.stubs import make_stubs

__all__ = [
    "SEEN_INTERVAL",
    "Block",
    "Break",
    "Catalog",
    "Change",
    "Declaration",
    "Documents",
    "Field",
    "Fields",
    "Schema",
    "Stored",
    "find_breaks",
    "find_broken",
    "find_changes",
    "make_stubs",
    "parameters_schema",
    "payload_schema",
    "read_schema",
    "read_versions",
    "type_schema",
]
