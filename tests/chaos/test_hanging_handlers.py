"""An async handler that blocks its event loop: its own process waits for it, and nobody else does."""

from pgbus.leader.leader import SILENCE
from tests.chaos.stage import Stage
from tests.support import eventually


async def test_a_handler_that_hangs_in_the_leader_delays_no_other_process(stage: Stage) -> None:
    await stage.close_gate()
    hanging = await stage.start("hanging", CHAOS_SILENCE=SILENCE)
    await eventually(stage.leader_pid)
    other = await stage.start_follower(hanging, "record")
    await stage.publish("chaos.hanging", [100])
    await stage.wait_for("started", 1)
    await stage.publish("chaos.recorded", range(10))
    await stage.wait_for("handled", 10)
    # It may have looked for these events before it began to hang.
    await stage.until_leads(other)
    await eventually(lambda: "the event loop hangs" in hanging.log)

    # Its claim is still its own: the handler ends, once, and the worker goes on.
    await stage.open_gate()
    await stage.wait_for("handled", 11)
    await stage.settled()
    assert hanging.lives
    assert await stage.value("SELECT count(*) FROM started") == 1
    assert "pass_gate_blocking" in hanging.log
    await stage.publish("chaos.hanging", [101])
    await stage.wait_for("handled", 12)
