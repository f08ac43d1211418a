"""The ASGI application: routes, access, and the headers that keep a browser to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pgbus.config import Config
from pgbus.contrib.dashboard import pages
from pgbus.contrib.dashboard.access import Allow, keep_token, may_see
from pgbus.contrib.dashboard.desk import Desk
from pgbus.contrib.dashboard.showing import make_environment
from pgbus.errors import PgbusError

STATIC = Path(__file__).parent / "static"

# Nothing from elsewhere, no script or style in a page, no frame around it.
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
}
_PAGES: Mapping[str, pages.Page] = {
    "/": pages.overview,
    "/listeners": pages.listeners,
    "/listeners/{name:path}": pages.listener,
    "/events": pages.events,
    "/events/{event_id}": pages.event,
    "/dead": pages.dead,
    "/calls": pages.calls,
    "/schedules": pages.schedules,
    "/schedules/{name:path}": pages.schedule,
    "/schemas": pages.schemas,
    "/workers": pages.workers,
    "/doctor": pages.doctor,
}
_NAMES = ("Overview", "Listeners", "Events", "Dead", "Calls", "Schedules", "Schemas", "Workers", "Doctor")


class Dashboard(Starlette):
    """Pages on a bus; an ASGI application of its own, or mounted in another one.

    - `allow`: who may see it; default: nobody. `by_password`, `by_token`, or a function of a Starlette request.
    - `hidden`: names of payload fields whose values nobody sees.
    """

    def __init__(self, config: Config, *, allow: Allow | None = None, hidden: Collection[str] = ()) -> None:
        self._allow = allow
        self._hidden = frozenset(hidden)
        self._templates = make_environment()
        routes = [Route(path, self._route(page)) for path, page in _PAGES.items()]
        super().__init__(
            routes=[*routes, Mount("/static", StaticFiles(directory=STATIC), name="static")],
            middleware=[Middleware(_Headers)],
            exception_handlers={HTTPException: self._refuse, PgbusError: self._complain},
            lifespan=_closing_desk,
        )
        self.state.desk = Desk(config)

    def _route(self, page: pages.Page) -> Any:
        async def answer(request: Request) -> Response:
            if (kept := keep_token(request)) is not None:
                return kept
            if not await may_see(self._allow, request):
                raise HTTPException(401, "")
            async with self.state.desk.admin() as admin:
                template, found = await page(pages.Visit(request, admin, hidden=self._hidden))
            return self._render(request, template, found)

        return answer

    def _render(self, request: Request, template: str, found: Mapping[str, Any], *, status: int = 200) -> Response:
        root = request.scope.get("root_path", "")
        # The address within the dashboard, also where it is mounted.
        path = request.scope["path"].removeprefix(root) or "/"
        text = self._templates.get_template(template).render(
            root=root, path=path, names=_NAMES, query=request.query_params, **found
        )
        return HTMLResponse(text, status_code=status)

    async def _refuse(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code != 401:
            return self._render(request, "error.html", {"problem": error.detail}, status=error.status_code)
        reason = "This dashboard is closed." if self._allow is None else "You are not allowed to see this dashboard."
        response = self._render(request, "closed.html", {"reason": reason}, status=401)
        if self._allow is not None:
            response.headers["www-authenticate"] = 'Basic realm="pgbus", charset="UTF-8"'
        return response

    async def _complain(self, request: Request, error: Exception) -> Response:
        return self._render(request, "error.html", {"problem": str(error)}, status=503)


@asynccontextmanager
async def _closing_desk(app: Starlette) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await app.state.desk.close()


class _Headers:
    """Adds the headers to every response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *((k.encode(), v.encode()) for k, v in _HEADERS.items())]
            await send(message)

        await self._app(scope, receive, send_with_headers if scope["type"] == "http" else send)
