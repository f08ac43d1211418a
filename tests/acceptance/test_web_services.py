"""Lightbus's worked example, its Django page and its page for those who come from Celery, with web servers."""

from __future__ import annotations

import asyncio
import json
import sys
import urllib.error
import urllib.request
from collections import Counter

from tests.support import eventually
from tests.support.services import Service, Services
from tests.support.waiting import PATIENCE

FLASK = (sys.executable, "-m", "flask", "--app", "web", "run", "--port", "0")


async def get(server: str, path: str) -> str:
    """The page that a web server answers with."""

    def fetch() -> str:
        with urllib.request.urlopen(server + path, timeout=PATIENCE) as answer:
            return str(answer.read().decode())

    return await asyncio.to_thread(fetch)


async def status_of(server: str, path: str) -> int:
    try:
        await get(server, path)
    except urllib.error.HTTPError as error:
        return error.code
    return 200


async def test_the_dashboard_counts_each_page_that_the_store_shows(services: Services) -> None:
    """S6: three services in four processes, one of which serves calls, one listens, and two are web servers."""
    image, store, dashboard = (services.copy(f"{name}_service") for name in ("image", "store", "dashboard"))
    async with (
        services.process(*FLASK, cwd=store) as store_web,
        services.process(*FLASK, cwd=dashboard) as dashboard_web,
        services.worker(image),
        services.worker(dashboard),
    ):
        shop, board = await store_web.address(), await dashboard_web.address()
        assert json.loads(await get(board, "/")) == {}
        home = await get(shop, "/")
        images = [f"200x200?url=https%3A%2F%2Fexample.com%2Fpets%2F{pet}.jpg" for pet in range(3)]
        assert all(image in home for image in images)
        assert images[2] in await get(shop, "/pet/2")
        # At once, as browsers do; a server that is asked so has its threads share one bus.
        await asyncio.gather(*(get(shop, path) for path in ["/", "/", "/pet/1", "/pet/2", "/pet/2"]))
        expected = Counter({"/": 3, "/pet/1": 1, "/pet/2": 3})

        async def counted() -> bool:
            return bool(json.loads(await get(board, "/")) == expected)

        await eventually(counted, PATIENCE)
    assert await services.dead_errors() == []


async def test_a_django_service_stores_fires_counts_and_says_when_its_worker_is_away(services: Services) -> None:
    """S8: its web server and its worker share models, and an event commits with the row that the view writes."""
    analytics = services.copy("analytics_service")
    migrated = services.python(analytics, "-m", "django", "migrate", "--run-syncdb", "--settings", "settings")
    assert migrated.returncode == 0, migrated.stderr
    async with services.process(sys.executable, "web.py", "0", cwd=analytics) as web:
        site = await web.address()
        assert "The analytics service is not running" in await get(site, "/pages/pets")
        async with services.worker(analytics) as worker:
            assert "Views counted so far: " in await get(site, "/pages/pets")
            await services.settled()
            await connections_of_the_worker_are_closed_by_the_server(services, worker)
            assert "Views counted so far: " in await get(site, "/pages/pets")
            assert await status_of(site, "/pages/pets?fail") == 500
            await services.settled()
        assert "The analytics service is not running" in await get(site, "/pages/pets")
        async with services.worker(analytics):
            await services.settled()
    viewed = await services.connection.fetchval("SELECT count(*) FROM analytics_pageview")
    counted = await services.connection.fetchval("SELECT count(*) FROM analytics_countedview")
    assert (viewed, counted) == (4, 4)
    assert await services.dead_errors() == []


async def connections_of_the_worker_are_closed_by_the_server(services: Services, worker: Service) -> None:
    """As after a restart: a handler that used one of them again would fail."""
    query = """SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
               WHERE query LIKE '%analytics_countedview%' AND pid <> pg_backend_pid()
                 AND datname = current_database()"""
    assert await services.connection.fetchval(query) >= 1, worker


USER_SERVICE = """
import sys
import pgbus
from pgbus import Api, Event


class UserApi(Api):
    user_signed_up = Event(parameters=("email", "username"))

    class Meta:
        name = "user"

    def get_avatar_url(self, username: str, width: int, height: int) -> str:
        return f"https://avatars.example.com/{username}?{width}x{height}"


bus = pgbus.create(service_name="user", flask=True)
bus.client.register_api(UserApi())


def send_welcome_email(event, email, username):
    say(f"welcome mail for {username} to {email}")


@bus.client.every(hours=1, also_run_immediately=True)
def refresh_avatars():
    say("avatars refreshed")


def say(text):
    sys.stdout.write(f"{text}\\n")
    sys.stdout.flush()


def on_start():
    bus.user.user_signed_up.listen(send_welcome_email, listener_name="send_welcome_email")
"""

USER_WEB = """
from bus import bus
from flask import Flask, request

app = Flask(__name__)


@app.get("/sign-up")
def sign_up():
    username = request.args["username"]
    bus.user.user_signed_up.fire(email=f"{username}@example.com", username=username)
    return "you will get a mail"


@app.get("/avatar/<username>")
def avatar(username):
    return bus.user.get_avatar_url(username=username, width=100, height=50)
"""


async def test_a_worker_runs_background_tasks_calls_for_results_and_hourly_schedules(services: Services) -> None:
    """S9"""
    user = services.write("user", USER_SERVICE, web=USER_WEB)
    async with (
        services.process(*FLASK, cwd=user) as web,
        services.worker(user) as first,
        services.worker(user) as other,
    ):
        site = await web.address()
        assert await get(site, "/avatar/adam") == "https://avatars.example.com/adam?100x50"
        for username in ("adam", "eve"):
            assert await get(site, f"/sign-up?username={username}") == "you will get a mail"
        await services.settled()
        expected = [
            "avatars refreshed",
            "welcome mail for adam to adam@example.com",
            "welcome mail for eve to eve@example.com",
        ]
        await eventually(lambda: sorted(first.out + other.out) == expected, PATIENCE)
