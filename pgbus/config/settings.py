"""`Config`: the settings of a process."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pgbus.config.apis import BUILT_IN, DEFAULT, SPELLINGS, ApiConfig, read_apis, resolve
from pgbus.config.dsn import hide_password, names_pooler, read_dsn, sqlalchemy_url
from pgbus.config.features import FEATURES, read_features
from pgbus.config.fields import DAY, About, about, check_name, checked, kinds, mapping, place, refusal, seconds
from pgbus.config.files import File, FromVariables, checked_root, fill, find_file, has_variables, read_file
from pgbus.config.home import Home
from pgbus.config.names import expand
from pgbus.errors import ConfigurationError, UnsupportedUse

MAX_NAMESPACE_LENGTH = 40
CONFIG_VARIABLE = "PGBUS_CONFIG"

NAMESPACE = re.compile(r"(?!pg_)[a-z_][a-z0-9_]*", re.ASCII)
_NAMES = frozenset({"service_name", "process_name"})
_SECRETS = frozenset({"dsn", "direct_dsn"})
_TABLES = ("apis", "plugins")

_last_word: ContextVar[Mapping[str, str] | None] = ContextVar("pgbus settings that code cannot change", default=None)


@contextmanager
def last_word(told: Mapping[str, str]) -> Iterator[None]:
    """Have settings that are loaded in the block, as text, win over arguments; `config` is the file's name.

    So a command line is heard by the module that it imports, whatever that passes to `pgbus.create()`.
    """
    reset = _last_word.set(told)
    try:
        yield
    finally:
        _last_word.reset(reset)


LogLevel = Literal["debug", "info", "warning", "error", "critical"]
LogFormat = Literal["text", "json"]


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
    service_name: Annotated[
        str,
        About(
            "Service that this process belongs to; may have placeholders; default: the project or folder of the module "
            "that makes the bus",
            0, 255, "characters",
        ),
    ] = ""  # fmt: skip
    process_name: Annotated[
        str, About("Name of this process in history; may have placeholders", 1, 255, "characters")
    ] = "{hostname}-{pid}"
    module: Annotated[str, About("What `pgbus run` imports: MODULE, or MODULE:ATTRIBUTE of the bus")] = "bus"
    max_payload: Annotated[int, About("Largest payload that may be published", 1, 268_435_455, "bytes of JSON")] = (
        1_048_576
    )
    pool_size: Annotated[
        int, About("Pooled connections, in addition to the session, and the leader's", 1, 1000, "connections")
    ] = 5
    lease: Annotated[float, seconds("A claim outlives a worker that is frozen by this long", maximum=DAY)] = 60.0
    poll_interval: Annotated[
        float, seconds("Look for work this often, should a notification be lost", minimum=0.01, maximum=3600)
    ] = 5.0
    idle_close: Annotated[
        float | None,
        seconds("A worker closes its sessions when the bus has slept for this long; default: never", maximum=DAY),
    ] = None
    grace: Annotated[float, seconds("Time for running handlers to finish after SIGTERM", minimum=0, maximum=DAY)] = 30.0
    batch_target: Annotated[
        float, seconds("Work that an adaptive listener claims at once", minimum=0.01, maximum=60)
    ] = 1.0
    listener_threads: Annotated[int, About("Threads for each listener of a plain function", 1, 1000, "threads")] = 10
    partition_period: Annotated[float, seconds("The leader opens a new partition of the log this often")] = 30 * DAY
    retention: Annotated[
        float | None, seconds("How long the log and its history are kept; default: forever", maximum=36_500 * DAY)
    ] = None
    dedup_ttl: Annotated[float, seconds("How long a dedup_key bars a second event")] = 7 * DAY
    require_transaction: Annotated[
        bool, About("Refuse to publish with `using` where no transaction is open, and do not only warn")
    ] = False
    rpc_timeout: Annotated[
        float,
        seconds("A call waits this long, if neither it nor the procedure says otherwise", minimum=0.001, maximum=DAY),
    ] = 5.0
    rpc_concurrency: Annotated[
        int,
        About("Calls of one procedure that a worker runs at once, if the procedure does not say", 1, 10_000, "calls"),
    ] = 10
    rpc_max_payload: Annotated[int, About("Largest arguments or result of a call", 1, 268_435_455, "bytes of JSON")] = (
        67_108_864
    )
    rpc_retention: Annotated[float, seconds("How long calls stay queryable after their deadline")] = 3600.0
    worker_ttl: Annotated[float, seconds("How long a worker that is gone stays listed")] = 3600.0
    schedule_retention: Annotated[float, seconds("How long the runs of schedules stay queryable")] = 30 * DAY
    features: Annotated[str, About("What workers do: any of events, rpcs and tasks, with commas between them")] = (
        ",".join(FEATURES)
    )
    log_level: Annotated[LogLevel, About("What `pgbus run` logs: debug, info, warning, error or critical")] = "info"
    log_format: Annotated[LogFormat, About("How `pgbus run` logs: text or json")] = "text"

    apis: Mapping[str, ApiConfig] = field(default_factory=dict)
    """Settings by API name, inherited ones included; `api()` looks them up."""
    plugins: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    """Options by plugin name, as they were given."""
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)
    home: str | None = field(default=None, compare=False)
    """The folder that the service has its name from; None where the name was given, or there is no such folder."""

    def __post_init__(self) -> None:
        for name in kinds(Config):
            value = self._expanded(name) if name in _NAMES else getattr(self, name)
            source = self.sources.get(name, "argument")
            object.__setattr__(self, name, checked(Config, name, value, label=name, source=source))
        self._read_dsn("dsn")
        self._read_dsn("direct_dsn")
        self._check_features()
        if not NAMESPACE.fullmatch(self.namespace):
            raise self._error(
                "namespace",
                f"{self.namespace!r} is not a namespace: letters a-z, digits and '_', a digit not first, and not "
                "beginning with 'pg_', which PostgreSQL keeps to itself",
            )

    def sqlalchemy_url(self, driver: Literal["psycopg", "asyncpg"]) -> str:
        """The database's URL for SQLAlchemy, with its password; raises ConfigurationError for parameters that a URL
        cannot express.
        """
        try:
            return sqlalchemy_url(self.dsn, driver)
        except ValueError as error:
            raise self._error("dsn", str(error)) from None

    @classmethod
    def load(
        cls,
        arguments: Mapping[str, object] | None = None,
        *,
        environ: Mapping[str, str] | None = None,
        directory: Path | None = None,
        file: str | Path | None = None,
        table: Mapping[str, object] | None = None,
    ) -> Config:
        """Merge `arguments`, then `PGBUS_*` in `environ`, then a file, then defaults.

        The file is `file`, else what `PGBUS_CONFIG` names, else what `directory` has of `pgbus.toml`, `pgbus.yaml` and
        `pgbus.yml`, else the table `[tool.pgbus]` of `pyproject.toml`; or `table` stands for it, and no file is read.
        An argument that is None and a variable that is empty count as not given; `apis` and `plugins` are merged
        setting by setting. Defaults: the process's environment and its working directory.

        Raises ConfigurationError for an unknown key (with the close match) and for a value that is not allowed, and
        UnexpectedConfigurationFormat for a file that is not a table.
        """
        environ = os.environ if environ is None else environ
        told = dict(_last_word.get() or {})
        if "config" in told:
            file, table = told.pop("config"), None
        merged = _Merged()
        merged.add_file(_file(environ, directory=directory, file=file, table=table))
        merged.add_environment(environ)
        merged.add_arguments(arguments or {})
        merged.add_command_line(told)
        merged.note_inheritance()
        return cls(**merged.values, apis=resolve(merged.apis), plugins=merged.plugins, sources=merged.sources)

    def as_told(self) -> Config:
        """Return the configuration with the options of the command line."""
        told = {name: FromVariables(text) for name, text in (_last_word.get() or {}).items() if name != "config"}
        sources = {**self.sources, **dict.fromkeys(told, "command line")}
        changes: dict[str, Any] = {**told, "sources": sources}
        return replace(self, **changes) if told else self

    def at_home(self, home: Home) -> Config:
        """Return the configuration with the service's name from its home, unless a name was given, which may be
        empty.
        """
        if "service_name" in self.sources or self.service_name:
            return self
        sources = {**self.sources, "service_name": home.folder} if home.name else self.sources
        return replace(self, service_name=home.name, home=home.folder, sources=sources)

    def api(self, name: str) -> ApiConfig:
        """Return the settings of an API: its own, else those of `apis.default`, else the built-in defaults."""
        return self.apis.get(name) or self.apis.get(DEFAULT) or BUILT_IN

    def source(self, name: str) -> str:
        """Return the source of the value of `name`: `argument`, `PGBUS_X`, a file's name, `[tool.pgbus]` or `default`.

        `name` is written as `describe()` does. The source of an inherited API setting is `apis.default`, and that of a
        derived service name is a folder.
        """
        check_name(name.partition(".")[0], [*kinds(Config), *_TABLES], where="settings")
        return self.sources.get(name, "default")

    def describe(self) -> list[Setting]:
        """Return every setting with its value, source and meaning; passwords are hidden."""
        return [*self._describe_own(), *self._describe_apis(), *self._describe_plugins()]

    def _describe_own(self) -> Iterator[Setting]:
        for name in kinds(Config):
            value = getattr(self, name)
            shown = hide_password(value) if name in _SECRETS and value is not None else value
            yield self._setting(name, shown, str(about(Config, name)))

    def _describe_apis(self) -> Iterator[Setting]:
        for api_name in dict.fromkeys((DEFAULT, *self.apis)):
            for name in kinds(ApiConfig):
                label = f"apis.{api_name}.{SPELLINGS.get(name, name)}"
                yield self._setting(label, getattr(self.api(api_name), name), str(about(ApiConfig, name)))

    def _describe_plugins(self) -> Iterator[Setting]:
        for plugin_name, options in self.plugins.items():
            for name, value in options.items():
                shown = "***" if has_variables(value) else value  # it may well be a secret
                yield self._setting(f"plugins.{plugin_name}.{name}", shown, "Option of a plugin")

    def _setting(self, name: str, value: object, meaning: str) -> Setting:
        return Setting(name=name, value=value, source=self.source(name), meaning=meaning)

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

    def _expanded(self, name: str) -> object:
        value = getattr(self, name)
        try:
            return expand(value) if isinstance(value, str) else value
        except ValueError as error:
            raise self._error(name, str(error)) from None

    def _check_features(self) -> None:
        try:
            read_features(self.features)
        except UnsupportedUse as error:
            raise UnsupportedUse(f"{place('features', self.sources.get('features', 'argument'))}: {error}") from None

    def _read_dsn(self, name: str) -> None:
        if (dsn := getattr(self, name)) is None:
            return
        try:
            object.__setattr__(self, name, read_dsn(dsn))
        except ValueError as error:
            raise self._error(name, str(error)) from None
        if names_pooler(getattr(self, name)) and (name == "direct_dsn" or self.direct_dsn is None):
            raise self._error(
                name,
                "has `pgbouncer=true`, so it is the address of a transaction-mode pooler: set the database's own "
                "address as direct_dsn, for LISTEN and locks",
            )

    def _error(self, name: str, reason: str) -> ConfigurationError:
        return refusal(name, self.sources.get(name, "argument"), reason)


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of `Config.describe()`: a setting, its value with passwords hidden, its source and its meaning."""

    name: str
    value: object
    source: str
    meaning: str


