from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pgbus.config.home import find_home
from pgbus.listeners.sharing import (
    Declaration,
    Neighbour,
    find_conflict,
    find_sharing,
    is_outdated,
    subscribed_patterns,
)

LIVE = Neighbour("web-1", "host", 7)
BEGAN = datetime(2025, 1, 1, tzinfo=UTC)


def declared(*patterns: str, age: int = 0, **values: Any) -> Declaration:
    values = {"service": "shop", "home": None, "options": {}, **values}
    return Declaration(patterns=patterns, first_seen_at=BEGAN - timedelta(days=age), **values)


# ---------------------------------------------------------------------------------------------------------------- homes


@pytest.mark.parametrize(
    ("folder", "name", "home"),
    [
        ("/srv/auth_service", "auth_service", "/srv/auth_service"),
        ("/srv/shop/src/shop", "shop", "/srv/shop/src/shop"),
        ("/srv/shop/app", "shop", "/srv/shop"),
        ("/srv/shop/releases/20250131120000", "shop", "/srv/shop"),
        ("/srv/shop/v1.2.3", "shop", "/srv/shop"),
        ("/srv/shop/3f2a9c1", "shop", "/srv/shop"),
        ("/home/ann/shop", "shop", "/home/ann/shop"),
        ("/home/ann/services/mail", "mail", "/home/ann/services/mail"),
        ("/srv/my shop {1}", "my-shop-1", "/srv/my shop {1}"),
        ("/app", "", "/app"),
        ("/usr/src/app", "", "/usr/src/app"),
        ("/home/ann/app", "", "/home/ann/app"),
    ],
)
def test_a_service_is_named_after_the_first_folder_that_says_what_it_is(folder: str, name: str, home: str) -> None:
    found = find_home(Path(folder))
    assert (found.name, found.folder) == (name, home)


@pytest.mark.parametrize("table", ["[project]", "[tool.poetry]"])
def test_a_project_has_its_name_from_itself_and_not_from_its_folder(tmp_path: Path, table: str) -> None:
    (tmp_path / "checkout").mkdir()
    (tmp_path / "checkout" / "pyproject.toml").write_text(f'{table}\nname = "shop"\n')
    (tmp_path / "checkout" / "src").mkdir()
    assert find_home(tmp_path / "checkout" / "src").name == "shop"
    (tmp_path / "checkout" / "pyproject.toml").write_text("[tool.ruff]\n")
    assert find_home(tmp_path / "checkout" / "src").name == "checkout"


# -------------------------------------------------------------------------------------------------------- subscriptions


def test_a_new_version_subscribes_to_what_it_declares() -> None:
    assert subscribed_patterns(declared("a", "b"), [declared("a", "c", age=1)]) == ["a", "b"]


def test_what_a_live_worker_declares_stays_subscribed() -> None:
    assert subscribed_patterns(declared("a"), [declared("a", "c", age=1, worker=LIVE)]) == ["a", "c"]


def test_an_older_version_that_comes_back_takes_nothing_from_the_newest_one() -> None:
    known = [declared("a", age=3), declared("a", "b", age=2), declared("a", "c", age=1)]
    assert subscribed_patterns(declared("a"), known) == ["a", "c"]
    assert subscribed_patterns(declared("a", "b"), known) == ["a", "b", "c"]
    assert subscribed_patterns(declared("a", "c"), known) == ["a", "c"]


def test_the_options_of_a_newer_version_hold_while_a_worker_runs_it() -> None:
    old, new = {"concurrency": 1}, {"concurrency": 9}
    ours, newer = declared("a", options=old), declared("a", options=new, age=1)
    assert is_outdated(ours, [declared("a", options=old, age=2), declared("a", options=new, age=1, worker=LIVE)])
    assert not is_outdated(ours, [declared("a", options=old, age=2), newer])  # rolled back: nobody runs it
    assert not is_outdated(ours, [declared("a", options=new, age=1, worker=LIVE)])  # never seen before: ours is newer
    stranger = declared("a", options=new, age=1, worker=LIVE, service="mail")
    assert not is_outdated(ours, [declared("a", options=old, age=2), stranger])


def test_a_newer_version_that_nobody_has_run_for_long_is_forgotten() -> None:
    known = [declared("a", age=3), declared("a", "b", age=2, is_recent=False)]
    assert subscribed_patterns(declared("a"), known) == ["a"]


def test_what_another_service_declared_and_no_longer_runs_is_dropped() -> None:
    known = [declared("a", age=3), declared("b", age=1, service="mail")]
    assert subscribed_patterns(declared("a"), known) == ["a"]


# -------------------------------------------------------------------------------------------------------------- sharing


@pytest.mark.parametrize(
    ("ours", "theirs", "conflicts"),
    [
        ({}, {}, False),  # a deploy of one service
        ({}, {"service": "mail"}, True),
        ({"home": "/one/shop"}, {"home": "/two/shop"}, True),
        ({"home": "/one/shop"}, {"home": "/one/shop"}, False),
        ({"home": "/one/shop"}, {"home": None}, False),  # the name was given there
    ],
)
def test_only_a_live_worker_of_another_service_bars_a_declaration(
    ours: dict[str, Any], theirs: dict[str, Any], conflicts: bool
) -> None:
    live = declared("b", worker=LIVE, **theirs)
    assert bool(find_conflict(declared("a", **ours), [live])) is conflicts
    assert find_conflict(declared("b", **ours), [live]) is None
    assert bool(find_sharing(declared("b", **ours), [live])) is conflicts
    assert find_conflict(declared("a", **ours), [declared("b", **theirs)]) is None  # nobody runs it


def test_two_versions_of_which_neither_has_all_topics_of_the_other_are_told() -> None:
    live = declared("a", "b", worker=LIVE)
    assert find_sharing(declared("a"), [live]) is None
    assert find_sharing(declared("a", "b", "c"), [live]) is None
    told = find_sharing(declared("a", "c"), [live])
    assert told
    assert told.startswith("web-1 (process 7 on host) runs it for a, b, and this process for a, c; each leaves")
