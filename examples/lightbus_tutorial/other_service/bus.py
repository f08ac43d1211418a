"""A service that listens to the events of `auth`. Run `pgbus run` in this directory."""

import pgbus

bus = pgbus.create(service_name="other")
user_db: dict[str, str] = {}


def handle_created(username: str, email: str) -> None:
    user_db[username] = email
    print(f"created: {user_db}")


def handle_updated(username: str, new_email: str) -> None:
    user_db[username] = new_email
    print(f"updated: {user_db}")


def handle_deleted(event: pgbus.EventMessage, username: str) -> None:
    # A first parameter that the event does not have gets the message.
    user_db.pop(username, None)  # a second delivery after a crash must not fail
    print(f"deleted, as {event.canonical_name} says: {user_db}")


async def before_server_start() -> None:
    # Called when the worker starts. It may be a plain function too; `listen_async` is then `listen`.
    await bus.auth.user_created.listen_async(handle_created, listener_name="user_created")
    await bus.auth.user_updated.listen_async(handle_updated, listener_name="user_updated")
    await bus.auth.user_deleted.listen_async(handle_deleted, listener_name="user_deleted")
