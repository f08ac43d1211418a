"""Resources that belong to one event loop, and are closed with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from typing import Generic, Protocol, TypeVar


class Belonging(Protocol):
    """Something that works on the event loop that it was made on."""

    async def close(self) -> None:
        """End it, on its loop."""
        ...

    def abandon(self) -> None:
        """End it when its loop is closed already, and nothing can be awaited there any more."""
        ...


B = TypeVar("B", bound=Belonging)


class LoopBound(Generic[B]):
    """One of a kind for each event loop, made when it is first asked for there.

    A loop that ends as asyncio.run ends one closes it. A loop that was only closed is noticed when the next one asks.
    """

    def __init__(self, make: Callable[[], B]) -> None:
        self._make = make
        # Several threads may be here, each with a loop of its own. A loop adds and removes its own entry; one that was
        # closed without that has no thread any more, and `pop` lets only one of the others have it.
        self._held: dict[asyncio.AbstractEventLoop, tuple[B, AsyncGenerator[None, None]]] = {}

    def here(self) -> B:
        """That of the running loop."""
        loop = asyncio.get_running_loop()
        held = self._held.get(loop)
        if held is None:
            self._abandon_closed()
            made = self._make()
            end = self._until_shutdown(loop, made)
            with suppress(StopIteration):
                end.__anext__().send(None)  # begun, a loop knows it, and ends it in shutdown_asyncgens()
            held = self._held[loop] = (made, end)
        return held[0]

    async def close_here(self) -> None:
        """Close that of the running loop, if there is one."""
        if held := self._held.get(asyncio.get_running_loop()):
            await held[1].aclose()

    async def _until_shutdown(self, loop: asyncio.AbstractEventLoop, made: B) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            # Out first: what asks for it during the close gets another one, and not one that is half closed.
            self._held.pop(loop, None)
            await made.close()

    def _abandon_closed(self) -> None:
        for loop in list(self._held):
            if loop.is_closed() and (held := self._held.pop(loop, None)):
                held[0].abandon()
