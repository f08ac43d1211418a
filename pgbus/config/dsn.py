"""One DSN for several drivers: read once, and given to each in the form that it understands.

asyncpg takes what it does not know for settings of the server, which then refuses them; libpq (psycopg) refuses what it
does not know. No error quotes a value: it may be a password, or a piece of one.
"""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from pgbus.errors.spelling import find_close

EXAMPLE = "postgresql://user:password@host:port/database"
PATTERN = re.compile(r"\s*(postgres(ql)?(\+\w+)?://|\w+\s*=)")

_SCHEME = re.compile(r"postgres(?:ql)?(?:\+\w+)?://")
_KEYWORD = re.compile(r"\s*(\w+)\s*=\s*(?:'((?:[^'\\]|\\.)*)'|((?:[^\s'\\]|\\.)*))(?=\s|$)", re.DOTALL)
_ENCODE = "percent-encode what is not a letter or digit in its user and password"

# What both drivers understand.
_SHARED = frozenset({
    "application_name", "dbname", "host", "krbsrvname", "options", "passfile", "password", "port", "service", "sslcert",
    "sslcrl", "sslkey", "sslmode", "sslnegotiation", "sslpassword", "sslrootcert", "ssl_max_protocol_version",
    "ssl_min_protocol_version", "target_session_attrs", "user",
})  # fmt: skip
# What only libpq does, and asyncpg can do without: it has no GSSAPI encryption and no channel binding, and sessions ask
# the server for keepalives.
_LIBPQ = frozenset({
    "channel_binding", "client_encoding", "connect_timeout", "fallback_application_name", "gssdelegation", "gssencmode",
    "keepalives", "keepalives_count", "keepalives_idle", "keepalives_interval", "load_balance_hosts",
    "max_protocol_version", "min_protocol_version", "sslcertmode", "sslcompression", "sslcrldir", "sslsni",
    "tcp_user_timeout",
})  # fmt: skip
# Settings of the server, which asyncpg takes as they are, and libpq within `options`.
_SETTINGS = frozenset({
    "datestyle", "default_transaction_isolation", "default_transaction_read_only",
    "idle_in_transaction_session_timeout", "idle_session_timeout", "intervalstyle", "jit", "lock_timeout", "role",
    "search_path", "statement_timeout", "synchronous_commit", "timezone", "transaction_timeout", "work_mem",
})  # fmt: skip
# Values that a driver would refuse with an error of its own, or pass over.
_WORDS = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "target_session_attrs": ("any", "read-write", "read-only", "primary", "standby", "prefer-standby"),
}
_NUMBERS = frozenset({
    "connect_timeout", "keepalives", "keepalives_count", "keepalives_idle", "keepalives_interval", "tcp_user_timeout",
})  # fmt: skip
# Parameters by the names that asyncpg's `connect` has for them.
_ASYNCPG_ARGUMENTS = {
    "host": "host", "krbsrvname": "krbsrvname", "passfile": "passfile", "port": "port", "sslmode": "ssl",
    "target_session_attrs": "target_session_attrs",
}  # fmt: skip
_ALIASES = {"database": "dbname", "ssl": "sslmode"}
_SSL = {"true": "require", "false": "disable"}
# Of poolers, ORMs and other drivers, with what to write instead; `pgbouncer` is up to Config, which knows both DSNs.
_ELSEWHERE = {
    "connection_limit": "the setting pool_size says how many connections there are",
    "currentschema": "write search_path",
    "hostaddr": "asyncpg has no such parameter; write host",
    "pool_size": "write the setting pool_size, outside of the DSN",
    "pool_timeout": "leave it out",
    "prepared_statement_cache_size": "leave it out, and behind a transaction-mode pooler give direct_dsn too",
    "requirepeer": "asyncpg cannot check that; leave it out",
    "require_auth": "asyncpg cannot check that; leave it out",
    "replication": "a bus needs ordinary connections; leave it out",
    "schema": "write search_path, or for the bus the setting namespace",
    "statement_cache_size": "leave it out, and behind a transaction-mode pooler give direct_dsn too",
}
POOLER = "pgbouncer"


def read_dsn(text: str) -> str:
    """The DSN as an URI, if it is one, or keywords and values, and all its parameters are known.

    Raises ValueError, which says what is not understood and what to write instead.
    """
    text = text.strip()
    if not text.isprintable() and any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("holds bytes that are not UTF-8: write them as %XX")
    if not _SCHEME.match(text):
        if not PATTERN.match(text):
            raise ValueError(f"must look like {EXAMPLE}")
        text = _from_keywords(text)
    text = f"postgresql://{text.partition('://')[2]}" if "+" in text.partition("://")[0] else text
    base, parameters = _split(text)
    if not _has_good_ports(base, parameters.get("port", "")):
        raise ValueError(f"has no number from 1 to 65535 for its port; {_ENCODE}")
    for name, value in parameters.items():
        _check(name, value)
    return text


