"""The names of pgbus that the pages write between backticks: each is in the code, the program or the database."""

from __future__ import annotations

import ast
import builtins
import inspect
import re
import sys
import typing
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import click
import pytest

import pgbus
import pgbus.contrib.litestar
import pgbus.testing
import pytest_pgbus
from pgbus.cli.program import COMMANDS, load
from pgbus.cli.program import pgbus as program
from pgbus.config.settings import Config
from pgbus.contrib.lihil.event_bus import PgEventBus
from pgbus.listeners.listener import ListenerOptions
from pgbus.messages import PublishOptions
from pgbus.rpc.calls import CallOptions
from tests.examples.documents import PAGES, name
from tests.support import ROOT

pages = pytest.mark.parametrize(
    "page", [one for one in PAGES if one.parent.name != "decisions"], ids=name
)  # a decision may name what is gone
guides = pytest.mark.parametrize("page", sorted((ROOT / "docs" / "how-to").glob("from-*.md")), ids=name)

OF_PGBUS = re.compile(r"@?(?:raise |await |async with )?(?:pgbus|bus)\b")
BUS = pgbus.create("postgresql://nobody@nowhere/")
# APIs of examples, whose methods are paths on the bus.
EXAMPLES = {"api", "auth", "internal"}
FILES = {"pgbus.toml", "pgbus.yaml", "pgbus.yml", "bus.py", "listeners.py"}
OPTIONS = {
    *(key for options in (PublishOptions, ListenerOptions, CallOptions, Config) for key in options.__annotations__),
    *(
        key
        for function in (
            pgbus.RetryPolicy,
            BUS.listener,
            BUS.publish,
            BUS.call,
            BUS.procedure,
            BUS.client.schedule,
            BUS.client.every,
        )
        for key in inspect.signature(function).parameters
    ),
}
# Where a bare name may be.
PLACES: tuple[object, ...] = (
    pgbus, pgbus.Bus, pgbus.Context, pgbus.EventMessage, pgbus.Cause, BUS.client, pgbus.testing, pgbus.contrib.litestar,
    pytest_pgbus, builtins,
)  # fmt: skip
# What the column of pgbus names of other libraries: Django's, Litestar's, RQ's.
OTHERS = {"get_result", "event_emitter_backend", "ttl", "OutOfStock"}


def spans(text: str) -> list[str]:
    """What stands between backticks, outside of blocks."""
    plain = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", plain)]


def names_of_pgbus(page: Path) -> list[str]:
    text = page.read_text(encoding="utf-8")
    if "from-" in page.name or page.name == "configuration.md":  # first cells of tables hold names of other libraries
        text = re.sub(r"^\| .*? \| ", "", text, flags=re.MULTILINE)
    return [span for span in spans(text) if OF_PGBUS.match(span)]


@pages
def test_a_name_of_pgbus_exists(page: Path) -> None:
    assert [span for span in names_of_pgbus(page) if not exists(span)] == []


def exists(span: str) -> bool:
    if span in FILES or (ROOT / span.partition("*")[0]).exists() or re.fullmatch(r"pgbus(\[.*\]|:|\.)", span):
        return True
    if re.match(r"pgbus( |$)", span):
        return is_command(span.split()[1:])
    if (word := re.fullmatch(r"pgbus\.(\w+)(?:\(.*\))?", span)) and word[1] in in_database():
        return True
    return f'"{span}"' in sources() or is_module(span) or is_expression(span)


@cache
def schema() -> str:
    """The schema that the migrations produce, in SQL."""
    return (ROOT / "tests" / "migrations" / "schema.sql").read_text(encoding="utf-8")


@cache
def in_database() -> set[str]:
    """Its tables, views, functions and types."""
    return set(re.findall(r"^CREATE (?:[A-Z]+ )+pgbus\.(\w+)", schema(), re.MULTILINE))


@cache
def sources() -> str:
    """All code of pgbus, in which attributes of spans and the like are strings."""
    return "".join(path.read_text(encoding="utf-8") for path in (ROOT / "pgbus").rglob("*.py"))


def is_module(span: str) -> bool:
    try:
        return re.fullmatch(r"[\w.]+", span) is not None and find_spec(span) is not None
    except ModuleNotFoundError:
        return False


def is_command(words: list[str]) -> bool:
    """Whether a line calls commands and options of the program; what is in capitals stands for a value."""
    words = words[: words.index("|")] if "|" in words else words
    command: click.Command = program
    context = click.Context(command)
    while isinstance(command, click.Group) and words and re.fullmatch(r"[a-z][a-z-]*", words[0]):
        if command is program and words[0] in COMMANDS:
            load(words[0])
        if (inner := command.get_command(context, words[0])) is None:
            return False
        command, words, context = inner, words[1:], click.Context(inner, parent=context)
    options = {option for one in command.get_params(context) for option in (*one.opts, *one.secondary_opts)}
    return all(word in options for word in words if word.startswith("--"))


