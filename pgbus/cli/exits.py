"""The exit codes of the commands."""

from __future__ import annotations

FAILED = 1
USAGE = 2
SCHEMA = 3
UNREACHABLE = 4
REMOTE = 5  # these four are for calls without a result
UNSERVED = 6
TIMEOUT = 7
LOST = 8
BUG = 70  # EX_SOFTWARE; Python's own code would be 1, and scripts should be able to distinguish the two
