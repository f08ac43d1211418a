"""Pages that change while somebody looks: one reader of the database for all viewers, and a stream for each of them.

    viewers of one address --> a screen --> the reader renders it once and sends it to all of them

While nobody looks nothing is read.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeAlias

from starlette.responses import StreamingResponse

logger = logging.getLogger("pgbus")

PERIOD = 2.0
"""Seconds between two readings."""

SHARE = 40
"""Reading takes at most one part of this many of the time, however slow the database is."""

HEARTBEAT = 15.0
"""Seconds of silence after which a stream sends a comment, so that whatever lies in between keeps it open."""

LIFETIME = 300.0
"""Seconds after which a stream ends. The browser opens it again, and whether it may see the page is checked again."""

Render: TypeAlias = Callable[[], Awaitable[str]]


@dataclass(eq=False, slots=True)
class _Screen:
    """The text that the viewers of one address see. Each has a queue with the newest text; None ends its stream."""

    render: Render
    viewers: set[asyncio.Queue[str | None]] = field(default_factory=set)
    text: str | None = None

    def show(self, text: str | None) -> None:
        for viewer in self.viewers:
            _replace(viewer, text)


class Feed:
    """Renders each address that somebody looks at, one after the other, and sends what has changed."""

    def __init__(self, *, period: float = PERIOD) -> None:
        self._period = period
        self._screens: dict[Hashable, _Screen] = {}
        self._reader: asyncio.Task[None] | None = None

    @property
    def is_watched(self) -> bool:
        """Whether there is a viewer of any address."""
        return bool(self._screens)

    def stream(self, key: Hashable, render: Render) -> StreamingResponse:
        """Server-sent events with the text of an address; `render` of its first viewer serves all with the same key."""
        return StreamingResponse(
            self._messages(key, render), media_type="text/event-stream", headers={"cache-control": "no-store"}
        )

    async def close(self) -> None:
        """End the streams of all viewers."""
        for screen in self._screens.values():
            screen.show(None)
        if self._reader is not None:
            self._reader.cancel()
            with suppress(asyncio.CancelledError):
                await self._reader

    async def _messages(self, key: Hashable, render: Render) -> AsyncIterator[str]:
        screen = self._screens.setdefault(key, _Screen(render))
        viewer: asyncio.Queue[str | None] = asyncio.Queue(1)
        screen.viewers.add(viewer)
        if screen.text is not None:
            _replace(viewer, screen.text)
        if self._reader is None or self._reader.done():
            self._reader = asyncio.create_task(self._read(), name="pgbus dashboard")
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(LIFETIME):
                    async for message in _events(viewer):
                        yield message
        finally:
            screen.viewers.discard(viewer)
            if not screen.viewers and self._screens.get(key) is screen:
                del self._screens[key]

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        while self._screens:
            began = loop.time()
            for screen in list(self._screens.values()):
                await _refresh(screen)
            await asyncio.sleep(max(self._period, (loop.time() - began) * (SHARE - 1)))


async def _refresh(screen: _Screen) -> None:
    """Render a screen; if that fails its streams end, and the browsers try again with growing pauses."""
    try:
        text = await screen.render()
    except Exception as error:  # any page, any fault: the other viewers go on
        logger.info("a page of the dashboard could not be read: %s", error)
        screen.text = None
        screen.show(None)
        return
    if text != screen.text:
        screen.text = text
        screen.show(text)


async def _events(viewer: asyncio.Queue[str | None]) -> AsyncIterator[str]:
    # The first bytes at once: some servers send headers with them only.
    yield ": open\n\n"
    while True:
        try:
            text = await asyncio.wait_for(viewer.get(), HEARTBEAT)
        except TimeoutError:
            yield ": still here\n\n"
            continue
        if text is None:
            return
        yield "".join(f"data: {line}\n" for line in text.splitlines()) + "\n"


def _replace(viewer: asyncio.Queue[str | None], text: str | None) -> None:
    """Put the newest text into a queue of one, in place of an older one that a slow viewer has not taken."""
    while not viewer.empty():
        viewer.get_nowait()
    viewer.put_nowait(text)
