"""The dashboard inside an application of each framework: under a prefix, for those whom the application knows."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx2 as httpx
import pytest
from django.contrib.sessions.backends.signed_cookies import SessionStore
from django.core.asgi import get_asgi_application
from fastapi import FastAPI
from litestar import Litestar, asgi, get
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend, SimpleUser
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import RedirectResponse
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from pgbus.config import Config
from pgbus.contrib.dashboard import Allow, Dashboard, Person
from tests.support.dashboards import form_of
from tests.support.rows import Rows

SESSIONS = {"s1": "ann"}
"""The sessions of an application: its people by their cookies."""


class ByCookie(AuthenticationBackend):
    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, SimpleUser] | None:
        name = SESSIONS.get(conn.cookies.get("session", ""))
        return name and (AuthCredentials(["ops"]), SimpleUser(name))  # type: ignore[return-value] # None: nobody


def by_user(request: Request) -> Person | RedirectResponse:
    """The user whom the application's middleware has found."""
    return (
        Person(request.user.display_name, "operator") if request.user.is_authenticated else RedirectResponse("/login")
    )


def by_session(request: Request) -> Person | None:
    name = SESSIONS.get(request.cookies.get("session", ""))
    return Person(name, "operator") if name else None


def by_django_session(request: Request) -> Person | None:
    """The session of Django, from its cookie."""
    name = SessionStore(request.cookies.get("sessionid", "")).get("user")
    return Person(name, "operator") if name else None


def starlette(mounted: Callable[[Allow], Dashboard]) -> ASGIApp:
    return Starlette(
        routes=[Mount("/ops/bus", mounted(by_user))],
        middleware=[Middleware(AuthenticationMiddleware, backend=ByCookie())],
    )


def fastapi(mounted: Callable[[Allow], Dashboard]) -> ASGIApp:
    app = FastAPI()
    app.mount("/ops/bus", mounted(by_session))
    return app


def litestar(mounted: Callable[[Allow], Dashboard]) -> ASGIApp:
    dashboard = mounted(by_session)

    @asgi("/ops/bus", is_mount=True, copy_scope=True)  # type: ignore[untyped-decorator] # of Litestar
    async def bus(scope: Scope, receive: Receive, send: Send) -> None:
        # Litestar passes on the path below the mount with a slash at its end, and does not say where the mount is.
        path = "/ops/bus" + (scope["path"].rstrip("/") or "/")
        await dashboard({**scope, "root_path": "/ops/bus", "path": path}, receive, send)

    @get("/")  # type: ignore[untyped-decorator] # of Litestar
    async def home() -> str:
        return "home"

    app: ASGIApp = Litestar([bus, home])
    return app


def django(mounted: Callable[[Allow], Dashboard]) -> ASGIApp:
    return Starlette(routes=[Mount("/ops/bus", mounted(by_django_session)), Mount("/", get_asgi_application())])


def django_cookie() -> dict[str, str]:
    session = SessionStore()
    session["user"] = "ann"
    session.save()
    return {"sessionid": str(session.session_key)}


@asynccontextmanager
async def visitor(
    framework: Callable[[Callable[[Allow], Dashboard]], ASGIApp], dsn: str
) -> AsyncIterator[tuple[httpx.AsyncClient, Dashboard]]:
    made: list[Dashboard] = []

    def mounted(allow: Allow) -> Dashboard:
        made.append(Dashboard(Config(dsn=dsn), allow=allow))
        return made[0]

    transport = httpx.ASGITransport(framework(mounted))
    async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
        yield client, made[0]
    await made[0].state.carrier.close()
    await made[0].state.desk.close()


FRAMEWORKS: list[Any] = [starlette, fastapi, litestar, django]


@pytest.mark.parametrize("framework", FRAMEWORKS)
async def test_it_is_mounted_under_a_prefix_with_the_check_of_the_application(
    database: str, rows: Rows, framework: Callable[..., ASGIApp]
) -> None:
    listener_id = await rows.listener("mail", "orders.*")
    await rows.event(1)
    await rows.dead_letter(listener_id, 1)
    async with visitor(framework, database) as (client, dashboard):
        stranger = await client.get("/ops/bus/dead")
        assert (stranger.status_code, stranger.headers.get("location")) in ((401, None), (307, "/login"))
        assert "orders.placed" not in stranger.text
        client.cookies.update(django_cookie() if framework is django else {"session": "s1"})
        for page in ("/", "/dead", "/listeners/mail", "/operations"):
            answer = await client.get(f"/ops/bus{page}")
            assert answer.status_code == 200, answer.text
            assert "ann, operator" in answer.text
            links = set(re.findall(r'(?:href|src|action)="([^"#]+)"', answer.text))
            assert all(link.startswith("/ops/bus/") for link in links), links
        assert (await client.get("/ops/bus/static/dashboard.js")).status_code == 200
        preview = (await client.get("/ops/bus/changes/retry?listener=mail")).text
        form = form_of(preview, "/ops/bus/changes/retry")
        answer = await client.post("/ops/bus/changes/retry", data={**form, "reason": "a drill"})
        assert answer.headers["location"] == "/ops/bus/operations/1"
        await dashboard.state.carrier.finish()
        assert "1 of 1" in (await client.get(answer.headers["location"])).text
    assert await rows.connection.fetchval("SELECT person FROM pgbus.operations") == "ann"