@lru_cache(maxsize=64)
def for_asyncpg(dsn: str | None) -> str | None:
    """The DSN as asyncpg takes it; None, which means the PG* variables, stays None."""
    if dsn is None:
        return None
    base, parameters = _split(read_dsn(dsn))
    return _join(base, {name: value for name, value in parameters.items() if name not in _LIBPQ | {POOLER}})


@lru_cache(maxsize=64)
def for_libpq(dsn: str | None) -> str:
    """The DSN as psycopg takes it; empty for None."""
    if dsn is None:
        return ""
    base, parameters = _split(read_dsn(dsn))
    known = {name: value for name, value in parameters.items() if name in _SHARED | _LIBPQ}
    settings = [f"-c {name}={_escaped(value)}" for name, value in parameters.items() if _is_setting(name)]
    if settings:
        known["options"] = " ".join([*([known["options"]] if known.get("options") else []), *settings])
    return _join(base, known)


def _escaped(value: str) -> str:
    return re.sub(r"([\\ ])", r"\\\1", value)


def sqlalchemy_url(dsn: str | None, driver: str) -> str:
    """The DSN as SQLAlchemy's URL for "psycopg" or "asyncpg"; raises ValueError for parameters that it cannot express.

    The other direction needs no translation: SQLAlchemy's URL is a DSN for `read_dsn`.
    """
    if driver not in ("psycopg", "asyncpg"):
        raise ValueError(f"has no URL for {driver!r}: the drivers are 'psycopg' and 'asyncpg'")
    if dsn is None:
        return f"postgresql+{driver}://"
    base, given = _split((for_libpq(dsn) if driver == "psycopg" else for_asyncpg(dsn)) or "")
    parts = urlsplit(base)
    login, _, hosts = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    user = user or quote(given.pop("user", ""), safe="")
    password = password or quote(given.pop("password", ""), safe="")
    database = parts.path.strip("/") or quote(given.pop("dbname", ""), safe="")
    login = f"{user}:{password}@" if password else f"{user}@" if user else ""
    several = hosts.split(",") if "," in hosts else []
    query = [f"host={quote(host, safe=':/[]')}" for host in several]
    query += [f"{name}={quote(value, safe='/')}" for name, value in _sqlalchemy_parameters(given, driver).items()]
    where = "" if several else hosts
    return f"postgresql+{driver}://{login}{where}/{database}{'?' if query else ''}{'&'.join(query)}"


def _sqlalchemy_parameters(given: Mapping[str, str], driver: str) -> Mapping[str, str]:
    """Parameters as SQLAlchemy hands them to the driver: as arguments of its `connect`."""
    if driver == "psycopg":
        return given
    for name in given:
        if name not in _ASYNCPG_ARGUMENTS:
            raise ValueError(
                f"has the parameter {name!r}, which SQLAlchemy's URL cannot hand to asyncpg: leave it out, or make the "
                'engine with connect_args={"dsn": ...}'
            )
    return {_ASYNCPG_ARGUMENTS[name]: value for name, value in given.items()}


def connect_timeout(dsn: str | None, default: float) -> float:
    """Seconds to wait for a connection: as the DSN says, if it does."""
    given = _split(read_dsn(dsn))[1].get("connect_timeout", "") if dsn else ""
    return float(given) if given.isdecimal() and int(given) > 0 else default


def names_pooler(dsn: str | None) -> bool:
    """Whether the DSN says that it leads to a transaction-mode pooler, as `pgbouncer=true` does."""
    return dsn is not None and _split(dsn)[1].get(POOLER, "false").lower() in ("true", "1")


def _split(uri: str) -> tuple[str, dict[str, str]]:
    base, _, query = uri.partition("?")
    parameters = {}
    for part in filter(None, query.split("&")):
        name, equals, value = part.partition("=")
        if not equals or "@" in part:
            raise ValueError(f"has a `?` before something other than NAME=VALUE; {_ENCODE}")
        name = unquote(name).lower()
        name = _ALIASES.get(name, name)
        value = unquote(value)
        parameters[name] = _SSL.get(value.lower(), value) if name == "sslmode" else value
    return base, parameters


def _join(base: str, parameters: Mapping[str, str]) -> str:
    query = "&".join(f"{name}={quote(value, safe='/')}" for name, value in parameters.items())
    return f"{base}?{query}" if query else base


