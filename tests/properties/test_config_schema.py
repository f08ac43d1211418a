"""The JSON Schema of the configuration file and the code that reads it agree on what a file may say.

Without references to variables: a schema cannot know what these hold.
"""

from __future__ import annotations

from typing import Any

import jsonschema_rs
from hypothesis import given
from hypothesis import strategies as st

from pgbus.config import ApiConfig, Config, file_schema
from pgbus.config.fields import kinds
from pgbus.errors import ConfigurationError

VALIDATOR = jsonschema_rs.Draft202012Validator(file_schema({}))

NUMBERS = st.one_of(
    st.integers(-2, 400_000_000),
    st.floats(-1, 1e9, allow_nan=False),
    st.integers(0, 100).map(float),
    st.sampled_from([0, 1, 10, 60, 86_400, 86_401, 268_435_455, 268_435_456, 1e-3, 1e-4]),
)
TEXTS = st.one_of(
    st.sampled_from(
        [
            "", "bus", "pgbus", "pg_bus", "_x", "9x", "x" * 40, "x" * 41, "x" * 256, "debug", "json", "loud",
            "postgresql://a:b@c/d", "postgres://", "mysql://", "{hostname}-{pid}", "{friendly}", "{nobody}", "{", "}",
            "{}", "$${x}", "$${", "events,rpcs", "events rpcs", " tasks , ", "true",
        ]
    ),
    st.text(st.characters(exclude_characters="$", exclude_categories=["Cs"]), max_size=5),
)  # fmt: skip
VALUES: st.SearchStrategy[Any] = st.one_of(NUMBERS, TEXTS, st.booleans(), st.none(), st.just([]), st.just({}))

API = st.dictionaries(
    st.sampled_from([*kinds(ApiConfig), "validate", "nothing"]),
    st.one_of(VALUES, st.dictionaries(st.sampled_from(["outgoing", "incoming", "both"]), VALUES, max_size=2)),
    max_size=2,
)
APIS = st.dictionaries(st.sampled_from(["default", "auth", "support.case", "auth.*", "a..b"]), API, max_size=2)


@given(st.dictionaries(st.sampled_from([*kinds(Config), "nothing", "plugins"]), VALUES, min_size=1, max_size=1))
def test_the_schema_and_the_code_agree_on_every_setting(table: dict[str, object]) -> None:
    assert VALIDATOR.is_valid(table) is is_accepted(table)


@given(APIS)
def test_the_schema_and_the_code_agree_on_apis(apis: dict[str, object]) -> None:
    assert VALIDATOR.is_valid({"apis": apis}) is is_accepted({"apis": apis})


def is_accepted(table: dict[str, object]) -> bool:
    try:
        Config.load(environ={}, table=table)
    except ConfigurationError:
        return False
    return True
