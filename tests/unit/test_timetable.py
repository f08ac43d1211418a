"""Cron expressions and intervals: examples, and what is refused."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from pgbus.errors import InvalidSchedule
from pgbus.schedules.rules import Cron, Every, duration, parse_rule, read_job, zone


def local(text: str) -> datetime:
    """An instant as Berlin's clock shows it; `+` at the end: the second time."""
    return datetime.fromisoformat(text.rstrip("+")).replace(
        tzinfo=zone("Europe/Berlin"), fold=1 if text.endswith("+") else 0
    )


def due(expression: str, after: str, count: int) -> list[str]:
    """The next instants in UTC."""
    cron = Cron(expression, "Europe/Berlin")
    found = [cron.after(local(after).astimezone(UTC))]
    while len(found) < count:
        found.append(cron.after(found[-1]))
    return [f"{one:%m-%d %H:%M}" for one in found]


def test_three_in_the_morning_is_three_by_the_clock_in_summer_and_in_winter() -> None:
    assert due("0 3 * * *", "2026-03-27T12:00", 3) == ["03-28 02:00", "03-29 01:00", "03-30 01:00"]
    assert due("0 3 * * *", "2026-10-23T12:00", 3) == ["10-24 01:00", "10-25 02:00", "10-26 02:00"]


def test_a_time_that_the_clock_skips_in_spring_is_the_first_one_after_it() -> None:
    # At two it is three.
    assert due("30 2 * * *", "2026-03-28T12:00", 2) == ["03-29 01:00", "03-30 00:30"]
    assert due("15,45 2 * * *", "2026-03-28T12:00", 2) == ["03-29 01:00", "03-30 00:15"]


def test_a_time_that_comes_twice_in_autumn_counts_once() -> None:
    assert due("30 2 * * *", "2026-10-24T12:00", 2) == ["10-25 00:30", "10-26 01:30"]
    # Also for a worker that comes up in the second of the two hours.
    assert due("30 2 * * *", "2026-10-25T02:10+", 1) == ["10-26 01:30"]
    assert due("15,45 2 * * *", "2026-10-25T02:20+", 1) == ["10-26 01:15"]


def test_what_runs_each_hour_or_minute_runs_in_both_hours() -> None:
    assert due("30 * * * *", "2026-10-25T01:45", 3) == ["10-25 00:30", "10-25 01:30", "10-25 02:30"]
    assert due("*/30 2 * * *", "2026-10-25T01:45", 4) == ["10-25 00:00", "10-25 00:30", "10-25 01:00", "10-25 01:30"]


@pytest.mark.parametrize(
    ("alias", "expression"),
    [
        ("@yearly", "0 0 1 1 *"), ("@annually", "0 0 1 1 *"), ("@monthly", "0 0 1 * *"), ("@weekly", "0 0 * * 0"),
        ("@daily", "0 0 * * *"), ("@midnight", "0 0 * * *"), ("@Hourly", "0 * * * *"),
        ("  5  4 * *\tmon", "5 4 * * mon"),
    ],
)  # fmt: skip
def test_aliases_and_spaces(alias: str, expression: str) -> None:
    assert Cron(alias).expression == expression


@pytest.mark.parametrize(
    ("expression", "complaint"),
    [
        ("60 * * * *", "minute must be 0 to 59, not 60"),
        ("* 24 * * *", "hour must be 0 to 23, not 24"), ("0 0 0 * *", "day-of-month must be 1 to 31, not 0"),
        ("0 0 * 13 *", "month must be 1 to 12, not 13"), ("0 0 * * 8", "day-of-week must be 0 to 7, not 8"),
        ("a * * * *", "minute must be 0 to 59, not a"),
        ("*/0 * * * *", r"minute must be 0 to 59, not \*/0"),
        ("* * * *", "has 4 fields"), ("* * * * * *", "has 6 fields"),
        ("", "has 1 fields"),
        ("@reboot", "there is no '@reboot'"), ("0 0 31 2 *", "never due"), ("0 0 30 2 *", "never due"),
    ],
)  # fmt: skip
def test_a_wrong_cron_expression_is_refused_by_its_field(expression: str, complaint: str) -> None:
    with pytest.raises(InvalidSchedule, match=complaint):
        Cron(expression)


@pytest.mark.parametrize("timezone", ["Mars/Crater", "", "../UTC", "Europe", "\x00"])
def test_a_time_zone_that_there_is_not_is_refused(timezone: str) -> None:
    with pytest.raises(InvalidSchedule, match="timezone"):
        Cron("@daily", timezone)


@pytest.mark.parametrize("seconds", [0, -1, 1e-7, 1e10, float("nan"), float("inf")])
def test_an_interval_of_nothing_and_one_without_end_are_refused(seconds: float) -> None:
    with pytest.raises(InvalidSchedule):
        Every(duration(seconds=seconds))


@pytest.mark.parametrize(
    "text", ["every x s", "every 0 s", "every 3 to 1 s", "every nan s", "every 1e400 s", "", "x in y"]
)
def test_a_text_that_is_no_rule_is_refused(text: str) -> None:
    with pytest.raises(InvalidSchedule):
        parse_rule(text)


def test_jobs_of_the_schedule_library_are_understood_by_their_attributes() -> None:
    """S10."""
    import schedule

    assert read_job(schedule.every(1).to(3).seconds) == Every(timedelta(seconds=1), timedelta(seconds=3))
    assert read_job(schedule.every().hour) == Every(timedelta(hours=1))
    assert read_job(schedule.every(2).weeks) == Every(timedelta(weeks=2))


def test_jobs_with_a_time_of_day_are_refused_with_what_to_write() -> None:
    import schedule

    for job in (schedule.every().day.at("10:30"), schedule.every().monday):
        with pytest.raises(InvalidSchedule, match=r'schedule\("30 10 \* \* \*"'):
            read_job(job)


@pytest.mark.parametrize("job", [None, 5, SimpleNamespace(unit="seconds", interval="x"), SimpleNamespace(unit=None)])
def test_what_is_no_job_is_refused(job: object) -> None:
    with pytest.raises(InvalidSchedule, match="cron expression"):
        read_job(job)
