import asyncio
from asyncio.subprocess import Process
from types import SimpleNamespace
from typing import cast

import pytest

from tests.support import eventually
from tests.support.programs import Talking


async def test_eventually_returns_the_first_true_answer() -> None:
    answers = iter([None, 0, "yes", "too late"])
    assert await eventually(lambda: next(answers)) == "yes"


async def test_eventually_awaits_an_async_predicate_and_reports_its_last_answer() -> None:
    async def stays_empty() -> list[int]:
        return []

    with pytest.raises(AssertionError, match=r"stays_empty did not come true within 0.05 s; its last answer was \[\]"):
        await eventually(stays_empty, 0.05)


async def test_eventually_says_what_it_waited_for() -> None:
    with pytest.raises(AssertionError, match="no event came within"):
        await eventually(lambda: False, 0.05, message="no event came")


async def test_the_last_lines_of_a_program_count_though_its_end_is_known_before_them() -> None:
    child = SimpleNamespace(stdout=asyncio.StreamReader(), stderr=asyncio.StreamReader(), returncode=0)
    one = Talking(cast("Process", child))
    listening, saying = asyncio.create_task(one.listen()), asyncio.create_task(one.says("ready"))
    await asyncio.sleep(0)  # it has looked once
    child.stdout.feed_data(b"ready\n")
    for stream in (child.stdout, child.stderr):
        stream.feed_eof()
    assert await saying == ["ready"]
    await listening
    with pytest.raises(AssertionError, match="did not say 'more'"):
        await one.says("more")
