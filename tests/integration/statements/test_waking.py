"""The locks of leading and of waking: who sleeps, who notifies, who leads."""

from __future__ import annotations

from pgbus.database.statements import sequencer
from pgbus.database.statements.sequencer import LogEnd, WakeSlot
from tests.support import eventually
from tests.support.bench import Bench


async def test_the_log_ends_after_its_last_event(bench: Bench) -> None:
    assert await sequencer.find_log_end(bench.store) == LogEnd(next_position=0, last_partition=0)
    await bench.log(7)
    assert await sequencer.find_log_end(bench.store) == LogEnd(next_position=8, last_partition=0)


async def test_a_slot_is_armed_only_while_no_publisher_shares_it(bench: Bench, other: Bench) -> None:
    transaction = other.connection.transaction()
    await transaction.start()
    await other.outbox("a.b")
    assert not (await sequencer.try_sleep(bench.store)).armed
    [held] = await sequencer.find_held_slots(bench.store)
    moved = await sequencer.advance_wake_slot(bench.store)
    assert moved == held + 1
    assert await sequencer.try_sleep(bench.store) == WakeSlot(slot=moved, armed=True)
    await transaction.commit()
    assert await sequencer.find_held_slots(bench.store) == set()


async def test_a_publisher_notifies_only_while_its_slot_is_armed(bench: Bench, other: Bench) -> None:
    heard: list[str] = []
    await bench.connection.add_listener("pgbus_wake", lambda *args: heard.append(args[3]))
    slot = (await sequencer.try_sleep(bench.store)).slot
    await other.outbox("a.b")
    await eventually(lambda: len(heard) == 1)
    await sequencer.wake_up(bench.store, slot=slot)
    await other.outbox("a.b")
    await bench.connection.fetch("SELECT 1")
    assert len(heard) == 1


async def test_one_session_leads_until_it_ends(bench: Bench, other: Bench) -> None:
    assert (await bench.store.fetch_one("try_lead", namespace="pgbus"))["leads"]
    assert not (await other.store.fetch_one("try_lead", namespace="pgbus"))["leads"]
    assert (await other.store.fetch_one("try_lead", namespace="elsewhere"))["leads"]
    await bench.connection.close()

    async def lead() -> bool:
        return bool((await other.store.fetch_one("try_lead", namespace="pgbus"))["leads"])

    await eventually(lead)


async def test_only_the_leader_is_noted_as_leading(bench: Bench) -> None:
    first = await bench.rows.worker("first", live=False, leads=False)
    second = await bench.rows.worker("second", live=False, leads=False)
    assert await sequencer.note_leader(bench.store, worker_id=first)
    assert await sequencer.note_leader(bench.store, worker_id=second)
    assert await bench.fetch("SELECT id FROM pgbus.workers WHERE leading_since IS NOT NULL") == [(second,)]


async def test_a_listener_is_ready_when_something_of_its_own_could_be_claimed(bench: Bench) -> None:
    names = ("idle", "fresh", "due", "later", "claimed", "ordered")
    ids = {name: await bench.rows.listener(name, "**", lanes=4 if name == "ordered" else None) for name in names}
    for name in names[1:5]:
        await bench.rows.delivery(ids[name], 1, worker_id=1 if name == "claimed" else None)
    await bench.rows.delivery(ids["ordered"], 1, lane=3)
    await bench.connection.execute(
        "UPDATE pgbus.deliveries SET available_at = now() - interval '1 s' WHERE listener_id = $1", ids["due"]
    )
    await bench.connection.execute(
        "UPDATE pgbus.deliveries SET available_at = now() + interval '1 h' WHERE listener_id = $1", ids["later"]
    )
    ready = await sequencer.find_ready_listeners(bench.store, ids.values())
    assert set(ready) == {ids["fresh"], ids["due"], ids["ordered"]}
    assert await sequencer.find_ready_listeners(bench.store, [ids["idle"]]) == []
