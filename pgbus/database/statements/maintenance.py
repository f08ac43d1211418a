"""The leader's maintenance: partitions of the log, and rows that are no longer needed."""

from __future__ import annotations

from pgbus.database.store import Store


async def open_partition(store: Store, *, number: int) -> bool:
    """Open a partition of the log and of history; false when it was open."""
    opened: bool = (await store.fetch_one("open_partition", number=number))["opened"]
    return opened


async def find_partition_age(store: Store, *, number: int) -> float | None:
    """Seconds since the first event of a partition was logged; None when it is empty."""
    rows = await store.fetch("find_partition_age", number=number)
    return rows[0]["age"] if rows else None


async def find_expired_partitions(store: Store, *, current: int, retention: float) -> list[int]:
    """The partitions below the current one whose last event is older than `retention` seconds."""
    rows = await store.fetch("find_expired_partitions", current=current, retention=retention)
    return [row["number"] for row in rows]


async def drop_partition(store: Store, *, number: int) -> None:
    """Drop a partition of the log and of history; raises ObjectInUse when someone still needs it."""
    await store.fetch("drop_partition", number=number)


async def release_lanes(store: Store, *, batch: int) -> int:
    """Free up to `batch` deliveries from the lanes of listeners that are no longer ordered; how many it freed."""
    rows: int = (await store.fetch_one("release_lanes", batch=batch, work_channel=store.work_channel))["rows"]
    return rows


async def prune_dedup_keys(store: Store, *, batch: int) -> None:
    """Delete up to `batch` dedup keys that have expired."""
    await store.fetch("prune_dedup_keys", batch=batch)


async def prune_workers(store: Store, *, worker_ttl: float, worker_id: int) -> None:
    """Delete workers that were not seen for `worker_ttl` seconds, other than the one with `worker_id`."""
    await store.fetch("prune_workers", worker_ttl=worker_ttl, worker_id=worker_id)


async def expire_declarations(store: Store, *, ttl: float) -> None:
    """Delete what no worker has declared for `ttl` seconds; a listener that nobody runs keeps what it had."""
    await store.fetch("expire_declarations", ttl=ttl)


async def prune_schedule_runs(store: Store, *, retention: float, batch: int) -> None:
    """Delete up to `batch` runs of schedules that are older than `retention` seconds."""
    await store.fetch("prune_schedule_runs", retention=retention, batch=batch)


async def expire_requests(store: Store, *, batch: int) -> int:
    """End up to `batch` requests whose deadlines passed before anyone served them; how many it ended."""
    requests: int = (await store.fetch_one("expire_requests", batch=batch))["calls"]
    return requests


async def prune_calls(store: Store, *, retention: float, batch: int) -> int:
    """Delete up to `batch` calls whose deadline is more than `retention` seconds ago; how many it deleted."""
    calls: int = (await store.fetch_one("prune_calls", retention=retention, batch=batch))["calls"]
    return calls


async def find_server_age(store: Store) -> float:
    """How many seconds ago the server was started."""
    age: float = (await store.fetch_one("find_server_age"))["age"]
    return age
