"""Configuration: every setting of a process, merged from arguments, environment and file, and checked once.

It reads the environment and one file; what a setting does is up to the module that uses it.
"""

from __future__ import annotations

import difflib
import functools
import math
import os
import re
import socket
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from pgbus.errors import ConfigurationError

DAY = 86_400.0
MAX_NAMESPACE_LENGTH = 40

_NAMESPACE = re.compile(r"(?!pg_)[a-z_][a-z0-9_]*", re.ASCII)
_DSN_SCHEME = re.compile(r"postgres(ql)?://")
_SECRETS = frozenset({"dsn", "direct_dsn"})
_KIND_NAMES = {str: "a text", int: "a whole number", float: "a number"}

LogLevel = Literal["debug", "info", "warning", "error", "critical"]
LogFormat = Literal["text", "json"]


@dataclass(frozen=True, slots=True)
class About:
    """What a setting means, and its limits: of the number, or of the length of the text."""

    help: str
    minimum: float = -math.inf
    maximum: float = math.inf
    unit: str = ""

    def __str__(self) -> str:
        return f"{self.help} ({self.limits})" if self.limits else self.help

    @property
    def limits(self) -> str:
        """The limits in words; empty without any."""
        match math.isfinite(self.minimum), math.isfinite(self.maximum):
            case True, True:
                text = f"between {self.minimum:.12g} and {self.maximum:.12g}"
            case True, False:
                text = f"at least {self.minimum:.12g}"
            case False, True:
                text = f"at most {self.maximum:.12g}"
            case _:
                return ""
        return f"{text} {self.unit}".rstrip()


def _process_name() -> str:
    return f"{socket.gethostname()}-{os.getpid()}"


