"""When schedules are due: laws of the rules, and what becomes of missed runs."""

from datetime import UTC, datetime, timedelta
from typing import get_args

from hypothesis import assume, given
from hypothesis import strategies as st

from pgbus.errors import InvalidSchedule
from pgbus.schedules.rules import (
    MAX_MISSED,
    PUNCTUAL,
    Cron,
    Every,
    Missed,
    Rule,
    Turn,
    parse_rule,
    take_turn,
    zone,
)

ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "Africa/Casablanca")

instants = st.timedeltas(timedelta(0), timedelta(days=36_500)).map(lambda age: datetime(1990, 1, 1, tzinfo=UTC) + age)
intervals = st.timedeltas(timedelta(milliseconds=1), timedelta(days=400))


def field(low: int, high: int) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    return st.one_of(
        st.just("*"),
        number.map(str),
        st.integers(1, high).map(lambda step: f"*/{step}"),
        st.tuples(number, number).map(lambda pair: f"{min(pair)}-{max(pair)}"),
        st.lists(number, min_size=2, max_size=4).map(lambda some: ",".join(map(str, some))),
    )


expressions = st.tuples(field(0, 59), field(0, 23), field(1, 28), field(1, 12), field(0, 7)).map(" ".join)
crons = st.builds(Cron, expressions, st.sampled_from(ZONES))
every = st.builds(Every, intervals)
random_every = st.tuples(intervals, intervals).map(lambda pair: Every(min(pair), max(pair)))
rules: st.SearchStrategy[Rule] = st.one_of(every, random_every, crons)
# So long ago that hundreds of runs were missed, or only just.
lateness = st.one_of(st.timedeltas(timedelta(0), timedelta(minutes=5)), st.timedeltas(timedelta(0), timedelta(days=60)))


@given(rules)
def test_a_rule_is_what_its_text_says(rule: Rule) -> None:
    assert parse_rule(str(rule)) == rule


@given(rules, instants)
def test_the_next_run_is_later(rule: Rule, instant: datetime) -> None:
    assert rule.after(instant) > instant


@given(crons, instants)
def test_a_cron_run_is_at_a_full_minute_of_its_own_clock_and_none_lies_between(cron: Cron, instant: datetime) -> None:
    first = cron.after(instant)
    assert first.astimezone(zone(cron.timezone)).second == 0
    assert cron.after(instant + (first - instant) / 2) == first


@given(every, instants, lateness)
def test_an_interval_goes_on_in_its_rhythm(rule: Every, due_at: datetime, late: timedelta) -> None:
    following = rule.resume(due_at, due_at + late)
    assert (following - due_at) % rule.interval == timedelta(0)
    assert due_at + late < following <= due_at + late + rule.interval


@given(rules, instants, lateness, st.sampled_from(get_args(Missed)), st.booleans())
def test_a_turn_moves_on(rule: Rule, due_at: datetime, late: timedelta, missed: Missed, again: bool) -> None:
    turn = take_turn(rule, missed=missed, due_at=due_at, now=due_at + late, again=again)
    assert due_at <= turn.due_at <= due_at + late
    assert turn.next_run_at > turn.due_at
    assert turn.runs or (missed == "skip" and not again)
    if missed != "all":
        assert turn.due_at == due_at
        assert turn.next_run_at > due_at + late


@given(rules, instants, lateness)
def test_of_missed_runs_one_is_made_up_for(rule: Rule, due_at: datetime, late: timedelta) -> None:
    turns = play(rule, "once", due_at, due_at + late)
    assert [turn.due_at for turn in turns] == [due_at]
    assert turns[0].runs


@given(rules, instants, lateness)
def test_missed_runs_are_left_out(rule: Rule, due_at: datetime, late: timedelta) -> None:
    assume(late > PUNCTUAL)
    assert [turn.runs for turn in play(rule, "skip", due_at, due_at + late)] == [False]


@given(st.one_of(every, crons), instants, st.integers(0, 2 * MAX_MISSED))
def test_each_missed_run_is_made_up_for_in_turn_but_for_the_oldest(rule: Rule, due_at: datetime, missed: int) -> None:
    due_at = rule.after(due_at)
    expected = [due_at]
    for _ in range(missed):
        expected.append(rule.after(expected[-1]))
    now = expected[-1] + (rule.after(expected[-1]) - expected[-1]) / 2
    turns = play(rule, "all", due_at, now)
    assert [turn.due_at for turn in turns] == expected[-MAX_MISSED:]


@given(rules, instants, st.sampled_from(get_args(Missed)))
def test_a_punctual_run_always_runs(rule: Rule, due_at: datetime, missed: Missed) -> None:
    late = min(PUNCTUAL, rule.after(due_at) - due_at) / 2
    turn = take_turn(rule, missed=missed, due_at=due_at, now=due_at + late)
    assert turn.runs
    if not isinstance(rule, Every) or rule.up_to is None:
        assert turn.next_run_at == rule.after(due_at)


@given(rules, instants, lateness, st.sampled_from(get_args(Missed)))
def test_a_run_that_broke_off_is_not_missed(rule: Rule, due_at: datetime, late: timedelta, missed: Missed) -> None:
    turn = take_turn(rule, missed=missed, due_at=due_at, now=due_at + late, again=True)
    assert turn.runs
    assert turn.due_at == due_at


@given(st.text(max_size=20), st.sampled_from(("UTC", "Europe/Berlin", "", "Mars/Crater", "../etc/passwd")))
def test_whatever_is_no_rule_is_an_invalid_schedule(text: str, timezone: str) -> None:
    for rule_text in (f"{text} in {timezone}", text, f"every {text} s"):
        try:
            rule = parse_rule(rule_text)
        except InvalidSchedule:
            continue
        assert parse_rule(str(rule)) == rule


@given(st.lists(st.text("0123456789*/,-LW#MON@", max_size=5), min_size=5, max_size=5))
def test_whatever_looks_like_cron_is_a_rule_or_an_invalid_schedule(fields: list[str]) -> None:
    try:
        rule = Cron(" ".join(fields))
    except InvalidSchedule:
        return
    assert rule.after(datetime(2024, 1, 1, tzinfo=UTC)) > datetime(2024, 1, 1, tzinfo=UTC)


def play(rule: Rule, missed: Missed, due_at: datetime, now: datetime) -> list[Turn]:
    """The turns that a worker takes which comes up at `now`, until nothing is due."""
    turns = []
    while due_at <= now:
        turns.append(take_turn(rule, missed=missed, due_at=due_at, now=now))
        due_at = turns[-1].next_run_at
    return turns
