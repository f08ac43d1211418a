"""Somewhere in the auth service: fire each of its events once. Run it in this directory."""

import asyncio

from bus import bus


async def move_and_leave() -> None:
    await bus.auth.user_updated.fire_async(username="adam", new_email="adam@example.org")
    await bus.auth.user_deleted.fire_async(username="adam")
    await bus.close()


if __name__ == "__main__":
    bus.auth.user_created.fire(username="adam", email="adam@example.com")
    asyncio.run(move_and_leave())
