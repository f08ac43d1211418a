"""Running pgbus's statements in the transaction of a connection or session that someone else has opened.

What goes to such a connection goes as text, and comes back as text, since its owner may have given any other type a
codec or adapter of their own.
"""

from pgbus.database.adapters.choosing import async_executor, check_using, is_djangos, sync_executor
from pgbus.database.adapters.executors import AsyncExecutor, AsyncUsing, SyncExecutor, SyncUsing

__all__ = [
    "AsyncExecutor",
    "AsyncUsing",
    "SyncExecutor",
    "SyncUsing",
    "async_executor",
    "check_using",
    "is_djangos",
    "sync_executor",
]
