"""One suspect at a time, and who waits for its place is woken in turn."""

from __future__ import annotations

from collections.abc import Callable

from pgbus.listeners.quarantine import Quarantine


class Claimers:
    """Claimers of one process: each enters when it is woken, and leaves at once, as it finds no suspect."""

    def __init__(self, count: int, *, busy: frozenset[int] = frozenset()) -> None:
        self.quarantine = Quarantine()
        self.woken: list[int] = []
        self.entered: list[int] = []
        self.busy = busy
        self._wakes = [self.wake_of(number) for number in range(count)]
        self._due = list(range(count))

    def wake_of(self, number: int) -> Callable[[], bool]:
        def wake() -> bool:
            self.woken.append(number)
            if number in self.busy:
                return False
            self._due.append(number)
            return True

        return wake

    def run(self) -> None:
        """All claims are under way at once: each of them enters before the first leaves."""
        while self._due:
            due, self._due = self._due, []
            inside = [number for number in due if self.quarantine.enter(self._wakes[number])]
            self.entered += inside
            for _ in inside:
                self.quarantine.leave()


def test_listeners_that_start_at_once_claim_for_suspects_once_each_and_not_once_for_each_pair() -> None:
    claimers = Claimers(100)
    claimers.run()
    assert claimers.entered == list(range(100))
    assert claimers.woken == list(range(1, 100))


def test_who_has_no_room_gives_its_turn_to_the_next() -> None:
    claimers = Claimers(5, busy=frozenset({1, 2}))
    claimers.run()
    assert claimers.entered == [0, 3, 4]


def test_a_second_suspect_waits_until_the_first_has_left() -> None:
    claimers = Claimers(2)
    [first, second] = [claimers.quarantine.enter(claimers.wake_of(number)) for number in (0, 1)]
    assert (first, second, claimers.woken) == (True, False, [])
    claimers.quarantine.leave()
    assert claimers.woken == [1]
    assert claimers.quarantine.enter(claimers.wake_of(1))


def test_who_enters_by_a_claim_of_its_own_is_not_called_in_place_of_those_who_wait() -> None:
    claimers = Claimers(3)
    quarantine, wakes = claimers.quarantine, [claimers.wake_of(number) for number in range(3)]
    assert [quarantine.enter(wakes[number]) for number in (2, 1, 0)] == [True, False, False]
    quarantine.leave()
    assert claimers.woken == [1]
    assert quarantine.enter(wakes[0])  # before 1, whose claim is on its way
    assert not quarantine.enter(wakes[1])
    quarantine.leave()
    assert claimers.woken == [1, 1]
