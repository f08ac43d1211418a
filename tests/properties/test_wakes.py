"""Notifications that name listeners and lanes: what the leader writes, a worker reads."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pgbus.leader.runs import MAX_PAYLOAD, wake_payloads
from pgbus.worker.session_loop import _read_lanes

IDS = st.integers(1, 2**31 - 1)
LANES = st.frozensets(st.integers(0, 63))


@given(st.dictionaries(IDS, LANES, max_size=50))
def test_a_worker_reads_the_lanes_that_the_leader_names(lanes: dict[int, frozenset[int]]) -> None:
    read = {id_: frozenset(its) for payload in wake_payloads(lanes) for id_, its in _read_lanes(payload).items()}
    assert read == lanes


def test_very_many_listeners_are_named_in_several_notifications_each_within_the_limit() -> None:
    lanes = {2**31 - number: range(64) for number in range(1, 101)}
    payloads = wake_payloads(lanes)
    assert 1 < len(payloads) < 5
    assert all(len(payload) <= MAX_PAYLOAD for payload in payloads)
    assert [id_ for payload in payloads for id_ in _read_lanes(payload)] == list(lanes)


@given(st.text())
def test_anyone_may_notify_anything(payload: str) -> None:
    assert all(number >= 0 for id_, its in _read_lanes(payload).items() for number in (id_, *its))


def test_what_is_no_id_or_lane_is_passed_over() -> None:
    assert _read_lanes("7,x,8:3.y.61,:5,9:,²,-1") == {7: [], 8: [3, 61], 9: []}
