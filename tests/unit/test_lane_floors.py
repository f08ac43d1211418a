"""The floors of lanes: which rows a worker's claim may skip."""

from pgbus.listeners.lane_floors import LaneFloors


def test_a_floor_is_the_first_row_that_was_seen_in_its_lane() -> None:
    floors = LaneFloors(3)
    floors.saw({0: 5, 1: 9, 2: 7})
    assert floors.positions == [5, 9, 7]


def test_a_lane_without_a_row_gets_its_next_one_above_the_last_that_was_seen() -> None:
    floors = LaneFloors(3)
    floors.saw({1: 9})
    assert floors.positions == [9, 9, 9]


def test_nothing_seen_raises_no_floor_and_what_came_back_lowers_none() -> None:
    floors = LaneFloors(2)
    floors.saw({0: 5, 1: 6})
    floors.saw({})
    assert floors.positions == [5, 6]
    floors.lower()
    assert floors.positions == [0, 0]
