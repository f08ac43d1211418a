"""Configuration: every setting of a process, merged from arguments, environment and file, and checked once.

It reads the environment and one file; what a setting does is up to the module that uses it.
"""

from pgbus.config.apis import ApiConfig
from pgbus.config.dsn import connect_timeout, for_asyncpg, for_libpq, hide_password, read_dsn, shown_dsn
from pgbus.config.files import has_variables
from pgbus.config.home import home_of_caller
from pgbus.config.schema import file_schema, or_variable
from pgbus.config.settings import Config, LogFormat, LogLevel, Setting, last_word

__all__ = [
    "ApiConfig",
    "Config",
    "LogFormat",
    "LogLevel",
    "Setting",
    "connect_timeout",
    "file_schema",
    "for_asyncpg",
    "for_libpq",
    "has_variables",
    "hide_password",
    "home_of_caller",
    "last_word",
    "or_variable",
    "read_dsn",
    "shown_dsn",
]
