"""Which of the group roles has the right to run a statement, so that an error can name it."""

from __future__ import annotations

from pgbus.database.sql import Statement, quote_identifier
from pgbus.errors import PrivilegeError

PUBLISHER = frozenset(
    {"insert_event", "insert_lines", "insert_events", "insert_events_once", "publish_schemas", "load_schemas"}
)
CALLER = frozenset({"find_servers", "post_requests", "withdraw_requests", "fetch_responses", "fail_lost_calls"})
READER = frozenset(
    {
        "describe_bus", "list_workers", "list_listeners", "find_events", "find_calls", "read_log_head",
        "find_position_at", "match_dead_letters", "read_dead_letters", "list_listener_names", "list_schemas",
        "list_schedules", "list_schedule_runs", "read_clock", "read_server_settings", "read_horizon", "read_slots",
        "read_notification_queue", "read_tables", "read_space", "find_unheard_topics", "find_quiet_subscriptions",
        "read_recent_work", "count_recent_dead_letters", "find_unanswered_calls", "count_parked_events",
        "read_connections", "read_sequences",
        "find_invalid_indexes", "find_collation_drift", "find_public_rights", "find_missing_grants",
        "find_leader_session", "summarize_dead_letters", "measure_listeners", "list_running", "list_failures",
        "read_intervals", "read_flow", "read_tree", "find_window", "read_options", "read_installation",
        "list_operations", "list_operation_items",
    }
)  # fmt: skip
OPERATOR = frozenset(
    {"preview_operation", "begin_operation", "resume_operation", "continue_operation", "cancel_operation"}
)
# Statements of a handler's own database, where there are no roles of ours.
INBOX = frozenset(
    {"create_inbox_namespace", "create_inbox", "create_inbox_index", "take_events", "forget_taken_events"}
)


def role_of(statement: str) -> str:
    """The role that has the right to it and least besides, without its namespace; of all others, the worker's."""
    for role, statements in (("publisher", PUBLISHER), ("caller", CALLER), ("reader", READER), ("operator", OPERATOR)):
        if statement in statements:
            return role
    return "worker"


def missing_right(statement: Statement, error: BaseException) -> PrivilegeError:
    """Return the error to raise in place of the driver's for a statement that this user may not run."""
    reason = str(error).splitlines()[0].rpartition(": ")[2] if "\n" in str(error) else str(error)
    if statement.name in INBOX:
        namespace = quote_identifier(statement.namespace)
        return PrivilegeError(
            f"{reason}: have its owner run `GRANT USAGE ON SCHEMA {namespace} TO` this user and "
            f"`GRANT SELECT, INSERT, DELETE ON {namespace}.inbox TO` this user"
        )
    role = f"{statement.namespace}_{role_of(statement.name)}"
    return PrivilegeError(
        f"{reason}: the role {role} has the right to it; have `GRANT {role} TO` this user run, "
        "after `pgbus db roles` if there is no such role yet"
    )