def _check(name: str, value: str) -> None:
    if name == "sslrootcert" and value == "system":
        raise ValueError(
            "has sslrootcert=system, which asyncpg does not know: write the path of a file of certificates"
        )
    if name == "service" and not _has_service(value):
        raise ValueError(
            "has a 'service' that is not in the file of PGSERVICEFILE or ~/.pg_service.conf: add it there, or write "
            "host and dbname instead"
        )
    if value not in _WORDS.get(name, (value,)):
        raise ValueError(f"has something else for {name!r} than {', '.join(_WORDS[name])}")
    if name in _NUMBERS and not re.fullmatch(r"-?\d+", value, re.ASCII):
        raise ValueError(f"has no whole number for {name!r}")
    if name in _SHARED or name in _LIBPQ or name == POOLER or _is_setting(name):
        return
    if name in _ELSEWHERE:
        raise ValueError(f"has the parameter {name!r}: {_ELSEWHERE[name]}")
    if not re.fullmatch(r"\w+", name):
        raise ValueError(f"has a parameter without a valid name; {_ENCODE}")
    close = find_close(name, [*_SHARED, *_LIBPQ, *_SETTINGS], most=1)
    hint = f"did you mean {close[0]!r}?" if close else f"a setting of the server is written options=-c%20{name}%3DVALUE"
    raise ValueError(f"has the parameter {name!r}, which is not known; {hint}")


def _has_service(name: str) -> bool:
    """Whether asyncpg finds it; without this it would connect to the local server instead, without an error."""
    services = configparser.ConfigParser(interpolation=None)
    try:
        services.read(os.environ.get("PGSERVICEFILE") or Path.home() / ".pg_service.conf")
    except (configparser.Error, OSError, RuntimeError, UnicodeDecodeError):
        return False
    return services.has_section(name)


def _is_setting(name: str) -> bool:
    return name in _SETTINGS or re.fullmatch(r"\w+\.\w+", name) is not None  # one with a dot is an application's own


def _from_keywords(text: str) -> str:
    """`host=db user=adam` as an URI."""
    given: dict[str, str] = {}
    end = 0
    while end < len(text):
        found = _KEYWORD.match(text, end)
        if not found:
            raise ValueError(f"is neither {EXAMPLE} nor keywords and values, as in host=db user=adam password='a b'")
        name, quoted, plain = found.groups()
        given[name.lower()] = re.sub(r"\\(.)", r"\1", quoted if quoted is not None else plain, flags=re.DOTALL)
        end = found.end()
    return _join("postgresql://", {name: value for name, value in given.items() if value})


def _has_good_ports(base: str, given: str) -> bool:
    """Of the hosts, and of the parameter `port`, which is `given`.

    False mostly for a `/` or `#` in a password: a driver would say so, too, and quote what it took for a port.
    """
    try:
        hosts = urlsplit(base).netloc.rpartition("@")[2]
    except ValueError:
        return False
    ports = [*re.findall(r":([^:,\]]+)(?=,|$)", hosts), *filter(None, given.split(","))]
    return all(re.fullmatch(r"\d{1,5}", port, re.ASCII) and 0 < int(port) < 65536 for port in ports)


# ---------------------------------------------------------------------------------------------------------- for people

_PASSWORD = re.compile(r"password\s*=", re.IGNORECASE)
UNSET = "the database of the PG* variables (PGBUS_DSN is not set; `pgbus dev` starts a database and prints its DSN)"


def shown_dsn(dsn: str | None) -> str:
    """The database as an error names it, without passwords."""
    return UNSET if dsn is None else hide_password(dsn)


def hide_password(dsn: str) -> str:
    """The DSN with its passwords as `***`; rather too much is hidden than too little."""
    if not re.match(r"\s*[\w+.-]+://", dsn):
        return re.sub(r"(password\s*=\s*)('(?:[^'\\]|\\.)*'|\S+)", r"\1***", dsn, flags=re.IGNORECASE)
    # Greedy up to the last `@`: a password that should have been percent-encoded must not show either.
    dsn = re.sub(r"^(\s*[\w+.-]+://[^:@/?]*):(.*)@.*", _hide_authority, dsn, flags=re.DOTALL)
    return re.sub(r"([?&][^=&]*=)([^&]*)", _hide_parameter, dsn)


def _hide_authority(found: re.Match[str]) -> str:
    if _PASSWORD.search(unquote(found[2])):
        return f"{found[1]}:***"  # that `@` may well be within a password further on
    return f"{found[1]}:***{found[0][found.end(2) - found.start() :]}"


def _hide_parameter(found: re.Match[str]) -> str:
    return f"{found[1]}***" if _PASSWORD.search(unquote(found[1])) else found[0]
