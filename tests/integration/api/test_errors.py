"""What a failing handler of an API does to its event and to its worker."""

from __future__ import annotations

import logging
import threading

import pytest

import pgbus
from pgbus import OnError
from tests.conftest import Connect
from tests.support import eventually
from tests.support.auth import Heard, dead_errors, is_settled, outcomes, working


@pytest.mark.parametrize("is_async", [True, False])
async def test_a_failure_that_is_only_logged_is_not_retried_and_the_next_event_flows(
    bus: pgbus.Bus,
    database: str,
    connect: Connect,
    caplog: pytest.LogCaptureFixture,
    is_async: bool,
) -> None:
    heard = Heard()
    loop_thread = threading.get_ident()

    def handle(username: str) -> None:
        heard((username, threading.get_ident() == loop_thread))
        if username == "bad":
            raise ValueError("no such user")

    async def handle_async(username: str) -> None:
        handle(username)

    bus.auth.user_deleted.listen(
        handle_async if is_async else handle, listener_name="gone", on_error=OnError.ACKNOWLEDGE_AND_LOG
    )
    connection = await connect(database)
    async with working(bus):
        for name in ("good", "bad", "next"):
            await bus.auth.user_deleted.fire_async(username=name)
        assert await heard.wait(3) == [("good", is_async), ("bad", is_async), ("next", is_async)]
        await eventually(lambda: is_settled(connection, 3))
    assert await outcomes(connection, "gone") == ["done", "dead", "done"]
    assert await dead_errors(connection) == ["ValueError: no such user"]
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [record.exc_info is not None for record in errors] == [True]


async def test_a_failure_is_tried_again_and_stops_no_worker(bus: pgbus.Bus, database: str, connect: Connect) -> None:
    heard = Heard()

    def handle(username: str) -> None:
        heard(username)
        if len(heard.calls) == 1:
            raise pgbus.Retry(after=0)

    bus.auth.user_deleted.listen(handle, listener_name="gone")
    connection = await connect(database)
    async with working(bus):
        await bus.auth.user_deleted.fire_async(username="adam")
        assert await heard.wait(2) == ["adam", "adam"]
        await eventually(lambda: is_settled(connection, 2))
    assert await outcomes(connection, "gone") == ["retry", "done"]


async def test_an_event_that_does_not_fit_its_handler_is_dead_and_the_next_flows(
    database: str, connect: Connect
) -> None:
    heard = Heard()

    def handle_updated(username: str, email: str) -> None:
        heard((username, email))

    connection = await connect(database)
    async with pgbus.create(database) as bus:  # it does not know the API
        bus.auth.user_updated.listen(handle_updated, listener_name="updated")
        async with working(bus):
            await bus.publish({"username": "adam", "new_email": "x"}, topic="auth.user_updated")
            await bus.publish({"username": "adam", "email": ["x"]}, topic="auth.user_updated")
            await bus.publish({"username": "eve", "email": "y"}, topic="auth.user_updated")
            assert await heard.wait(1) == [("eve", "y")]
            await eventually(lambda: is_settled(connection, 3))
    [first, second] = await dead_errors(connection)
    assert "the event has no 'email' and the handler has no parameter 'new_email'" in first
    assert "its argument 'email' does not fit" in second
