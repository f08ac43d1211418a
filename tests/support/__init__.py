"""What tests share: throw-away databases on one server, and the only place where waiting by polling is allowed."""

from pgbus.testing.databases import DatabaseServer, find_server
from tests.support.waiting import eventually

__all__ = ["DatabaseServer", "eventually", "find_server"]
