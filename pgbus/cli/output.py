"""Prints results as tables or JSON, and formats times, ages and numbers."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import NoReturn, TextIO

import msgspec
import rich_click as click
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from pgbus.cli.printable import on_one_line, printable
from pgbus.cli.streams import say
from pgbus.messages import EventMessage
from pgbus.telemetry.figures import duration

# Characters of an error in a list.
LONGEST_ERROR = 500
# Characters: in a pipe nothing is cut off, and nothing wraps.
_PIPE_WIDTH = 1_000_000


class _Console(Console):
    """A console that escapes control characters in everything that it prints."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Return the segments, with control characters escaped before the layout."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)

    def on_broken_pipe(self) -> NoReturn:
        """Raise the error of a closed pipe, where rich would end the program."""
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def console(stream: TextIO | None = None) -> Console:
    """A console on stdout, or on `stream`. In a pipe it writes plain text, each row on one line."""
    target = stream or sys.stdout
    width = None if target.isatty() or "COLUMNS" in os.environ else _PIPE_WIDTH
    # No markup: brackets in a name are part of the name.
    return _Console(file=target, width=width, highlight=False, soft_wrap=False, markup=False, emoji=False)


def print_json(value: object) -> None:
    """Print one JSON object on one line, and flush it, because a reader may wait for it."""
    click.echo(encode_json(value))


def encode_json(value: object) -> str:
    """Return equivalent JSON in which control characters are escaped."""
    return on_one_line(msgspec.json.encode(value).decode())


def note_cut(shown: int, total: int, what: str) -> None:
    """Say on stderr that a list was cut: `50 of 1,125 dead letters; --limit N shows more`."""
    if total > shown:
        say(f"{number(shown)} of {number(total)} {what}; --limit N shows more")


def note_more(is_cut: bool, shown: str) -> None:
    """Say on stderr that there are more, where counting them would take long: `the newest 20 events; ...`."""
    if is_cut:
        say(f"{shown}; --limit N shows more")


def instant(value: datetime | None) -> str:
    """An instant to the second, in UTC."""
    return "" if value is None else f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}"


def ago(then: datetime) -> str:
    """Return the age of an instant, in words."""
    return duration(max(0.0, (datetime.now(UTC) - then).total_seconds()))


def number(value: int) -> str:
    """Format a number with separators between thousands."""
    return f"{value:,}"


def flagged(value: int, style: str) -> Text:
    """Format a number in colour unless it is 0."""
    return Text(number(value), style=style if value else "dim")


def clip(text: str, length: int) -> str:
    """The first line of the text, at most `length` characters of it."""
    line = on_one_line(text.strip().split("\n", 1)[0])
    return line if len(line) <= length else line[: length - 1] + "…"


def stored_json(text: str | None) -> msgspec.Raw | None:
    """Return stored JSON on one line: in JSON, line breaks are only between its parts."""
    return None if text is None else msgspec.Raw(text.replace("\n", " ").replace("\r", " ").encode())


def indented(raw: str) -> str:
    """Return JSON on several lines; unchanged if it nests too deeply for that."""
    try:
        return msgspec.json.format(raw, indent=2)
    except (msgspec.MsgspecError, RecursionError):
        return raw


def event_fields(event: EventMessage) -> dict[str, object]:
    """Return an event as fields of a JSON object, with its payload and headers as stored."""
    return {
        "position": event.position,
        "event_id": event.event_id,
        "topic": event.topic,
        "key": event.key,
        "payload": stored_json(event.raw),
        "headers": stored_json(event.raw_headers),
        "ancestors": event.ancestors,
        "published_at": event.published_at,
        "deliver_at": event.deliver_at,
    }
