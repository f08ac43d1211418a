"""Topics and patterns: dotted names, and how a pattern with wildcards matches them.

A topic is one or more words of ASCII letters, digits, `_` and `-`, joined by dots: `orders.placed`.
In a pattern, `*` stands for exactly one word and `**` for any number of words, none included:
`orders.*` matches `orders.placed`; `orders.**` matches `orders`, `orders.placed` and `orders.eu.placed`.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TypeVar

from pgbus.errors import InvalidEventError

MAX_TOPIC_LENGTH = 255
REMEMBERED_TOPICS = 10_000

K = TypeVar("K")
V = TypeVar("V")

_WORD = "[A-Za-z0-9_-]+"
TOPIC = re.compile(rf"{_WORD}(?:\.{_WORD})*", re.ASCII)
_PATTERN_WORD = re.compile(rf"{_WORD}|\*|\*\*", re.ASCII)


@lru_cache(maxsize=4096)
def check_topic(topic: str) -> str:
    """Return `topic`, or raise InvalidEventError saying what a topic looks like."""
    if len(topic) > MAX_TOPIC_LENGTH:
        raise InvalidEventError("topic", f"at most {MAX_TOPIC_LENGTH} characters are allowed, this has {len(topic)}")
    if not TOPIC.fullmatch(topic):
        raise InvalidEventError(
            "topic",
            f"{topic!r} is not a topic: words of letters, digits, '_' and '-' joined by dots, as in 'orders.placed'",
        )
    return topic


class ByTopic(dict[K, V]):
    """Answers by topic, kept for the next events of each: for 10,000 topics, then it forgets all of them.

    A publisher may make up a topic for each event, as in `user.<id>.moved`, and what remembered all of them would grow
    for as long as its process lives.
    """

    def __setitem__(self, topic: K, found: V) -> None:
        if len(self) >= REMEMBERED_TOPICS:
            self.clear()
        super().__setitem__(topic, found)


def check_pattern(pattern: str) -> str:
    """Return `pattern`, or raise InvalidEventError saying what a pattern looks like."""
    words = pattern.split(".")
    if len(pattern) > MAX_TOPIC_LENGTH or not all(_PATTERN_WORD.fullmatch(word) for word in words):
        raise InvalidEventError(
            "pattern",
            f"{pattern!r} is not a pattern: a topic in which a whole word may be '*' or '**', as in 'orders.*'",
        )
    return pattern


def is_wildcard(pattern: str) -> bool:
    """Whether the pattern can match more than one topic."""
    return "*" in pattern


def pattern_regex(pattern: str) -> str:
    """A regular expression for Python and PostgreSQL alike that matches `topic + "."` for the pattern's topics.

    The dot at the end gives every word the same shape, so that `**` may stand anywhere.
    """
    return "^" + "".join(_word_regex(word) for word in check_pattern(pattern).split(".")) + "$"


def _word_regex(word: str) -> str:
    match word:
        case "**":
            return rf"({_WORD}\.)*"
        case "*":
            return rf"{_WORD}\."
        case _:
            return rf"{word}\."


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern_regex(pattern), re.ASCII)


def matches(pattern: str, topic: str) -> bool:
    """Whether `topic` falls under `pattern`."""
    return pattern == topic or (is_wildcard(pattern) and _compiled(pattern).match(topic + ".") is not None)


def split_name(name: str) -> tuple[str, str]:
    """The API of a dotted name, empty for one without a dot, and its last word: of `shop.orders.placed`, `placed`."""
    api_name, _, word = name.rpartition(".")
    return api_name, word


def is_private(name: str) -> bool:
    """Whether a word of the name begins with an underscore, so that no path on a bus can spell it."""
    return any(word.startswith("_") for word in name.split("."))