def is_expression(span: str) -> bool:
    """Whether each name of a Python expression, and each keyword of its calls, is there."""
    source = re.sub(r"^(raise |await |async with |@)+", "", span)
    try:
        [statement] = ast.parse(source).body
    except SyntaxError:
        return False
    if isinstance(statement, ast.ImportFrom):
        return all(hasattr(import_module(statement.module or ""), one.name) for one in statement.names)
    value = statement.value if isinstance(statement, ast.Expr | ast.Assign) else None
    try:
        return value is not None and found(value) is not None
    except (AttributeError, ImportError, KeyError, StopIteration, TypeError):
        return False


def found(node: ast.expr) -> Any:
    """The object that an expression names; raises an error if a part of it does not exist."""
    match node:
        case ast.Name(id="bus"):
            return BUS
        case ast.Name(id="context"):
            return pgbus.Context
        case ast.Name(id="pgbus"):
            return pgbus
        case ast.Name(id=word) if word in sys.stdlib_module_names:
            return __import__(word)
        case ast.Name(id=word):
            return next(getattr(place, word) for place in PLACES if word in dir(place))
        case ast.Call(func=function, keywords=keywords):
            called = found(function)
            for keyword in keywords:
                if keyword.arg not in taken_by(called):
                    raise KeyError(keyword.arg)
            return called
        case ast.Attribute(value=ast.Name(id="bus"), attr=word) if word in EXAMPLES or word[0].isupper():
            return pgbus.BusPath  # an API of an example, or a class of its module `bus`
        case ast.Attribute(value=inner, attr=word):
            return member(found(inner), word)
    raise TypeError(node)


def member(owner: Any, word: str) -> Any:
    """An attribute by its name; a bus itself and a path have every attribute that one asks for."""
    if owner is pgbus.BusPath:
        return owner
    if inspect.ismodule(owner):
        return getattr(owner, word) if hasattr(owner, word) else resolve_name(f"{owner.__name__}.{word}")
    kind = owner if isinstance(owner, type) else type(owner)
    if kind is owner:
        hints = typing.get_type_hints(kind)
        value = hints[word] if word in hints else getattr(kind, word)
        return typing.get_type_hints(value.fget).get("return") if isinstance(value, property) else value
    if hasattr(kind, word) or word in getattr(owner, "__dict__", ()):
        return getattr(owner, word) if owner is BUS else inspect.getattr_static(owner, word)
    if kind is type(BUS) and hasattr(PgEventBus, word):
        return getattr(PgEventBus, word)
    raise AttributeError(word)


def taken_by(called: Any) -> set[str]:
    parameters = list(inspect.signature(called).parameters.values())
    if called == BUS.publish:  # or Lihil's bus
        parameters += inspect.signature(PgEventBus.publish).parameters.values()
    open_ended = any(one.kind is one.VAR_KEYWORD for one in parameters)
    return {one.name for one in parameters} | (OPTIONS if open_ended else set())


@guides
def test_a_word_in_the_column_of_pgbus_exists(page: Path) -> None:
    rows = [
        line.strip("| ").split(" | ") for line in page.read_text(encoding="utf-8").splitlines() if line[:3] == "| `"
    ]
    words = [span for row in rows for span in spans(row[1]) if not OF_PGBUS.match(span)]
    assert [word for word in words if not is_word(word)] == []


def is_word(word: str) -> bool:
    """Whether it is an option, a keyword with its value, a column, a command below another one, or an expression."""
    if word.startswith("--"):
        return is_command(["run", *word.split()])
    key, _, value = word.partition("=")
    if key in OPTIONS and (not value or value[0].islower() or value[0] in '"T' or is_expression(value)):
        return True
    if key in OTHERS | FILES or f'"{word}"' in sources() or f" {word} " in schema():
        return True
    if word == "**":
        return True
    if re.fullmatch(r"[a-z-]+", word) and any(
        is_command([group, word]) for group in ("schedules", "listeners", "dead")
    ):
        return True
    return is_expression(word)


@pytest.mark.parametrize(
    "span",
    [
        "pgbus.Contxt", "pgbus.contrib.pyramid", "pgbus.event_histories", "pgbus listeners halt",
        "pgbus run --process 2", "bus.publish_all(event)",
        "bus.publish(event, when=...)", "@bus.client.every(fortnights=1)",
        "pgbus.create(dsm=...)", "pgbus/api/nobody.py", "bus.schema.load_all()", "raise pgbus.Dead(because=1)",
    ],
)  # fmt: skip
def test_a_name_that_does_not_exist_is_found(span: str) -> None:
    assert OF_PGBUS.match(span)
    assert not exists(span)


@pytest.mark.parametrize(
    "word", ["dedupe_key", "--listeners", "RetryPolicy(max_tries=3)", "order=True", "Retries", "halt"]
)
def test_a_word_that_does_not_exist_is_found(word: str) -> None:
    assert not is_word(word)
