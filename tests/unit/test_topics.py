"""Topics and patterns."""

import pytest

from pgbus.errors import InvalidEventError
from pgbus.topics import (
    MAX_TOPIC_LENGTH,
    REMEMBERED_TOPICS,
    ByTopic,
    check_pattern,
    check_topic,
    is_wildcard,
    matches,
    pattern_regex,
)


@pytest.mark.parametrize("topic", ["a", "orders.placed", "Orders.v2.EU-west_1", "-", "_._", "0", "a" * 255])
def test_words_joined_by_dots_are_a_topic(topic: str) -> None:
    assert check_topic(topic) == topic


@pytest.mark.parametrize(
    "topic",
    ["", ".", "a.", ".a", "a..b", "a b", "a\n", "ä", "a.*", "**", "a/b", "a:b", "a\x00", "a" * (MAX_TOPIC_LENGTH + 1)],
)
def test_a_malformed_topic_is_refused(topic: str) -> None:
    with pytest.raises(InvalidEventError) as refused:
        check_topic(topic)
    assert refused.value.field == "topic"


@pytest.mark.parametrize("pattern", ["a", "orders.placed", "*", "**", "orders.*", "*.placed", "a.**.b", "**.*.**"])
def test_a_pattern_is_a_topic_with_wildcards_for_words(pattern: str) -> None:
    assert check_pattern(pattern) == pattern


@pytest.mark.parametrize("pattern", ["", "a*", "***", "a.*b", "a..b", "a.**c", ".*", "a." * 127 + "**" + "a"])
def test_a_wildcard_stands_for_whole_words_only(pattern: str) -> None:
    with pytest.raises(InvalidEventError) as refused:
        check_pattern(pattern)
    assert refused.value.field == "pattern"


@pytest.mark.parametrize(
    ("pattern", "topic"),
    [
        ("orders.placed", "orders.placed"),
        ("orders.*", "orders.placed"),
        ("*.placed", "orders.placed"),
        ("*", "orders"),
        ("**", "orders"),
        ("**", "orders.eu.placed"),
        ("orders.**", "orders"),
        ("orders.**", "orders.eu.placed"),
        ("**.placed", "placed"),
        ("orders.**.placed", "orders.placed"),
        ("orders.**.placed", "orders.eu.west.placed"),
        ("orders.*.**", "orders.eu"),
        ("**.orders.**", "a.orders.b"),
    ],
)
def test_a_pattern_matches(pattern: str, topic: str) -> None:
    assert matches(pattern, topic)


@pytest.mark.parametrize(
    ("pattern", "topic"),
    [
        ("orders.placed", "orders.paid"),
        ("orders.placed", "orders.placed.twice"),
        ("orders.placed", "ordersXplaced"),
        ("orders.*", "orders"),
        ("orders.*", "orders.eu.placed"),
        ("orders.**", "order"),
        ("orders.**", "ordersX.placed"),
        ("*", "orders.placed"),
        ("**.placed", "orders.replaced"),
        ("orders.*.**", "orders"),
        ("orders", "Orders"),
    ],
)
def test_a_pattern_does_not_match(pattern: str, topic: str) -> None:
    assert not matches(pattern, topic)


def test_only_patterns_with_a_star_are_wildcards() -> None:
    assert is_wildcard("orders.*")
    assert is_wildcard("**")
    assert not is_wildcard("orders.placed")


def test_a_regex_is_of_a_checked_pattern() -> None:
    with pytest.raises(InvalidEventError):
        pattern_regex("orders.pla*")


def test_what_is_kept_by_topic_is_forgotten_when_there_are_too_many() -> None:
    kept: ByTopic[str, int] = ByTopic()
    for number in range(REMEMBERED_TOPICS + 1):
        kept[f"user.u{number}.moved"] = number
    assert kept == {f"user.u{REMEMBERED_TOPICS}.moved": REMEMBERED_TOPICS}
