"""Logging of the command line: records of pgbus and of handlers, as text or JSON.

The library itself uses only the standard library's logging, which an embedding program configures itself.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import TextIO

import structlog

from pgbus.causality import current_cause
from pgbus.cli.printable import printable
from pgbus.config import LogFormat, LogLevel


def configure_logging(
    *,
    level: LogLevel = "info",
    format: LogFormat = "text",  # noqa: A002 - the word for it
    stream: TextIO | None = None,
) -> None:
    """Send the root logger's records to `stream` (stderr), one line each, replacing its handlers."""
    target = stream or sys.stderr
    handler = logging.StreamHandler(target)
    handler.setFormatter(_formatter(format, colors=target.isatty() and "NO_COLOR" not in os.environ))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # Alembic logs the work of its own parts, which does not concern an operator of a worker.
    logging.getLogger("alembic").setLevel(max(root.level, logging.WARNING))


def _formatter(format: LogFormat, *, colors: bool) -> logging.Formatter:  # noqa: A002 - the word for it
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_renderers(format, colors=colors)],
    )


def _renderers(format: LogFormat, *, colors: bool) -> list[structlog.typing.Processor]:  # noqa: A002 - the word for it
    match format:
        case "json":
            return [
                _add_trace,
                structlog.processors.format_exc_info,  # text, not frames with their local variables: some are secrets
                structlog.processors.EventRenamer("message"),
                structlog.processors.JSONRenderer(default=str),
            ]
        case "text":
            plain = structlog.dev.plain_traceback
            return [
                structlog.processors.format_exc_info,
                _make_printable,
                structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain, pad_event_to=0),
            ]


def _add_trace(_: object, __: str, record: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Add `trace_id`, `span_id` and `correlation_id` of the event, call or run at work, unless the record has them."""
    if cause := current_cause():
        _, trace_id, span_id, _ = cause.traceparent.split("-", 3)
        for name, value in (("trace_id", trace_id), ("span_id", span_id), ("correlation_id", cause.correlation_id)):
            record.setdefault(name, value)
    return record


def _make_printable(_: object, __: str, record: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Return a value for JSON: an error's text, which may contain a payload, made printable; other values by their
    repr.
    """
    return {key: printable(value) if isinstance(value, str) else value for key, value in record.items()}
