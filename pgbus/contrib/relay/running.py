"""Running relays: what `pgbus relay` and `pgbus run --from` do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from pgbus.aio.tasks import call_on_failure, end_tasks, failure_of, run_until
from pgbus.bus import create, make_worker
from pgbus.cli.signals import heed_signals
from pgbus.config import Config
from pgbus.contrib.relay.addresses import Address
from pgbus.contrib.relay.inward import Receiver
from pgbus.contrib.relay.opening import name_of, receiver_from, sink_at
from pgbus.contrib.relay.outward import add_relay


async def send(config: Config, to: str, patterns: Sequence[str], *, name: str, structured: bool) -> None:
    """Run a worker with one listener, the relay, until a signal stops it.

    Raises ConfigurationError for an address, a pattern or a name that cannot be.
    """
    bus = create(config=config, plugins=())
    outlet = add_relay(
        bus, patterns, name=name, open_sink=sink_at(Address.read(to), config, name=name, structured=structured)
    )
    worker = make_worker(bus)
    heed_signals(worker.request_stop)
    async with bus:
        try:
            await worker.run()
        finally:
            # After the worker has drained: its handlers still write until then.
            await outlet.close()


async def receive(config: Config, source: str, *, name: str, remember: float) -> None:
    """Receive messages until a signal comes; raises what `Receiver.run` does, and ConfigurationError."""
    receiver = receiver_from(Address.read(source), config, name=name, remember=remember)
    stop = asyncio.Event()
    heed_signals(stop.set)
    task = await run_until(receiver.run(), stop, name=f"pgbus relay {name}")
    if failure := failure_of([task]):
        raise failure


@asynccontextmanager
async def receiving(
    config: Config, sources: Sequence[str], *, ready: asyncio.Event, stop: Callable[[], None]
) -> AsyncIterator[list[Receiver]]:
    """Receive from these addresses within the block; where one fails for good, call `stop`, and raise it at the end.

    It begins when `ready` is set: listeners that are new hear nothing of what came before they were registered.
    """
    addresses = [Address.read(source) for source in sources]
    receivers = [receiver_from(address, config, name=name_of(address, config)) for address in addresses]
    tasks = [asyncio.create_task(_receive_when(ready, receiver), name="pgbus relay") for receiver in receivers]
    for task in tasks:
        call_on_failure(task, stop)
    try:
        yield receivers
    finally:
        await end_tasks(*tasks)
    if failure := failure_of(tasks):
        raise failure


async def _receive_when(ready: asyncio.Event, receiver: Receiver) -> None:
    await ready.wait()
    await receiver.run()
