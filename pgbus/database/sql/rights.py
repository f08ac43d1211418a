"""Which of the group roles has the right to run a statement, so that an error can name it."""

from __future__ import annotations

from pgbus.database.sql import Statement
from pgbus.errors import PrivilegeError

PUBLISHER = frozenset({"insert_event", "insert_events", "insert_events_once", "publish_schemas", "load_schemas"})
CALLER = frozenset({"find_servers", "post_requests", "withdraw_requests", "fetch_responses", "fail_lost_calls"})
READER = frozenset(
    {
        "describe_bus", "list_workers", "list_listeners", "find_events", "find_calls", "read_log_head",
        "find_position_at", "match_dead_letters", "read_dead_letters", "list_listener_names", "list_schemas",
        "list_schedules", "list_schedule_runs",
    }
)  # fmt: skip


def role_of(statement: str) -> str:
    """The role that has the right to it and least besides, without its namespace; of all others, the worker's."""
    for role, statements in (("publisher", PUBLISHER), ("caller", CALLER), ("reader", READER)):
        if statement in statements:
            return role
    return "worker"


def missing_right(statement: Statement, error: BaseException) -> PrivilegeError:
    """What to raise in place of the driver's error for a statement that this user may not run."""
    role = f"{statement.namespace}_{role_of(statement.name)}"
    reason = str(error).splitlines()[0].rpartition(": ")[2] if "\n" in str(error) else str(error)
    return PrivilegeError(
        f"{reason}: the role {role} has the right to it; have `GRANT {role} TO` this user run, "
        "after `pgbus db roles` if there is no such role yet"
    )
