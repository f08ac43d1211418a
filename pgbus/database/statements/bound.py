"""A statement with its values, to run on a connection that is not the bus's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from pgbus.database.sql import Statement


class Bound(NamedTuple):
    """A statement and its values: the arguments of an executor's `fetch`."""

    statement: Statement
    values: Mapping[str, object]
