"""A service that counts the views of the store's pages in a file. Run `pgbus run` here."""

import json
from pathlib import Path

import pgbus
from pgbus import EventMessage

VIEWS = Path("views.json")

bus = pgbus.create(service_name="dashboard")


def handle_page_viewed(event: EventMessage, url: str) -> None:
    # An event may be delivered again after a crash, so its id is stored, and not only a count.
    views = json.loads(VIEWS.read_text()) if VIEWS.exists() else {}
    if event.id not in views.setdefault(url, []):
        views[url].append(event.id)
    written = VIEWS.with_suffix(".new")
    written.write_text(json.dumps(views))
    written.replace(VIEWS)  # a reader sees either the old file or the new one


def on_start() -> None:
    # One event at a time, which is the default; more than one worker would need a database.
    bus.store.page_viewed.listen(handle_page_viewed, listener_name="count_views")
