"""The laws of the simulated fleet; none of them depends on this machine's time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from msgspec.structs import replace as change

from benchmarks.fleet.command import find_end, main, most_workers
from benchmarks.fleet.costs import load, save
from benchmarks.fleet.model import Fleet, Server, connections, leader_capacity, simulate

COSTS = load()
SMALL = Fleet(workers=4, services=2, rate=500, seconds=1.0)


def test_the_same_seed_has_the_same_outcome_and_another_seed_another_one() -> None:
    assert simulate(COSTS, SMALL, Server()) == simulate(COSTS, SMALL, Server())
    assert simulate(COSTS, replace(SMALL, seed=2), Server()) != simulate(COSTS, SMALL, Server())


@pytest.mark.parametrize("workers", [4, 40])
@pytest.mark.parametrize("rate", [100, 5_000, 60_000])
def test_what_the_kinds_of_work_took_is_what_the_cores_were_busy(workers: int, rate: float) -> None:
    found = simulate(COSTS, replace(SMALL, workers=workers, rate=rate), Server(cores=2))
    assert sum(found.cpu.values()) == pytest.approx(found.busy)
    assert found.cores == pytest.approx(found.busy / 2)
    assert 0 < found.cores <= 1 + 1e-9
    assert 0 < found.leader <= 1 + 1e-9


@pytest.mark.parametrize("rate", [100, 5_000, 60_000])
def test_no_event_is_moved_before_it_is_published_or_handled_more_often_than_it_is_heard(rate: float) -> None:
    found = simulate(COSTS, replace(SMALL, rate=rate), Server())
    assert found.moved <= found.published
    assert found.handled <= 2 * found.moved  # both services hear each event
    assert 0 < found.p50 <= found.p99


def test_a_fleet_that_keeps_up_handles_what_is_published() -> None:
    found = simulate(COSTS, SMALL, Server())
    assert found.limit == ""
    assert found.handled >= 0.9 * 2 * found.published


def test_more_workers_and_services_never_raise_the_capacity_of_the_leader() -> None:
    sizes = [(1, 1), (2, 1), (10, 1), (50, 5), (500, 5), (500, 50)]
    capacities = [leader_capacity(COSTS, workers=workers, services=services) for workers, services in sizes]
    assert capacities == sorted(capacities, reverse=True)


def test_more_cores_are_never_busier() -> None:
    busy = [simulate(COSTS, replace(SMALL, rate=3_000), Server(cores=cores)).cores for cores in (2, 4, 8, 16)]
    assert busy == sorted(busy, reverse=True)


def test_each_limit_is_met_by_what_it_limits() -> None:
    fast = change(COSTS, look_event=500.0)
    assert simulate(COSTS, SMALL, Server(connections=4)).limit == "connections"
    assert simulate(COSTS, replace(SMALL, rate=20_000), Server(cores=1)).limit == "server cores"
    assert simulate(fast, replace(SMALL, rate=5_000), Server(cores=64)).limit == "leader"
    assert simulate(COSTS, replace(SMALL, handler=1.0), Server()).limit == "workers"
    assert simulate(COSTS, SMALL, Server(queue_bytes=100)).limit == "NOTIFY queue"


def test_a_worker_more_than_the_connections_allow_is_one_too_many() -> None:
    most = most_workers(COSTS, Server())
    assert connections(COSTS, replace(SMALL, workers=most)) <= Server().connections
    assert connections(COSTS, replace(SMALL, workers=most + 1)) > Server().connections


def test_the_end_lies_below_a_rate_that_meets_the_limit() -> None:
    slow = change(COSTS, look_event=10_000.0)
    rate, limit = find_end(slow, SMALL, Server())
    assert limit == "leader"
    assert rate < 150


def test_costs_are_read_as_they_were_written(tmp_path: Path) -> None:
    save(COSTS, tmp_path / "costs.json")
    assert load(tmp_path / "costs.json") == COSTS


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(SystemExit, match="unknown: --fast"):
        main(["--fast"])