def _file(
    environ: Mapping[str, str],
    *,
    directory: Path | None,
    file: str | Path | None,
    table: Mapping[str, object] | None,
) -> File:
    if table is not None:
        if file is not None:
            raise ConfigurationError("give a configuration or a file with one, not both")
        return File(fill(checked_root(table, "config"), environ, source="config"), "config")
    if named := file or environ.get(CONFIG_VARIABLE):
        return read_file(Path(named), source=str(named), environ=environ)
    return find_file(directory or Path(), environ=environ)  # relative: the working directory may have been removed


class _Merged:
    """The merged values of all sources: later ones have priority; `apis` and `plugins` are merged setting by
    setting.
    """

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.apis: dict[str, dict[str, Any]] = {}
        self.plugins: dict[str, dict[str, object]] = {}
        self.sources: dict[str, str] = {}

    def add_file(self, file: File) -> None:
        """Add the settings of a file."""
        for name, value in file.table.items():
            self._add(name, value, source=file.source, where=file.source)

    def add_environment(self, environ: Mapping[str, str]) -> None:
        """Add the values of `PGBUS_*` variables."""
        # By known names: a deployment may have PGBUS_* variables of its own.
        for name in kinds(Config):
            variable = f"PGBUS_{name.upper()}"
            if text := environ.get(variable):
                self._add(name, FromVariables(text), source=variable, where=variable)

    def add_arguments(self, arguments: Mapping[str, object]) -> None:
        """Add the values of keyword arguments."""
        for name, value in arguments.items():
            if value is not None:
                self._add(name, value, source="argument", where="arguments")

    def add_command_line(self, told: Mapping[str, str]) -> None:
        """Add the settings of a command line, which take precedence over all others."""
        for name, text in told.items():
            self._add(name, FromVariables(text), source="command line", where="command line")

    def _add(self, name: str, value: object, *, source: str, where: str) -> None:
        match name:
            case "apis":
                self._add_apis(value, source)
            case "plugins":
                self._add_plugins(value, source)
            case _:
                check_name(name, [*kinds(Config), *_TABLES], where=where)
                self.values[name] = value
                self.sources[name] = source

    def note_inheritance(self) -> None:
        """Record the default API as the source of the settings that an API inherits from it; call it last."""
        for api_name in self.apis:
            for name in self.apis.get(DEFAULT, {}):
                spelling = SPELLINGS.get(name, name)
                self.sources.setdefault(f"apis.{api_name}.{spelling}", f"apis.{DEFAULT}")

    def _add_apis(self, table: object, source: str) -> None:
        for api_name, name, value in read_apis(table, source=source):
            self.apis.setdefault(api_name, {})[name] = value
            self.sources[f"apis.{api_name}.{SPELLINGS.get(name, name)}"] = source

    def _add_plugins(self, table: object, source: str) -> None:
        for plugin_name, options in mapping(table, "plugins", source).items():
            given = mapping(options, f"plugins.{plugin_name}", source)
            self.plugins.setdefault(plugin_name, {}).update(given)
            self.sources.update({f"plugins.{plugin_name}.{name}": source for name in given})
