"""Configuration files: which one counts, what they may say, and how variables and names are filled in."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import jsonschema_rs
import pytest

import pgbus
from pgbus.config import Config, file_schema
from pgbus.config.names import PLACEHOLDERS, expand
from pgbus.errors import ConfigurationError, UnexpectedConfigurationFormat


def load(directory: Path, environ: dict[str, str] | None = None, **arguments: object) -> Config:
    return Config.load(arguments, environ=environ or {}, directory=directory)


# ---------------------------------------------------------------------------------------------------- which file counts


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pgbus.toml", "lease = 90\n[apis.auth]\nrpc_timeout = 2\n"),
        ("pgbus.yaml", "lease: 90\napis:\n  auth:\n    rpc_timeout: 2\n"),
        ("pgbus.yml", '{"lease": 90, "apis": {"auth": {"rpc_timeout": 2}}}'),
        ("pyproject.toml", "[tool.pgbus]\nlease = 90\n[tool.pgbus.apis.auth]\nrpc_timeout = 2\n"),
    ],
)
def test_a_file_in_the_working_directory_is_read(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    config = load(tmp_path)
    assert (config.lease, config.api("auth").rpc_timeout) == (90, 2)
    assert config.source("lease") == config.source("apis.auth.rpc_timeout")
    assert config.source("lease") == ("[tool.pgbus]" if name == "pyproject.toml" else name)


def test_two_files_at_once_are_refused(tmp_path: Path) -> None:
    (tmp_path / "pgbus.toml").write_text("lease = 90\n")
    (tmp_path / "pgbus.yaml").write_text("lease: 80\n")
    (tmp_path / "pyproject.toml").write_text("[tool.pgbus]\nlease = 70\n")
    with pytest.raises(ConfigurationError, match=r"^pgbus\.toml and pgbus\.yaml both exist; keep one"):
        load(tmp_path)


def test_a_named_file_beats_a_variables_file_beats_the_directorys_files(tmp_path: Path) -> None:
    for name, lease in (("pgbus.toml", 70), ("variable.json", 80), ("named.yaml", 90)):
        text = f"lease = {lease}" if name.endswith(".toml") else f'{{"lease": {lease}}}'
        (tmp_path / name).write_text(text)
    environ = {"PGBUS_CONFIG": str(tmp_path / "variable.json")}
    named = Config.load(environ=environ, directory=tmp_path, file=tmp_path / "named.yaml")
    assert (named.lease, named.source("lease")) == (90, str(tmp_path / "named.yaml"))
    assert load(tmp_path, environ).lease == 80
    assert load(tmp_path, {"PGBUS_CONFIG": ""}).lease == 70


def test_a_mapping_stands_for_the_file_and_yields_to_variables_and_arguments(tmp_path: Path) -> None:
    (tmp_path / "pgbus.toml").write_text("pool_size = 9\nlease = 70\n")
    table = {"lease": 80, "grace": 81, "retention": "${KEEP}"}
    environ = {"PGBUS_LEASE": "90", "KEEP": "86400"}
    config = Config.load({"grace": 91}, environ=environ, directory=tmp_path, table=table)
    assert (config.lease, config.grace, config.pool_size, config.retention) == (90, 91, 5, 86400)
    assert config.source("retention") == "config"


def test_create_takes_a_config_a_mapping_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.yaml").write_text("lease: 90\n")
    assert pgbus.create(config_file="other.yaml").config.lease == 90
    assert pgbus.create(config={"lease": 80}, grace=7).config.lease == 80
    config = Config(lease=70)
    assert pgbus.create(config=config).config is config
    with pytest.raises(ConfigurationError, match="leave out grace, config_file, or give a mapping"):
        pgbus.create(config=config, grace=7, config_file="other.yaml")
    with pytest.raises(ConfigurationError, match=r"given as config_file='other\.yaml'"):
        pgbus.create(config="other.yaml")  # type: ignore[arg-type] # as Lightbus's documents have it
    with pytest.raises(ConfigurationError, match="a configuration or a file with one, not both"):
        pgbus.create(config={}, config_file="other.yaml")


# ------------------------------------------------------------------------------------------------- what is no good file


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("pgbus.yaml", "- lease\n", r"^pgbus\.yaml: settings are a table of names and values, not a list$"),
        ("pgbus.yaml", "lease", r"^pgbus\.yaml: settings are a table of names and values, not a value of type str$"),
        ("pgbus.yaml", "on: 1", r"^pgbus\.yaml: True is not the name of a setting; names are strings$"),
        ("pyproject.toml", "[tool]\npgbus = 3", r"^\[tool\.pgbus\]: settings are a table .*, not a value of type int$"),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UnexpectedConfigurationFormat, match=message):
        load(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "pgbus.yaml",
            "lease: 1\ngrace: 2\nlease: 3",
            r"^pgbus\.yaml cannot be read: there are two 'lease' in one table",
        ),
        (
            "pgbus.yaml",
            "apis: {auth: {rpc_timeout: 1, rpc_timeout: 2}}",
            r"two 'rpc_timeout' .* \(line 1, column 31\)$",
        ),
        ("pgbus.yaml", "lease: [", r"^pgbus\.yaml cannot be read: .* \(line 1, column 9\)$"),
        (
            "pgbus.yaml",
            "lease: !!python/object/apply:os.getcwd []",
            r"^pgbus\.yaml cannot be read: could not determine",
        ),
        ("pgbus.yaml", "dsn: 's3cret\n", r"^pgbus\.yaml cannot be read: "),
        ("pgbus.toml", "lease = 1\nlease = 2", r"^pgbus\.toml cannot be read: Cannot overwrite a value"),
        ("pgbus.yaml", "leese: 1", r"^pgbus\.yaml: there is no setting 'leese'; did you mean 'lease'\?$"),
        ("pgbus.yaml", "lease: soon", r"^lease \(pgbus\.yaml\): must be a number between 1 and 86400 seconds$"),
        ("pgbus.yaml", "lease:", r"^lease \(pgbus\.yaml\): must be a number"),
        (
            "pgbus.yaml",
            "bus: {log_level: info}",
            r"^pgbus\.yaml: there is no setting 'bus'; write `log_level` at the top of the file",
        ),
        (
            "pgbus.yaml",
            "apis: {default: {event_transport: {redis: {url: x}}}}",
            r"^apis\.default \(pgbus\.yaml\): there is no setting 'event_transport'; events travel through",
        ),
        ("pgbus.yaml", "apis: {auth: {cast: 1}}", r"^apis\.auth \(pgbus\.yaml\): there is no setting 'cast'"),
    ],
)
def test_what_a_file_cannot_say_is_refused_without_quoting_secrets(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigurationError, match=message) as caught:
        load(tmp_path)
    assert "s3cret" not in str(caught.value)


def test_keys_that_are_merged_in_yield_to_the_tables_own(tmp_path: Path) -> None:
    (tmp_path / "pgbus.yaml").write_text(
        "apis:\n  auth: &slow {rpc_timeout: 9, cast_values: false}\n  image: {<<: *slow, rpc_timeout: 8}\n"
    )
    config = load(tmp_path)
    assert (config.api("image").rpc_timeout, config.api("image").cast_values) == (8, False)


@pytest.mark.parametrize("name", ["missing.yaml", "missing.toml"])
def test_a_named_file_that_is_missing_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"missing\.\w+ cannot be read: No such file or directory$"):
        Config.load(environ={}, file=tmp_path / name)


def test_a_file_of_another_format_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "pgbus.ini").write_text("lease=1")
    with pytest.raises(ConfigurationError, match=r"is named \*\.toml, \*\.yaml, \*\.yml or \*\.json$"):
        Config.load(environ={}, file=tmp_path / "pgbus.ini")


# ------------------------------------------------------------------------------------------------------------ variables


def test_variables_in_a_file_are_filled_in_and_read_as_the_settings_type(tmp_path: Path) -> None:
    (tmp_path / "pgbus.yaml").write_text(
        """
        dsn: postgresql://app:${DB_PASSWORD}@${DB_HOST}/shop
        pool_size: ${POOL}
        retention: "${KEEP}"
        log_format: ${FORMAT}
        apis: {auth: {cast_values: "${CAST}", validate: "${CAST}"}}
        plugins: {sentry: {dsn: "https://${TOKEN}@sentry", tags: ["${TOKEN}"]}}
        """
    )
    environ = {
        "DB_PASSWORD": "s3cret", "DB_HOST": "db", "POOL": "7", "KEEP": "86400", "FORMAT": "json", "CAST": "false",
        "TOKEN": "t0ken",
    }  # fmt: skip
    config = load(tmp_path, environ)
    assert config.dsn == "postgresql://app:s3cret@db/shop"
    assert (config.pool_size, config.retention, config.log_format) == (7, 86400.0, "json")
    assert (config.api("auth").cast_values, config.api("auth").validate_incoming) == (False, False)
    assert config.plugins["sentry"] == {"dsn": "https://t0ken@sentry", "tags": ["t0ken"]}
    assert "s3cret" not in str(config.describe()) + repr(config)
    assert "t0ken" not in str(config.describe()) + repr(config)


def test_two_dollars_stand_for_one(tmp_path: Path) -> None:
    (tmp_path / "pgbus.toml").write_text("module = '$${POOL}.$$x.$y'")
    assert load(tmp_path, {"POOL": "7"}).module == "${POOL}.$$x.$y"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dsn = 'postgresql://${DB_PASSWORD}@db/shop'", r"^dsn \(pgbus\.toml\): the variable DB_PASSWORD is not set$"),
        ("[plugins.sentry]\ndsn = '${TOKEN}'", r"^dsn in sentry in plugins \(pgbus\.toml\): the variable TOKEN is not"),
        (
            "module = '${1}'",
            r"^module \(pgbus\.toml\): \$\{1\} does not name a variable; for the literal text write \$\$\{1\}$",
        ),
        ("pool_size = '${BAD}'", r"^pool_size \(pgbus\.toml\): must be a whole number between 1 and 1000 connections$"),
        ("pool_size = '7'", r"^pool_size \(pgbus\.toml\): must be a whole number"),
    ],
)
def test_a_variable_that_is_not_set_or_does_not_fit_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "pgbus.toml").write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        load(tmp_path, {"BAD": "many"})


# ---------------------------------------------------------------------------------------------------------------- names


def test_placeholders_in_names_are_replaced(tmp_path: Path) -> None:
    config = load(tmp_path, {"PGBUS_PROCESS_NAME": "{hostname}/{pid}"}, service_name="shop-{random8}-{friendly}")
    assert config.process_name == f"{os.uname().nodename}/{os.getpid()}"
    assert re.fullmatch(r"shop-[0-9a-f]{8}-[a-z]+-[a-z]+-\d{3}", config.service_name)
    assert load(tmp_path).process_name == f"{os.uname().nodename}-{os.getpid()}"


def test_a_process_keeps_its_names_and_another_has_others() -> None:
    text = "".join(f"{{{name}}} " for name in PLACEHOLDERS)
    program = f"from pgbus.config.names import expand; print(expand({text!r}), expand({text!r}) == expand({text!r}))"
    others = [
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
        for _ in range(2)
    ]
    mine = expand(text).split()
    assert mine == expand(text).split()
    assert all(other[-1] == "True" for other in others)
    for position, name in enumerate(PLACEHOLDERS):
        different = {mine[position], others[0][position], others[1][position]}
        assert len(different) == (1 if name == "hostname" else 3), name
    assert [len(mine[position]) for position in (2, 3, 4)] == [4, 8, 16]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{host}", r"^process_name: there is no placeholder \{host\}; there are \{hostname\}, \{pid\}, \{random4\}, "),
        ("{}", r"there is no placeholder \{\}"),
        ("{hostname", r"^process_name: braces are only allowed around the name of a placeholder"),
        ("x" * 300, r"^process_name: must be between 1 and 255 characters, not 300$"),
    ],
)
def test_an_unknown_placeholder_is_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Config(process_name=name)


# --------------------------------------------------------------------------------------------------------------- schema

SCHEMA = file_schema({"greeting": {"type": "object", "properties": {"enabled": {"type": "boolean"}}}})
VALIDATOR = jsonschema_rs.Draft202012Validator(SCHEMA)

ACCEPTED = [
    "",
    "lease = 60\ngrace = 0\nretention = 31536000.5",
    "pool_size = 5.0",
    "pool_size = '${SEVEN}'",
    "dsn = 'postgresql://adam@db/shop'\ndirect_dsn = 'postgres://adam@db/shop'",
    "namespace = '_shop2'",
    "process_name = '{hostname}-{random4}'\nservice_name = 'shop-{friendly}'",
    "service_name = '${SEVEN}-{pid}'",
    "log_level = 'debug'\nlog_format = 'json'",
    "features = 'events, tasks'",
    "features = ''",
    "features = ',rpcs,'",
    "[apis.default]\nrpc_timeout = 1\nvalidate = false",
    '[apis."support.case"]\nvalidate = {outgoing = false}\ncast_values = true\nstrict_validation = false',
    "[apis.auth]\nevent_fire_timeout = 0.5\nvalidate = {}",
    "[apis.auth]\nvalidate = '${TRUE}'\ncast_values = '${TRUE}'\nrpc_timeout = '${SEVEN}'",
    "[plugins.greeting]\nenabled = true",
]
REFUSED = [
    "leese = 60",
    "sources = {}",
    "lease = 0.5",
    "lease = 'long'",
    "lease = true",
    "pool_size = 1.5",
    "pool_size = 1001",
    "pool_size = '7'",
    "dsn = 'mysql://adam@db/shop'",
    "dsn = 5",
    "namespace = 'pg_shop'",
    "namespace = 'Shop'",
    "namespace = ''",
    "process_name = ''",
    "process_name = '{host}'",
    "process_name = 'a}'",
    "log_level = 'loud'",
    "features = 'event'",
    "features = 'events rpcs'",
    "features = ['events']",
    "apis = true",
    "apis.auth = 5",
    "[apis.auth]\nrpc_timeout = 0",
    "[apis.auth]\nvalidate = 1",
    "[apis.auth]\nvalidate = {both = true}",
    "[apis.auth]\nvalidate_incoming = true",
    "[apis.auth]\ncast_values = 'yes'",
    "[apis.support.case]\nrpc_timeout = 1",
    '[apis."auth.*"]\nrpc_timeout = 1',
    "plugins = []",
    "plugins.greeting = 1",
]  # fmt: skip


def test_the_schema_is_a_json_schema_and_says_what_each_setting_means() -> None:
    jsonschema_rs.meta.validate(SCHEMA)
    properties = SCHEMA["properties"]
    assert isinstance(properties, dict)
    assert {*properties} == {row.name for row in Config().describe() if "." not in row.name} | {"apis", "plugins"}
    assert all(one["description"] for one in properties.values())
    assert properties["lease"]["default"] == 60.0


@pytest.mark.parametrize("text", ACCEPTED)
def test_a_file_that_the_schema_accepts_is_accepted(tmp_path: Path, text: str) -> None:
    assert _is_valid(text)
    (tmp_path / "pgbus.toml").write_text(text)
    load(tmp_path, {"SEVEN": "7", "TRUE": "true"})


@pytest.mark.parametrize("text", REFUSED)
def test_a_file_that_the_schema_refuses_is_refused(tmp_path: Path, text: str) -> None:
    assert not _is_valid(text)
    (tmp_path / "pgbus.toml").write_text(text)
    with pytest.raises(ConfigurationError):
        load(tmp_path, {"SEVEN": "7", "TRUE": "true"})


def _is_valid(text: str) -> bool:
    return VALIDATOR.is_valid(tomllib.loads(text))