def _seconds(help: str, *, minimum: float = 1, maximum: float = 3650 * DAY) -> About:  # noqa: A002 - as in About
    return About(help, minimum, maximum, "seconds")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Config:
    """Every setting of a process; `describe()` lists them with their meaning and limits.

    Make one with `Config.load()`, which merges arguments, environment and file. A value of the wrong type or out of
    range raises ConfigurationError, which names the setting, where it came from, and what is allowed.
    """

    dsn: Annotated[
        str | None, About("Database, as postgresql://user:password@host:port/name; default: the PG* variables of libpq")
    ] = None
    direct_dsn: Annotated[
        str | None, About("The same database past a transaction-mode pooler, for LISTEN and locks; default: dsn")
    ] = None
    namespace: Annotated[str, About("PostgreSQL schema that holds the bus", 1, MAX_NAMESPACE_LENGTH, "characters")] = (
        "pgbus"
    )
    service_name: Annotated[str, About("Service that this process belongs to", 0, 255, "characters")] = ""
    process_name: Annotated[
        str, About("Name of this process in history; default: host name and process id", 1, 255, "characters")
    ] = field(default_factory=_process_name)
    module: Annotated[str, About("What `pgbus run` imports: MODULE, or MODULE:ATTRIBUTE of the bus")] = "bus"
    max_payload: Annotated[int, About("Largest payload that may be published", 1, 268_435_455, "bytes of JSON")] = (
        1_048_576
    )
    pool_size: Annotated[
        int, About("Pooled connections, beside the one session connection", 1, 1000, "connections")
    ] = 5
    lease: Annotated[float, _seconds("A claim outlives a worker that vanished by this long", maximum=DAY)] = 60.0
    poll_interval: Annotated[
        float, _seconds("Look for work this often, should a notification be lost", minimum=0.01, maximum=3600)
    ] = 5.0
    grace: Annotated[float, _seconds("Time for running handlers to finish after SIGTERM", minimum=0, maximum=DAY)] = (
        30.0
    )
    batch_target: Annotated[
        float, _seconds("Work that an adaptive listener claims at once", minimum=0.01, maximum=60)
    ] = 1.0
    listener_threads: Annotated[int, About("Threads for each listener of a plain function", 1, 1000, "threads")] = 10
    partition_period: Annotated[float, _seconds("The leader opens a new partition of the log this often")] = 30 * DAY
    retention: Annotated[
        float | None, _seconds("How long the log and its history are kept; default: for ever", maximum=36_500 * DAY)
    ] = None
    dedup_ttl: Annotated[float, _seconds("How long a dedup_key bars a second event")] = 7 * DAY
    rpc_timeout: Annotated[
        float,
        _seconds("A call waits this long, if neither it nor the procedure says otherwise", minimum=0.001, maximum=DAY),
    ] = 5.0
    rpc_concurrency: Annotated[
        int,
        About("Calls of one procedure that a worker runs at once, if the procedure does not say", 1, 10_000, "calls"),
    ] = 10
    rpc_max_payload: Annotated[int, About("Largest arguments or result of a call", 1, 268_435_455, "bytes of JSON")] = (
        67_108_864
    )
    rpc_retention: Annotated[float, _seconds("How long calls stay queryable after their deadline")] = 3600.0
    worker_ttl: Annotated[float, _seconds("How long a worker that is gone stays listed")] = 3600.0
    log_level: Annotated[LogLevel, About("What `pgbus run` logs: debug, info, warning, error or critical")] = "info"
    log_format: Annotated[LogFormat, About("How `pgbus run` logs: text or json")] = "text"

    sources: Mapping[str, str] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        for name, kind in _kinds().items():
            value = self._checked(name, kind)
            object.__setattr__(self, name, value)
            self._check_limits(name, value)
        self._check_dsn("dsn", self.dsn)
        self._check_dsn("direct_dsn", self.direct_dsn)
        if not _NAMESPACE.fullmatch(self.namespace):
            raise self._error(
                "namespace",
                f"{self.namespace!r} is not a namespace: letters a-z, digits and '_', a digit not first, and not "
                "beginning with 'pg_', which PostgreSQL keeps to itself",
            )

    @classmethod
    def load(
        cls,
        arguments: Mapping[str, object] | None = None,
        *,
        environ: Mapping[str, str] | None = None,
        directory: Path | None = None,
    ) -> Config:
        """Merge `arguments`, then `PGBUS_*` in `environ`, then a file in `directory`, then defaults.

        The file is `pgbus.toml`, else the table `[tool.pgbus]` of `pyproject.toml`. An argument that is None and a
        variable that is empty count as not given. Defaults: the process's environment and its working directory.
        Raises ConfigurationError for an unknown key (with the close match) and for a value that is not allowed.
        """
        layers = (
            _from_file(directory or Path.cwd()),
            _from_environment(os.environ if environ is None else environ),
            _from_arguments(arguments or {}),
        )
        values: dict[str, Any] = {}
        sources: dict[str, str] = {}
        for name, value, source in (setting for layer in layers for setting in layer):
            values[name] = value
            sources[name] = source
        return cls(**values, sources=sources)

    def source(self, name: str) -> str:
        """Where the value of `name` came from: `argument`, `PGBUS_X`, `pgbus.toml`, `[tool.pgbus]` or `default`."""
        _check_name(name, "settings")
        return self.sources.get(name, "default")

    def describe(self) -> list[Setting]:
        """Every setting with its value, where that came from and what it means; passwords are hidden."""
        return [
            Setting(name=name, value=self._shown(name), source=self.source(name), meaning=str(_about(name)))
            for name in _kinds()
        ]

    @property
    def session_dsn(self) -> str | None:
        """The DSN for a session of one's own: LISTEN, advisory locks, migrations."""
        return self.direct_dsn or self.dsn

    @property
    def behind_pooler(self) -> bool:
        """Whether `dsn` may lead to a transaction-mode pooler, which keeps no session between transactions."""
        return self.direct_dsn is not None and self.direct_dsn != self.dsn

    def __repr__(self) -> str:
        return f"Config({', '.join(f'{row.name}={row.value!r}' for row in self.describe())})"

    def _shown(self, name: str) -> object:
        value = getattr(self, name)
        return hide_password(value) if name in _SECRETS and value is not None else value

    def _checked(self, name: str, kind: Any) -> object:
        try:
            return msgspec.convert(getattr(self, name), kind)
        except msgspec.ValidationError:
            raise self._error(name, f"must be {_expected(name, kind)}") from None

    def _check_limits(self, name: str, value: object) -> None:
        about = _about(name)
        size = len(value) if isinstance(value, str) else value
        # The chained form refuses NaN, which compares false with everything.
        if isinstance(size, int | float) and not about.minimum <= size <= about.maximum:
            raise self._error(name, f"must be {about.limits}, not {size:.12g}")

    def _check_dsn(self, name: str, dsn: str | None) -> None:
        if dsn is not None and not _DSN_SCHEME.match(dsn):
            raise self._error(name, "must look like postgresql://user:password@host:port/database")

    def _error(self, name: str, reason: str) -> ConfigurationError:
        return _error(name, self.sources.get(name, "argument"), reason)


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of `Config.describe()`: a setting, its value with passwords hidden, its source and its meaning."""

    name: str
    value: object
    source: str
    meaning: str


def hide_password(dsn: str) -> str:
    """The DSN with its passwords as `***`; rather too much is hidden than too little."""
    # Greedy up to the last `@`: a password that should have been percent-encoded must not show either.
    dsn = re.sub(r"^(\s*[\w+.-]+://[^:@/?]*):.*@", r"\1:***@", dsn, flags=re.DOTALL)
    return re.sub(r"(password\s*=\s*)('(?:[^'\\]|\\.)*'|[^\s&#]+)", r"\1***", dsn, flags=re.IGNORECASE)


def _from_arguments(arguments: Mapping[str, object]) -> Iterator[tuple[str, object, str]]:
    for name, value in arguments.items():
        _check_name(name, "arguments")
        if value is not None:
            yield name, value, "argument"


def _from_environment(environ: Mapping[str, str]) -> Iterator[tuple[str, object, str]]:
    # By known names: other PGBUS_* variables are none of ours, a deployment may have some of its own.
    for name, kind in _kinds().items():
        variable = f"PGBUS_{name.upper()}"
        if text := environ.get(variable):
            yield name, _from_text(name, text, kind, variable), variable


def _from_text(name: str, text: str, kind: Any, variable: str) -> object:
    try:
        return msgspec.convert(text, kind, strict=False)
    except msgspec.ValidationError:
        raise _error(name, variable, f"must be {_expected(name, kind)}") from None


def _from_file(directory: Path) -> Iterator[tuple[str, object, str]]:
    table, source = _read_table(directory)
    for name, value in table.items():
        _check_name(name, source)
        yield name, value, source


def _read_table(directory: Path) -> tuple[Mapping[str, object], str]:
    if (path := directory / "pgbus.toml").is_file():
        return _read_toml(path), "pgbus.toml"
    if (path := directory / "pyproject.toml").is_file():
        return _read_toml(path).get("tool", {}).get("pgbus", {}), "[tool.pgbus]"
    return {}, "pgbus.toml"


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ConfigurationError(f"{path.name} cannot be read: {error}") from None


def _check_name(name: str, where: str) -> None:
    if name in _kinds():
        return
    close = difflib.get_close_matches(name, _kinds(), n=1)
    hint = f"did you mean {close[0]!r}?" if close else "`pgbus config` lists what there is"
    raise ConfigurationError(f"{where}: there is no setting {name!r}; {hint}")


def _error(name: str, source: str, reason: str) -> ConfigurationError:
    return ConfigurationError(f"{name}: {reason}" if source == "argument" else f"{name} ({source}): {reason}")


def _expected(name: str, kind: Any) -> str:
    """What a value of this kind looks like. It does not quote the value, which may be a secret."""
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(get_args(kind))
    wanted = next(part for part in (kind, *get_args(kind)) if part in _KIND_NAMES)
    return f"{_KIND_NAMES[wanted]} {_about(name).limits}".rstrip()


@functools.cache
def _kinds() -> Mapping[str, Any]:
    """The type of each setting, in the order of the class."""
    return {name: kind for name, kind in get_type_hints(Config).items() if name != "sources"}


@functools.cache
def _about(name: str) -> About:
    about: About = get_type_hints(Config, include_extras=True)[name].__metadata__[0]
    return about
