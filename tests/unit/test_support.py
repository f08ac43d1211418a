import pytest

from tests.support import eventually


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
