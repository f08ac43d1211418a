"""A real PostgreSQL server as a supervised child of this process, for demos, development and tests.

Linux and macOS. The server listens on a unix socket that only this user can reach, never outlives the process that
started it, and keeps its data directory unless that was a temporary one.
"""

from pgbus.embedded.binaries import Binaries, find_binaries
from pgbus.embedded.server import EmbeddedPostgres

__all__ = ["Binaries", "EmbeddedPostgres", "find_binaries"]
