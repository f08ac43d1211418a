"""Computes the deliveries of events for listeners: runs of positions, one delivery each."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from pgbus.database.statements.moving import Delivery
from pgbus.database.statements.sequencer import Waiting
from pgbus.leader.routes import Route, Routes, all_topics

# Bytes; a notification carries less than 8000.
MAX_PAYLOAD = 7_900

_Run = tuple[int | None, int, int, int, str | None]


def make_deliveries(events: Sequence[Waiting], routes: Routes, *, base: int, run: int) -> list[Delivery]:
    """The deliveries of events that get the positions from `base` on, in the order of the log.

    Runs are of up to `run` events; those of an ordered listener are of one lane each.
    """
    positions: dict[tuple[str, ...], list[int]] = {}
    for position, event in enumerate(events, base):
        topics = all_topics(event.topic, event.ancestors) if event.ancestors else (event.topic,)
        positions.setdefault(topics, []).append(position)
    heard: dict[Route, list[tuple[str, ...]]] = {}
    for topics in positions:
        for route in routes.find(topics[0], topics[1:]):
            heard.setdefault(route, []).append(topics)
    deliveries: list[Delivery] = []
    # Most listeners hear the same topics: their runs are worked out once.
    known: dict[tuple[int | None, tuple[tuple[str, ...], ...]], list[_Run]] = {}
    for route, topics_heard in heard.items():
        key = (route.lanes, tuple(topics_heard))
        if key not in known:
            owed = sorted(position for topics in topics_heard for position in positions[topics])
            known[key] = _lane_runs(owed, events, route.lanes, base, run) if route.lanes else _runs(None, owed, run)
        deliveries += [Delivery(route.listener_id, *one) for one in known[key]]
    deliveries.sort(key=lambda delivery: delivery.first)
    return deliveries


def _lane_runs(owed: Sequence[int], events: Sequence[Waiting], lanes: int, base: int, run: int) -> list[_Run]:
    by_lane: dict[int, list[int]] = {}
    for position in owed:
        # There is a hash: the read asks for it while any route has lanes. PostgreSQL's is signed; `backfill_listener`
        # and replays find the same lanes, or else two lanes would handle one key at once.
        lane = ((events[position - base].hash or 0) & 0x7FFFFFFF) % lanes
        by_lane.setdefault(lane, []).append(position)
    return [one for lane, its in by_lane.items() for one in _runs(lane, its, run)]


def _runs(lane: int | None, owed: Sequence[int], run: int) -> list[_Run]:
    runs: list[_Run] = []
    for start in range(0, len(owed), run):
        part = owed[start : start + run]
        has_holes = part[-1] - part[0] + 1 > len(part)
        text = "{" + ",".join(map(str, part)) + "}" if has_holes else None
        runs.append((lane, part[0], part[-1], len(part), text))
    return runs


def lanes_by_listener(deliveries: Iterable[Delivery]) -> dict[int, set[int]]:
    """The listeners of deliveries by their ids, each with the lanes that they are in: none, for one without order."""
    lanes: dict[int, set[int]] = {}
    for one in deliveries:
        its = lanes.setdefault(one.listener_id, set())
        if one.lane is not None:
            its.add(one.lane)
    return lanes


def wake_payloads(lanes: Mapping[int, Collection[int]]) -> list[str]:
    """Return the notifications that make other workers claim for these listeners, in these lanes: `7,8:3.61`."""
    payloads: list[str] = []
    for listener_id, its in lanes.items():
        part = f"{listener_id}:{'.'.join(map(str, sorted(its)))}" if its else str(listener_id)
        if payloads and len(payloads[-1]) + len(part) < MAX_PAYLOAD:
            payloads[-1] += f",{part}"
        else:
            payloads.append(part)
    return payloads
