"""Named SQL statements, read once from the `.sql` files of this package.

A file holds statements, each opened by `-- name: verb_noun` and at least one comment line that says what it does.
Parameters are written `:name`, casts `CAST(:name AS type)`, tables `pgbus.table`; no string literal holds `:word`
or `pgbus.`.
One text serves every driver: `$1` for asyncpg, `%(name)s` for psycopg, `:name` for SQLAlchemy's `text()`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

DEFAULT_NAMESPACE = "pgbus"

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)
_PARAMETER = re.compile(r"(?<![:\w]):([a-z_]+)\b")
_CAST = re.compile(r"CAST\((:[a-z_]+) AS ([a-z ]+?)(\[\])?\)")
_TEXTS = frozenset((str, type(None)))
_QUALIFIED = re.compile(r"\bpgbus\.(?=[a-z])")


@dataclass(frozen=True, slots=True, eq=False)
class Statement:
    """One statement, compiled for each parameter style. `parameters` is the order of asyncpg's `$1`, `$2`, ..."""

    name: str
    text: str
    namespace: str = DEFAULT_NAMESPACE
    parameters: tuple[str, ...] = field(init=False)
    asyncpg: str = field(init=False)
    psycopg: str = field(init=False)

    def __post_init__(self) -> None:
        parameters = tuple(dict.fromkeys(_PARAMETER.findall(self.text)))
        numbers = {name: f"${index}" for index, name in enumerate(parameters, 1)}
        object.__setattr__(self, "parameters", parameters)
        object.__setattr__(self, "asyncpg", _PARAMETER.sub(lambda found: numbers[found[1]], self.text))
        escaped = self.text.replace("%", "%%")
        object.__setattr__(self, "psycopg", _PARAMETER.sub(lambda found: f"%({found[1]})s", escaped))

    def arguments(self, values: Mapping[str, object]) -> list[Any]:
        """The values in asyncpg's order; a KeyError names a parameter that was forgotten."""
        return [values[name] for name in self.parameters]


@lru_cache(maxsize=256)
def bound_as_text(statement: Statement) -> Statement:
    """Return the statement for a user's connection: all its parameters are strings, or arrays of strings.

    The connection may have codecs or adapters of its own for every other type. `as_text` makes the values.
    """

    def cast_twice(found: re.Match[str]) -> str:
        name, of, array = found[1], found[2], found[3] or ""
        return found[0] if of == "text" else f"CAST(CAST({name} AS text{array}) AS {of}{array})"

    return Statement(statement.name, _CAST.sub(cast_twice, statement.text), statement.namespace)


def all_as_text(values: list[Any]) -> list[Any]:
    """`as_text` of each value; of strings and None alone, the very same list."""
    return values if _TEXTS.issuperset(map(type, values)) else list(map(as_text, values))


def as_text(value: Any) -> Any:
    """Return the value as a string that PostgreSQL casts; None stays None, and an array stays an array."""
    if value is None or type(value) is str:
        return value
    if isinstance(value, (list, tuple)):
        return value if _TEXTS.issuperset(map(type, value)) else [as_text(part) for part in value]
    return value.isoformat() if isinstance(value, datetime) else str(value)


def quote_identifier(name: str) -> str:
    """`name` as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def in_namespace(text: str, namespace: str) -> str:
    """The SQL text with its tables in `namespace` instead of `pgbus`."""
    if namespace == DEFAULT_NAMESPACE:
        return text
    return _QUALIFIED.sub(lambda _: quote_identifier(namespace) + ".", text)


def parse(text: str) -> dict[str, str]:
    """The statements of one file by name, without comments and blank lines."""
    parts = _NAME.split(text)
    bodies = dict(zip(parts[1::2], parts[2::2], strict=True))
    return {name: _without_comments(body) for name, body in bodies.items()}


def _without_comments(body: str) -> str:
    lines = (line.split("--", 1)[0].rstrip() for line in body.splitlines())
    return "\n".join(line for line in lines if line).rstrip(";")


@lru_cache(maxsize=8)
def names_in(file: str) -> tuple[str, ...]:
    """The names of the statements in one file, as `sequencer`."""
    return tuple(_NAME.findall((Path(__file__).parent / f"{file}.sql").read_text(encoding="utf-8")))


@lru_cache(maxsize=64)
def load(namespace: str = DEFAULT_NAMESPACE) -> Mapping[str, Statement]:
    """Every named statement, with its tables in `namespace`."""
    statements: dict[str, Statement] = {}
    for path in sorted(Path(__file__).parent.glob("*.sql")):
        for name, text in parse(path.read_text(encoding="utf-8")).items():
            if name in statements:
                raise ValueError(f"two SQL statements are named {name}")
            statements[name] = Statement(name, in_namespace(text, namespace), namespace)
    return statements
