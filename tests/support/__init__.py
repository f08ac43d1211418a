"""What tests share: throw-away databases on one server, and the only place where waiting by polling is allowed."""

from pathlib import Path

from pgbus.testing.databases import DatabaseServer, find_server
from tests.support.waiting import eventually

__all__ = ["ROOT", "DatabaseServer", "eventually", "find_server"]

ROOT = Path(__file__).parents[2]
"""The top of the tree."""
