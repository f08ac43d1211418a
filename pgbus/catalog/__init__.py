"""`bus.schema`: the schemas of this process's own code, and those that others published or that a file holds."""

from pgbus.catalog.known import Block, Catalog
from pgbus.catalog.publishing import SEEN_INTERVAL, read_schema, read_stored

__all__ = ["SEEN_INTERVAL", "Block", "Catalog", "read_schema", "read_stored"]
