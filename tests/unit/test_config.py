from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgbus.config import ApiConfig, Config, hide_password
from pgbus.errors import ConfigurationError

DSN = "postgresql://adam:s3cret@db.example.com:5433/shop"


def load(directory: Path, *, environ: dict[str, str] | None = None, **arguments: object) -> Config:
    return Config.load(arguments, environ=environ or {}, directory=directory)


def test_defaults_need_no_argument_variable_or_file(tmp_path: Path) -> None:
    config = load(tmp_path)
    assert (config.dsn, config.namespace, config.lease, config.retention) == (None, "pgbus", 60.0, None)
    assert {row.source for row in config.describe()} == {"default"}


def test_an_argument_beats_a_variable_beats_the_file_beats_the_default(tmp_path: Path) -> None:
    (tmp_path / "pgbus.toml").write_text("lease = 11\ngrace = 12\npool_size = 13\n")
    config = load(tmp_path, environ={"PGBUS_LEASE": "21", "PGBUS_GRACE": "22.5"}, lease=31)
    assert (config.lease, config.grace, config.pool_size, config.poll_interval) == (31.0, 22.5, 13, 5.0)
    assert [config.source(name) for name in ("lease", "grace", "pool_size", "poll_interval")] == [
        "argument",
        "PGBUS_GRACE",
        "pgbus.toml",
        "default",
    ]


