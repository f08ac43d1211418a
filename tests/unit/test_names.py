import re
from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgbus.admin import Names

AMONG = ("orders", "my.seen", "my.api.seen", "my.api.left", "mine.seen", "my.a.b.seen", "internal.state.ping")

names = st.lists(st.text("ab_-", min_size=1, max_size=3), min_size=1, max_size=4).map(".".join)
api_globs = st.text("ab_-.*?", min_size=1, max_size=5)
word_globs = st.text("ab_-*?", min_size=1, max_size=4)


def found(wanted: Names, *among: str) -> list[str]:
    regex = wanted.regex()
    return [name for name in among if regex is None or re.search(regex, name)]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Names(), [*AMONG]),
        (Names(apis=("my",)), ["my.seen"]),
        (Names(apis=("my.*",)), ["my.api.seen", "my.api.left", "my.a.b.seen"]),
        (Names(apis=("my*",)), ["my.seen", "my.api.seen", "my.api.left", "my.a.b.seen"]),
        (Names(apis=("m?ne", "my.a.b")), ["mine.seen", "my.a.b.seen"]),
        (Names(words=("seen",)), ["my.seen", "my.api.seen", "mine.seen", "my.a.b.seen"]),
        (Names(words=("l*", "o*")), ["orders", "my.api.left"]),
        (Names(apis=("my.api",), words=("le?t",)), ["my.api.left"]),
        (Names(apis=("m.*",)), []),
        (Names(apis=("my.api.seen",)), []),
        (Names(hidden=("internal", "internal.*")), [*AMONG[:-1]]),
        (Names(apis=("*",), hidden=("internal.*", "my.*")), ["my.seen", "mine.seen"]),
    ],
)
def test_names_are_found_by_globs(wanted: Names, expected: list[str]) -> None:
    assert found(wanted, *AMONG) == expected


@given(
    name=names,
    apis=st.lists(api_globs, max_size=2),
    words=st.lists(word_globs, max_size=2),
    hidden=st.lists(api_globs, max_size=1),
)
def test_a_glob_means_what_it_means_in_file_names(
    name: str, apis: list[str], words: list[str], hidden: list[str]
) -> None:
    api, dot, word = name.rpartition(".")
    fits = (
        (not apis or (bool(dot) and any(fnmatchcase(api, glob) for glob in apis)))
        and (not words or any(fnmatchcase(word, glob) for glob in words))
        and not (dot and any(fnmatchcase(api, glob) for glob in hidden))
    )
    wanted = Names(apis=tuple(apis), words=tuple(words), hidden=tuple(hidden))
    assert found(wanted, name) == ([name] if fits else [])
