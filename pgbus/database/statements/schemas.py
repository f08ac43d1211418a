"""The schemas that workers speak."""

from __future__ import annotations

from pgbus.database.store import Store


async def touch_schemas(store: Store, *, worker_id: int, age: float) -> None:
    """Note that a worker's schemas were seen, where that was last noted more than `age` seconds ago."""
    await store.fetch("touch_schemas", worker_id=worker_id, age=age)
