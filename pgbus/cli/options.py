"""Options that many commands share, and how the text of an option becomes a value."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import msgspec
import rich_click as click

from pgbus.admin import Admin, Condition
from pgbus.cli.exits import USAGE
from pgbus.cli.global_options import load_config
from pgbus.cli.group import fail
from pgbus.cli.output import console, print_json
from pgbus.errors import InvalidEventError
from pgbus.topics import check_pattern

_T = TypeVar("_T")
_Command = TypeVar("_Command", bound=Callable[..., Any])

_SPAN = r"(\d+(?:\.\d+)?)\s*([smhdw])"
_AGO = re.compile(rf"{_SPAN}(?:\s+ago)?")
_AHEAD = re.compile(rf"(?:in\s+)?{_SPAN}")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def with_admin(action: Callable[[Admin], Awaitable[_T]]) -> _T:
    """Connect an Admin, run an action on it, and return its result."""
    config = load_config()

    async def connected() -> _T:
        async with Admin.connect(config) as admin:
            return await action(admin)

    return asyncio.run(connected())


def say_done(verb: str, name: str, *, as_json: bool, **more: object) -> None:
    """Print what was changed: `paused mailer`, or the same as a JSON object, which also has `more`."""
    if as_json:
        print_json({verb: name, **more})
    else:
        console().print(f"{verb} {name}", soft_wrap=True)


def confirm(question: str) -> None:
    """Ask the person at the terminal; end the program where the answer is no, or where there is nobody to ask."""
    if not sys.stdin.isatty():
        fail("there is no terminal to ask at: give --yes", code=USAGE)
    if not click.confirm(question, err=True):
        fail("nothing was changed")


class Seconds(click.FloatRange):
    """An option that takes a duration; `name` is the option's name in error messages."""

    name = "number of seconds"


class Count(click.IntRange):
    """An option that takes a whole number."""

    name = "whole number"


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, one object per line.")
key_option = click.option("--key", help="Only of events with this key.")
error_option = click.option(
    "--error", metavar="TEXT", help="Only with TEXT in the error, in any case, or of this group of `dead summary`."
)


def limit_option(default: int) -> Callable[[_Command], _Command]:
    """`--limit N`, of a list that is cut."""
    return click.option("--limit", type=Count(min=1), default=default, show_default=True, help="Show at most N.")


def period_options(what: str) -> Callable[[_Command], _Command]:
    """`--since` and `--until`, compared with the instant at which something was `what`: logged, dead."""

    def add(command: _Command) -> _Command:
        until = click.option("--until", type=read_past, metavar="INSTANT", help=f"{what} before this time.")
        since = click.option(
            "--since", type=read_past, metavar="INSTANT", help=f"{what} at or after this time: 2025-01-31T12:00, or 2h."
        )
        return since(until(command))

    return add


def read_past(text: str) -> datetime:
    """An instant of the past, from ISO 8601 (UTC without an offset) or an age: `90s`, `10m`, `2h`, `7d`."""
    return _instant(text, _AGO, sign=-1, relative="an age such as 90s, 10m, 2h, 7d")


def read_future(text: str) -> datetime:
    """A future instant, from ISO 8601 (UTC without an offset) or a time from now: `90s`, `2h`, `in 7d`."""
    return _instant(text, _AHEAD, sign=1, relative="a time from now such as 90s, 10m, 2h, 7d")


def _instant(text: str, span: re.Pattern[str], *, sign: int, relative: str) -> datetime:
    try:
        if found := span.fullmatch(text.strip()):
            return datetime.now(UTC) + sign * timedelta(**{_UNITS[found[2]]: float(found[1])})
        instant = datetime.fromisoformat(text)
    except OverflowError:
        raise click.BadParameter(f"{text!r} is beyond the years 1 to 9999") from None
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is not a time: use ISO 8601, such as 2025-01-31T12:00, or {relative}"
        ) from None
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)


def read_pattern(text: str) -> str:
    """An option that takes a topic or a pattern."""
    try:
        return check_pattern(text)
    except InvalidEventError as error:
        raise click.BadParameter(error.reason) from None


def read_pair(text: str) -> tuple[str, str]:
    """An option that takes a name and a value as NAME=VALUE."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise click.BadParameter(f"{text!r} is not NAME=VALUE")
    return name, value


def read_json(text: str) -> object:
    """A JSON value from its text, or from stdin if the text is `-`."""
    try:
        return msgspec.json.decode(sys.stdin.read() if text == "-" else text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise click.BadParameter(f"not JSON: {error}") from None


def read_condition(text: str) -> Condition:
    """An option that takes a condition on the payload as PATH OP VALUE."""
    try:
        return Condition.parse(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
