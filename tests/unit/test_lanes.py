"""The lanes of an ordered listener: which rows a worker's claim may skip, and into which lanes it has to look."""

from pgbus.listeners.lanes import Lanes


def test_a_floor_is_the_first_row_that_was_seen_in_its_lane() -> None:
    lanes = Lanes(3)
    lanes.saw(range(3), {0: 5, 1: 9, 2: 7})
    assert lanes.floors == [5, 9, 7]


def test_a_lane_without_a_row_gets_its_next_one_above_the_last_that_was_seen() -> None:
    lanes = Lanes(3)
    lanes.saw(range(3), {1: 9})
    assert lanes.floors == [9, 9, 9]


def test_the_floor_of_a_lane_that_was_not_looked_into_stays() -> None:
    lanes = Lanes(3)
    lanes.saw([0, 1], {1: 9})
    assert lanes.floors == [9, 9, 0]


def test_nothing_seen_raises_no_floor_and_what_came_back_lowers_none() -> None:
    lanes = Lanes(2)
    lanes.saw(range(2), {0: 5, 1: 6})
    lanes.saw(range(2), {})
    assert lanes.floors == [5, 6]
    lanes.lower()
    assert lanes.floors == [0, 0]


def test_a_claim_looks_everywhere_first_and_then_where_something_is_expected() -> None:
    lanes = Lanes(4)
    assert lanes.take(held=[]) is None
    assert lanes.take(held=[]) == []
    lanes.expect([3, 1])
    assert lanes.take(held=[]) == [1, 3]
    assert lanes.take(held=[]) == []


def test_a_lane_that_we_hold_is_looked_into_when_we_hold_it_no_more() -> None:
    lanes = Lanes(4)
    lanes.take(held=[])
    lanes.expect([1, 2])
    assert lanes.take(held=[2, None]) == [1]
    assert lanes.may_have(2)
    assert lanes.take(held=[]) == [2]


def test_what_a_claim_has_left_is_looked_into_again() -> None:
    lanes = Lanes(4)
    lanes.take(held=[])
    lanes.saw([0, 1], {0: 5, 1: 6}, left=[1])
    assert [lanes.may_have(lane) for lane in (0, 1, None)] == [False, True, False]
    assert lanes.take(held=[]) == [1]


def test_no_named_lane_or_an_unknown_one_or_floors_that_were_lost_mean_any() -> None:
    lanes = Lanes(2)
    for expect in (lanes.expect, lanes.lower, lambda: lanes.expect([0, 2])):
        lanes.take(held=[])
        expect()
        assert lanes.may_have(0)
        assert lanes.take(held=[0, 1]) is None


def test_a_listener_without_order_has_no_lanes_to_look_into() -> None:
    lanes = Lanes(0)
    lanes.expect()
    assert not lanes.may_have(None)
    assert lanes.take(held=[None]) == []
