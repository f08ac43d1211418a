from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from pgbus.causality import Cause, caused_by
from pgbus.cli.logs import configure_logging


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root, alembic = logging.getLogger(), logging.getLogger("alembic")
    handlers, levels = root.handlers[:], (root.level, alembic.level)
    yield io.StringIO()
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    alembic.setLevel(levels[1])


def fail() -> None:
    password = "s3cret"
    try:
        raise ValueError("no" if password else "yes")
    except ValueError:
        logging.getLogger("shop").exception("it failed", extra={"listener_name": "mailer"})


def test_a_json_line_holds_the_message_and_what_was_given_with_it(stream: io.StringIO) -> None:
    configure_logging(level="info", format="json", stream=stream)
    logging.getLogger("shop").info("sold %s", "a book", extra={"listener_name": "mailer", "position": 7})
    record = json.loads(stream.getvalue())
    assert record.pop("timestamp").endswith("Z")
    assert record == {
        "message": "sold a book",
        "level": "info",
        "logger": "shop",
        "listener_name": "mailer",
        "position": 7,
    }


def test_a_json_line_has_the_trace_and_the_correlation_of_what_is_at_work(stream: io.StringIO) -> None:
    configure_logging(level="info", format="json", stream=stream)
    traceparent = f"00-{'a' * 32}-{'b' * 16}-01"
    with caused_by(Cause(correlation_id="order-7", traceparent=traceparent)):
        logging.getLogger("shop").info("sold")
        logging.getLogger("shop").info("sold", extra={"trace_id": "its own"})
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert (first["trace_id"], first["span_id"], first["correlation_id"]) == ("a" * 32, "b" * 16, "order-7")
    assert second["trace_id"] == "its own"


def test_an_exception_stays_one_json_line(stream: io.StringIO) -> None:
    configure_logging(level="info", format="json", stream=stream)
    fail()
    [line] = stream.getvalue().splitlines()
    assert "s3cret" not in line
    record = json.loads(line)
    assert record["message"] == "it failed"
    assert record["exception"].endswith("ValueError: no")


def test_text_is_plain_outside_of_a_terminal(stream: io.StringIO) -> None:
    configure_logging(level="info", format="text", stream=stream)
    logging.getLogger("shop").warning("sold", extra={"position": 7})
    fail()
    text = stream.getvalue()
    assert "\x1b" not in text
    assert "s3cret" not in text
    assert "sold" in text.splitlines()[0]
    assert "position=7" in text.splitlines()[0]
    assert "ValueError: no" in text


def test_the_level_decides_what_is_logged(stream: io.StringIO) -> None:
    configure_logging(level="warning", format="json", stream=stream)
    logging.getLogger("shop").info("quiet")
    logging.getLogger("shop").warning("loud")
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["loud"]


def test_what_an_error_says_does_not_steer_the_terminal(stream: io.StringIO) -> None:
    configure_logging(stream=stream)
    try:
        raise ValueError("a\x1b]0;x\x07\u202e")
    except ValueError:
        logging.getLogger("shop").exception("failed: %s", "\x9b31m", extra={"key": "\x7f"})
    assert not set(stream.getvalue()) & set("\x1b\x07\u202e\x9b\x7f")
    assert "ValueError: a\\u001b]0;x\\u0007\\u202e" in stream.getvalue()
    assert "Traceback" in stream.getvalue()
