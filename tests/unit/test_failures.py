"""How failures are logged: one line for each, with fields, and the traceback once for each kind."""

from __future__ import annotations

import logging

import pytest

from pgbus.handlers.failures import MOST_KINDS, REPEAT_AFTER, Failures, on_one_line


def raised(number: int = 0) -> ValueError:
    try:
        raise ValueError(f"order {number}")
    except ValueError as error:
        return error


def raised_elsewhere() -> ValueError:
    try:
        raise ValueError("order 0")
    except ValueError as error:
        return error


def test_a_kind_is_the_subject_the_type_and_the_line_and_not_the_message() -> None:
    failures = Failures()
    assert failures.is_new("mailer", raised(1), at=0.0)
    assert not failures.is_new("mailer", raised(2), at=1.0)
    assert failures.is_new("mailer", raised_elsewhere(), at=1.0)
    assert failures.is_new("stock", raised(3), at=1.0)
    assert failures.is_new("mailer", ValueError("never raised"), at=1.0)


def test_a_kind_is_new_again_after_ten_minutes() -> None:
    failures = Failures()
    assert failures.is_new("mailer", raised(), at=0.0)
    assert not failures.is_new("mailer", raised(), at=REPEAT_AFTER - 1)
    assert failures.is_new("mailer", raised(), at=REPEAT_AFTER)
    assert not failures.is_new("mailer", raised(), at=REPEAT_AFTER + 1)


def test_the_oldest_kind_is_forgotten_when_there_are_too_many() -> None:
    failures = Failures()
    for number in range(MOST_KINDS + 1):
        assert failures.is_new(f"listener {number}", raised(), at=0.0)
    assert failures.is_new("listener 0", raised(), at=1.0)
    assert not failures.is_new(f"listener {MOST_KINDS}", raised(), at=1.0)


def test_a_failure_is_one_line_with_its_fields_and_the_first_has_the_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    failures = Failures()
    for attempt in (1, 2):
        fields = {"listener_name": "mailer", "attempt": attempt}
        failures.log(logging.WARNING, "mailer", "failed: 100%\n  of it", error=raised(), fields=fields)
    first, second = caplog.records
    assert first.getMessage() == second.getMessage() == "mailer failed: 100% of it"
    assert (first.__dict__["listener_name"], second.__dict__["attempt"]) == ("mailer", 2)
    assert first.exc_info
    assert not second.exc_info


def test_a_logged_traceback_begins_with_the_handler(caplog: pytest.LogCaptureFixture) -> None:
    calling = {"__name__": "pgbus.listeners.executor"}
    exec("def call(handler): handler()", calling)

    def handler() -> None:
        raise ValueError("order 1")

    for call in (calling["call"], lambda of: of()):
        try:
            call(handler)  # type: ignore[operator]
        except ValueError as error:
            trace = error.__traceback__
            assert trace
            error.with_traceback(trace.tb_next)  # without the frame of this test
            Failures().log(logging.WARNING, "mailer", "failed", error=error, fields={})
    inner, outer = (record.exc_info for record in caplog.records)
    assert inner
    assert outer
    assert inner[2]
    assert outer[2]
    assert inner[2].tb_frame.f_code.co_name == "handler"
    assert outer[2].tb_frame.f_code.co_name == "<lambda>"


def test_a_text_is_put_on_one_line() -> None:
    assert on_one_line("no\r\n\n  - a\u2028b\ud800") == "no  - a b\\ud800"


def test_a_traceback_that_no_stream_can_write_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    Failures().log(logging.ERROR, "mailer", "failed", error=ValueError("\ud800"), fields={})
    [record] = caplog.records
    assert record.exc_info is None