def test_the_table_in_pyproject_counts_when_there_is_no_pgbus_toml(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "shop"\n[tool.pgbus]\nservice_name = "shop"\n')
    assert load(tmp_path).source("service_name") == "[tool.pgbus]"
    (tmp_path / "pgbus.toml").write_text('namespace = "other"\n')
    config = load(tmp_path)
    assert (config.service_name, config.namespace) == ("", "other")


def test_a_pyproject_without_our_table_is_no_configuration(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "shop"\n')
    assert load(tmp_path) == replace(load(tmp_path), sources={})


def test_an_argument_of_none_and_an_empty_variable_count_as_not_given(tmp_path: Path) -> None:
    config = load(tmp_path, environ={"PGBUS_LEASE": "7", "PGBUS_DSN": ""}, lease=None)
    assert (config.lease, config.dsn) == (7.0, None)


def test_variables_of_others_are_left_alone(tmp_path: Path) -> None:
    assert load(tmp_path, environ={"PGBUS_TEST_SERVER": "x", "LEASE": "x"}).lease == 60.0


@pytest.mark.parametrize(
    ("file", "arguments", "message"),
    [
        ("leese = 1", {}, r"pgbus\.toml: there is no setting 'leese'; did you mean 'lease'\?"),
        ("zzz = 1", {}, r"pgbus\.toml: there is no setting 'zzz'; `pgbus config` lists what there is"),
        ("", {"name_space": "x"}, r"arguments: there is no setting 'name_space'; did you mean 'namespace'\?"),
        ("lease =", {}, r"pgbus\.toml cannot be read: "),
        ("sources = {}", {}, r"pgbus\.toml: there is no setting 'sources'"),
    ],
)
def test_an_unknown_setting_is_refused(tmp_path: Path, file: str, arguments: dict[str, object], message: str) -> None:
    (tmp_path / "pgbus.toml").write_text(file)
    with pytest.raises(ConfigurationError, match=message):
        Config.load(arguments, environ={}, directory=tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("lease", "0.5", r"^lease \(PGBUS_LEASE\): must be between 1 and 86400 seconds, not 0\.5$"),
        ("lease", "nan", r"^lease \(PGBUS_LEASE\): must be between 1 and 86400 seconds, not nan$"),
        ("lease", "soon", r"^lease \(PGBUS_LEASE\): must be a number between 1 and 86400 seconds$"),
        ("retention", "0", r"^retention \(PGBUS_RETENTION\): must be between 1 and 3153600000 seconds, not 0$"),
        ("retention", "inf", r"must be between 1 and 3153600000 seconds, not inf$"),
        ("pool_size", "1.5", r"must be a whole number between 1 and 1000 connections$"),
        ("max_payload", "268435456", r"must be between 1 and 268435455 bytes of JSON, not 268435456$"),
        ("log_format", "xml", r"must be one of text, json$"),
        ("namespace", "Shop", r"'Shop' is not a namespace"),
        ("namespace", "pg_shop", r"'pg_shop' is not a namespace"),
        ("namespace", "1shop", r"'1shop' is not a namespace"),
        ("namespace", "x" * 41, r"must be between 1 and 40 characters, not 41$"),
        ("service_name", "x" * 256, r"must be between 0 and 255 characters, not 256$"),
        ("dsn", "mysql://adam:s3cret@db/shop", r"^dsn \(PGBUS_DSN\): must look like postgresql://"),
        ("direct_dsn", "db s3cret", r"^direct_dsn \(PGBUS_DIRECT_DSN\): must look like postgresql://"),
    ],
)
def test_a_value_that_is_not_allowed_is_refused_with_what_is(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        load(tmp_path, environ={f"PGBUS_{name.upper()}": text})
    assert "s3cret" not in str(caught.value)


def test_a_config_made_by_hand_is_checked_too() -> None:
    assert Config(lease=5).lease == 5.0
    with pytest.raises(ConfigurationError, match=r"^pool_size: must be a whole number"):
        Config(pool_size="5")  # type: ignore[arg-type] # what a caller without a type checker may write


def test_passwords_are_hidden_wherever_a_config_is_shown(tmp_path: Path) -> None:
    config = load(tmp_path, dsn=DSN, environ={"PGBUS_DIRECT_DSN": DSN})
    assert config.dsn == DSN
    assert "s3cret" not in repr(config)
    assert "s3cret" not in str(config.describe())
    assert "postgresql://adam:***@db.example.com:5433/shop" in repr(config)


@pytest.mark.parametrize(
    ("dsn", "hidden"),
    [
        (DSN, "postgresql://adam:***@db.example.com:5433/shop"),
        ("postgresql://adam@db/shop", "postgresql://adam@db/shop"),
        ("postgresql://db:5432/shop", "postgresql://db:5432/shop"),
        ("postgresql://adam:p@ss/w?rd@db/shop", "postgresql://adam:***@db/shop"),
        ("postgresql://:s3cret@/shop", "postgresql://:***@/shop"),
        (
            "postgresql:///shop?user=adam&password=s3cret&host=/tmp",
            "postgresql:///shop?user=adam&password=***&host=/tmp",
        ),
        ("postgresql://db/shop?sslpassword=s3cret", "postgresql://db/shop?sslpassword=***"),
        ("postgresql://db:1/shop?password=s3@cret", "postgresql://db:***"),
        ("postgresql://adam@db:1/shop?%70assword=s3cret", "postgresql://adam@db:1/shop?%70assword=***"),
        ("postgresql://db/shop?password=s3#cret with a space&user=adam", "postgresql://db/shop?password=***&user=adam"),
        ("host=db password = 's3 cr\\'et' user=adam", "host=db password = *** user=adam"),
    ],
)
def test_hide_password(dsn: str, hidden: str) -> None:
    assert hide_password(dsn) == hidden


@given(st.text())
def test_no_password_however_odd_is_shown(password: str) -> None:
    hidden = hide_password(f"postgresql://adam:{password}@db/shop")
    assert hidden in ("postgresql://adam:***@db/shop", "postgresql://adam:***")


@pytest.mark.parametrize("rest", ["u:s3cret#x@h/db", "u:s3cret/x@h/db", "u@h:s3/db", "u:[s3cret@h/db"])
def test_what_a_driver_would_take_for_a_port_is_refused_and_not_quoted(rest: str) -> None:
    with pytest.raises(ConfigurationError, match=r"dsn: .*percent-encode") as refused:
        Config(dsn=f"postgresql://{rest}")
    assert "s3" not in str(refused.value)


@pytest.mark.parametrize("rest", ["a:1,b:2/d", "u:p@[::1]:5432/d", "[::1]/d", "/d", "u@/d?host=/tmp&port=5433"])
def test_several_hosts_ipv6_and_no_host_have_good_ports(rest: str) -> None:
    assert Config(dsn=f"postgresql://{rest}").dsn == f"postgresql://{rest}"


def test_the_session_dsn_is_the_direct_one_and_a_different_dsn_may_be_a_pooler() -> None:
    assert Config(dsn=DSN).session_dsn == DSN
    assert not Config(dsn=DSN, direct_dsn=DSN).behind_pooler
    pooled = Config(dsn="postgresql://pooler/shop", direct_dsn=DSN)
    assert pooled.session_dsn == DSN
    assert pooled.behind_pooler


def test_describe_says_what_a_setting_means_and_its_limits() -> None:
    rows = {row.name: row for row in Config().describe()}
    assert rows["grace"].meaning == "Time for running handlers to finish after SIGTERM (between 0 and 86400 seconds)"
    assert rows["grace"].value == 30.0
    assert "sources" not in rows


def test_source_of_an_unknown_setting_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'lease'"):
        Config().source("leas")


# ---------------------------------------------------------------------------------------------------------------- apis

BUILT_IN = ApiConfig()


def test_every_api_has_the_built_in_settings_when_none_are_given(tmp_path: Path) -> None:
    config = load(tmp_path)
    assert config.api("auth") == BUILT_IN
    built_in = ApiConfig(
        rpc_timeout=None,
        event_fire_timeout=5.0,
        validate_outgoing=True,
        validate_incoming=True,
        strict_validation=False,
        cast_values=True,
    )
    assert built_in == BUILT_IN


def test_an_api_takes_each_setting_from_its_table_then_default_then_built_in(tmp_path: Path) -> None:
    (tmp_path / "pgbus.toml").write_text(
        """
        [apis.default]
        rpc_timeout = 2
        cast_values = false
        [apis.auth]
        rpc_timeout = 9.5
        [apis."support.case"]
        strict_validation = true
        """
    )
    config = load(tmp_path)
    assert config.api("auth") == replace(BUILT_IN, rpc_timeout=9.5, cast_values=False)
    assert config.api("support.case") == replace(BUILT_IN, rpc_timeout=2, cast_values=False, strict_validation=True)
    assert config.api("support") == config.api("default") == replace(BUILT_IN, rpc_timeout=2, cast_values=False)


def test_arguments_and_the_file_are_merged_setting_by_setting(tmp_path: Path) -> None:
    (tmp_path / "pgbus.toml").write_text("[apis.auth]\nrpc_timeout = 9\nstrict_validation = true\n")
    config = load(tmp_path, apis={"auth": {"rpc_timeout": 1}, "default": {"event_fire_timeout": 3}})
    assert config.api("auth") == replace(BUILT_IN, rpc_timeout=1, strict_validation=True, event_fire_timeout=3)


def test_an_api_config_as_an_argument_says_all_of_an_api(tmp_path: Path) -> None:
    config = load(tmp_path, apis={"default": {"rpc_timeout": 1}, "auth": ApiConfig(cast_values=False)})
    assert config.api("auth") == ApiConfig(cast_values=False)


@pytest.mark.parametrize(
    ("validate", "outgoing", "incoming"),
    [
        (True, True, True),
        (False, False, False),
        ({"outgoing": False}, False, True),
        ({"incoming": False}, True, False),
        ({}, True, True),
    ],
)
def test_validation_is_switched_for_both_directions_or_for_one(
    tmp_path: Path, validate: object, outgoing: bool, incoming: bool
) -> None:
    api = load(tmp_path, apis={"auth": {"validate": validate}}).api("auth")
    assert (api.validate_outgoing, api.validate_incoming) == (outgoing, incoming)


@pytest.mark.parametrize(
    ("apis", "message"),
    [
        ({"auth": {"rpc_timout": 1}}, r"^apis\.auth: there is no setting 'rpc_timout'; did you mean 'rpc_ti"),
        ({"auth": {"validate_incoming": True}}, r"apis\.auth: there is no setting 'validate_incoming'; did you mean"),
        (
            {"auth": {"validate": {"outgo": True}}},
            r"apis\.auth\.validate: there is no setting 'outgo'; did you mean 'outg",
        ),
        ({"auth": {"validate": 1}}, r"^apis\.auth\.validate: must be true, false, or a table of `outgoing` and `inco"),
        ({"auth": {"validate": {"outgoing": 1}}}, r"^apis\.auth\.validate\.outgoing: must be true or false$"),
        ({"auth": {"rpc_timeout": 0}}, r"^apis\.auth\.rpc_timeout: must be between 0\.001 and 86400 seconds, not 0$"),
        ({"auth": {"cast_values": "no"}}, r"^apis\.auth\.cast_values: must be true or false$"),
        ({"auth": True}, r"^apis\.auth: must be a table of settings by name$"),
        ([], r"^apis: must be a table of settings by name$"),
        ({"support": {"case": {"rpc_timeout": 1}}}, r'^apis\.support\.case: .* quote a dotted name: "support\.case"$'),
        ({"auth.*": {"rpc_timeout": 1}}, r"^apis\.auth\.\*: no API can have this name: "),
    ],
)
def test_wrong_settings_of_an_api_are_refused(tmp_path: Path, apis: object, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load(tmp_path, apis=apis)


def test_describe_says_where_each_setting_of_an_api_came_from(tmp_path: Path) -> None:
    (tmp_path / "pgbus.toml").write_text(
        "[apis.default]\nvalidate = {outgoing = false}\n[apis.auth]\nrpc_timeout = 9\n[plugins.greeting]\nname = 'x'\n"
    )
    config = load(tmp_path, apis={"auth": {"cast_values": False}})
    rows = {row.name: (row.value, row.source) for row in config.describe()}
    assert rows["apis.default.rpc_timeout"] == (None, "default")
    assert rows["apis.default.validate.outgoing"] == (False, "pgbus.toml")
    assert rows["apis.auth.validate.outgoing"] == (False, "apis.default")
    assert rows["apis.auth.rpc_timeout"] == (9, "pgbus.toml")
    assert rows["apis.auth.cast_values"] == (False, "argument")
    assert rows["plugins.greeting.name"] == ("x", "pgbus.toml")


def test_plugins_are_merged_option_by_option(tmp_path: Path) -> None:
    (tmp_path / "pgbus.toml").write_text("[plugins.greeting]\nenabled = true\ngreeting = 'Hi'\n[plugins.other]\n")
    config = load(tmp_path, plugins={"greeting": {"greeting": "Hello"}})
    assert config.plugins == {"greeting": {"enabled": True, "greeting": "Hello"}, "other": {}}
    with pytest.raises(ConfigurationError, match=r"^plugins\.greeting: must be a table"):
        load(tmp_path, plugins={"greeting": True})
