"""Lightbus's names of what pgbus names otherwise: errors to catch, and the settings and commands to use instead.

Other names of Lightbus are pgbus's own, or those of a class's members: they stand with what they name. The page "Move
from Lightbus" lists all of them.
"""

from __future__ import annotations

from pgbus.errors import NoAnswer, PgbusError, RemoteError

LightbusException = PgbusError
LightbusTimeout = NoAnswer
LightbusWorkerError = RemoteError

# Settings of its files that there are not here, and what becomes of them.
SETTINGS = {
    "bus": "write `log_level` at the top of the file; what else Lightbus has in `bus` needs no setting",
    "event_transport": "events travel through the database of `dsn`; a listener claims `batch_size` at once",
    "rpc_transport": "calls travel through the database of `dsn`",
    "result_transport": "results travel through the database of `dsn`",
    "event_listener_setup_timeout": "leave it out; it has no meaning",
}

# Commands of its command line, and what to write instead.
COMMANDS = {
    "dumpschema": "pgbus schema dump",
    "dumpconfigschema": "pgbus config schema",
    "version": "pgbus --version",
}
