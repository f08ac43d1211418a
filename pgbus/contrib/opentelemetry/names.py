"""Names and values of the semantic conventions, schema 1.44: messaging is in development, RPC a release candidate.

Written out, as the package that holds them marks these as private; a test compares them with that package.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qs, urlsplit

from opentelemetry.util.types import AttributeValue

from pgbus.config import Config

SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"
SYSTEM = "pgbus"

ERROR_TYPE = "error.type"
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"

MESSAGING_SYSTEM = "messaging.system"
OPERATION_NAME = "messaging.operation.name"
OPERATION_TYPE = "messaging.operation.type"
DESTINATION_NAME = "messaging.destination.name"
SUBSCRIPTION_NAME = "messaging.destination.subscription.name"
MESSAGE_ID = "messaging.message.id"
CONVERSATION_ID = "messaging.message.conversation_id"
BATCH_COUNT = "messaging.batch.message_count"

RPC_SYSTEM = "rpc.system.name"
RPC_METHOD = "rpc.method"
RPC_STATUS = "rpc.response.status_code"

SENT_MESSAGES = "messaging.client.sent.messages"
CONSUMED_MESSAGES = "messaging.client.consumed.messages"
OPERATION_DURATION = "messaging.client.operation.duration"
PROCESS_DURATION = "messaging.process.duration"
CLIENT_CALL_DURATION = "rpc.client.call.duration"
SERVER_CALL_DURATION = "rpc.server.call.duration"
# Seconds.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)

# Ours, for what the conventions have no name for.
ATTEMPT = "pgbus.attempt"
OUTCOME = "pgbus.outcome"
SCHEDULE_NAME = "pgbus.schedule_name"


def server_of(config: Config) -> Mapping[str, AttributeValue]:
    """The server's address and port, as far as the DSN has them; a directory is that of a socket."""
    parts = urlsplit(config.dsn or "")
    query = parse_qs(parts.query)
    try:
        host, port = parts.hostname, parts.port
    except ValueError:  # several hosts
        return {}
    host = host or next(iter(query.get("host", ())), None)
    found: dict[str, AttributeValue] = {SERVER_ADDRESS: host} if host else {}
    if host and not host.startswith("/"):
        found[SERVER_PORT] = port or int(next(iter(query.get("port", ())), "5432"))
    return found
