"""Listeners that fail, and events that do not fit them: what Lightbus's workers did not survive."""

from __future__ import annotations

import json
import textwrap

from tests.support.services import Services

SHOP = """
import pgbus
from pgbus import Event, Parameter


class ShopApi(pgbus.Api):
    sold = Event(parameters=("number",))
    ordered = Event(parameters=(
        "number", Parameter("gift", bool, default=False), Parameter("note", str | None), pgbus.WildcardParameter(),
    ))

    class Meta:
        name = "shop"


bus = pgbus.create()
bus.client.register_api(ShopApi())
"""

# `fails` is plain, and waits for what only an event loop that is not blocked can do.
FAILING = """
import sys
import threading
import pgbus

bus = pgbus.create()
passed = threading.Event()


def say(text):
    sys.stdout.write(text + "\\n")
    sys.stdout.flush()


def fails(event, number):
    assert passed.wait(60), "the event loop was blocked"
    say(f"plain {number}")
    if number == 1:
        raise ValueError("the plain one fails")


async def fails_too(event, number):
    passed.set()
    say(f"async {number}")
    if number == 1:
        raise ValueError("the async one fails")


def on_start():
    log = pgbus.OnError.ACKNOWLEDGE_AND_LOG
    bus.shop.sold.listen(fails, listener_name="plain", on_error=log)
    bus.shop.sold.listen(fails_too, listener_name="async", on_error=log)
"""


async def test_a_failure_that_is_to_be_logged_is_logged_once_and_the_next_event_flows(services: Services) -> None:
    """N1 and N2"""
    shop = services.write("shop", SHOP)
    async with services.worker(services.write("other", FAILING)) as worker:
        services.run_code(shop, "from bus import bus\nfor number in (1, 2): bus.shop.sold.fire(number=number)")
        said = sorted([await worker.line() for _ in range(4)])
        await services.settled()
    assert said == ["async 1", "async 2", "plain 1", "plain 2"]
    assert len(worker.out) == 4
    log = "\n".join(worker.err)
    assert log.count("gave up on event") == log.count("Traceback") == 2
    assert "ValueError: the plain one fails" in log
    assert "ValueError: the async one fails" in log
    assert "TypeError" not in log
    assert "blocked" not in log
    errors = await services.dead_errors()
    assert sorted(errors) == ["ValueError: the async one fails", "ValueError: the plain one fails"]


async def test_an_event_that_does_not_fit_its_listener_is_dead_and_the_next_ones_flow(services: Services) -> None:
    """N3"""
    shop = services.write("shop", SHOP)
    strict = """
    import pgbus

    bus = pgbus.create()

    def count(event, number: int):
        print(f"counted {number}", flush=True)

    bus.shop.sold.listen(count, listener_name="count")
    """
    fire = """
    from bus import bus
    for number in ("a dozen", {"dozens": 1}, 12):
        bus.shop.sold.fire(number=number)
    """
    async with services.worker(services.write("other", strict)) as worker:
        services.run_code(shop, fire)
        assert await worker.line() == "counted 12"
        await services.settled()
    assert worker.out == ["counted 12"]
    errors = await services.dead_errors()
    assert len(errors) == 2
    assert all("number" in error for error in errors), errors
    listed = services.pgbus(shop, "dead", "list", "--json").splitlines()
    assert [json.loads(letter)["listener_name"] for letter in listed] == ["other-count", "other-count"]


async def test_defaults_are_filled_in_and_further_arguments_travel(services: Services) -> None:
    """N9 and N10; also for an event that was fired before its API had these parameters."""
    listening = """
    def handle(event, number, gift, note, **others):
        print(number, gift, note, others, flush=True)

    bus.shop.ordered.listen(handle, listener_name="handle")
    """
    shop = services.write("shop", SHOP + textwrap.dedent(listening))
    old = services.write("old_shop", SHOP.replace('"number", Parameter("gift", bool, default=False), ', '"number", '))
    async with services.worker(shop) as worker:
        services.run_code(shop, "from bus import bus\nbus.shop.ordered.fire(number=1)")
        assert await worker.line() == "1 False None {}"
        services.run_code(shop, "from bus import bus\nbus.shop.ordered.fire(number=2, gift=True, wrapping=[1])")
        assert await worker.line() == "2 True None {'wrapping': [1]}"
        services.run_code(old, "from bus import bus\nbus.shop.ordered.fire(number=3, colour='red')")
        assert await worker.line() == "3 False None {'colour': 'red'}"
    assert await services.dead_errors() == []
    payload = await services.connection.fetchval("SELECT payload::text FROM pgbus.events ORDER BY position LIMIT 1")
    assert payload == '{"gift": false, "note": null, "number": 1}'
