"""Python and PostgreSQL agree on which topics a pattern matches, and both agree with the definition."""

from collections.abc import Iterator, Sequence

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgbus.topics import MAX_TOPIC_LENGTH, is_wildcard, matches, pattern_regex
from tests.support import DatabaseServer

# Few words, and ones that regular expressions could mix up, so that patterns often match.
WORDS = st.sampled_from(["a", "b", "ab", "A", "-", "_", "a-b", "0"])
TOPICS = st.lists(WORDS, min_size=1, max_size=5).map(".".join)
PATTERNS = st.lists(WORDS | st.sampled_from(["*", "**"]), min_size=1, max_size=5).map(".".join)


def defined_to_match(pattern: Sequence[str], topic: Sequence[str]) -> bool:
    """The definition: `*` is one word, `**` any number of words, anything else itself."""
    match pattern:
        case []:
            return not topic
        case ["**", *rest]:
            return any(defined_to_match(rest, topic[count:]) for count in range(len(topic) + 1))
        case [word, *rest]:
            return bool(topic) and word in ("*", topic[0]) and defined_to_match(rest, topic[1:])
    raise AssertionError(pattern)


@pytest.fixture(scope="module")
def connection(server: DatabaseServer) -> Iterator[psycopg.Connection]:
    with psycopg.connect(server.dsn, autocommit=True) as opened:
        yield opened


@given(pattern=PATTERNS, topic=TOPICS)
def test_python_matches_what_the_definition_says(pattern: str, topic: str) -> None:
    assert matches(pattern, topic) == defined_to_match(pattern.split("."), topic.split("."))


@given(pattern=PATTERNS, topics=st.lists(TOPICS, min_size=1, max_size=20))
def test_postgresql_matches_what_python_matches(
    connection: psycopg.Connection, pattern: str, topics: list[str]
) -> None:
    rows = connection.execute(
        "SELECT topic = %s OR (%s AND (topic || '.') ~ %s) FROM unnest(%b::text[]) AS topic",
        (pattern, is_wildcard(pattern), pattern_regex(pattern), topics),
    )
    assert [row[0] for row in rows] == [matches(pattern, topic) for topic in topics]


@given(topic=st.lists(WORDS, min_size=1, max_size=100).map(".".join))
def test_a_topic_matches_itself_and_the_pattern_for_everything(topic: str) -> None:
    topic = topic[:MAX_TOPIC_LENGTH].rstrip(".")
    assert matches(topic, topic)
    assert matches("**", topic)
    assert matches(".".join("*" for _ in topic.split(".")), topic)
