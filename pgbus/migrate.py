"""The schema of the database: bring it to this code's version, take it back, check it, and grant roles on it.

All but `check_async` block. Called on the thread of a running event loop, they block that loop for as long.
"""

from pgbus.database.migrate import check, check_async, current, downgrade, grant_roles, head, revisions, sql, upgrade

__all__ = ["check", "check_async", "current", "downgrade", "grant_roles", "head", "revisions", "sql", "upgrade"]
