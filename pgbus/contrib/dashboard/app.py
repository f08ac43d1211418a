"""The ASGI application: routes, access, and the headers that keep a browser to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from functools import partial
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

from pgbus.admin import Admin
from pgbus.config import Config
from pgbus.contrib.dashboard import again, operating, pages
from pgbus.contrib.dashboard.access import Allow, Person, identify
from pgbus.contrib.dashboard.carrier import Carrier
from pgbus.contrib.dashboard.desk import Desk
from pgbus.contrib.dashboard.forms import FormKey, check_form, read_form
from pgbus.contrib.dashboard.showing import make_environment
from pgbus.contrib.dashboard.visits import Page, Shown, Visit
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
_PAGES: Mapping[str, Page] = {
    "/": pages.overview,
    "/listeners": pages.listeners,
    "/listeners/{name:path}": pages.listener,
    "/events": pages.events,
    "/events/{event_id}": pages.event,
    "/dead": pages.dead,
    "/calls": pages.calls,
    "/calls/{call_id}": pages.call,
    "/schedules": pages.schedules,
    "/schedules/{name:path}": pages.schedule,
    "/schemas": pages.schemas,
    "/schemas/{kind}/{name:path}": pages.schema,
    "/workers": pages.workers,
    "/doctor": pages.doctor,
    "/events/{event_id}/again": again.edit,
    "/changes/{verb}": operating.preview,
    "/operations": operating.operations,
    "/operations.csv": operating.export_csv,
    "/operations.json": operating.export_json,
    "/operations/{operation_id:int}": operating.operation,
    "/operations/{operation_id:int}/items.csv": operating.export_items_csv,
    "/operations/{operation_id:int}/items.json": operating.export_items_json,
    "/operations/{operation_id:int}/{step}": operating.ask_step,
}
_DEEDS: Mapping[str, Page] = {
    "/events/{event_id}/again": again.republish,
    "/changes/{verb}": operating.change,
    "/operations/{operation_id:int}/{step}": operating.take_step,
}
_NAMES = (
    "Overview", "Listeners", "Events", "Dead", "Calls", "Schedules", "Schemas", "Workers", "Operations", "Doctor",
)  # fmt: skip


class Dashboard(Starlette):
    """Pages on a bus; an ASGI application of its own, or mounted in another one.

    - `allow`: who may see it, and in which role; default: nobody. `by_password`, `by_token`, several of them by
      `any_of`, or a function of a Starlette request that returns a `Person`.
    - `hidden`: names of payload fields whose values nobody sees.
    """

    def __init__(self, config: Config, *, allow: Allow | None = None, hidden: Collection[str] = ()) -> None:
        self._allow = allow
        self._hidden = frozenset(hidden)
        self._templates = make_environment()
        routes = [
            *(Route(path, self._route(page)) for path, page in _PAGES.items()),
            *(Route(path, self._route(page), methods=["POST"]) for path, page in _DEEDS.items()),
        ]
        super().__init__(
            routes=[*routes, Mount("/static", StaticFiles(directory=STATIC), name="static")],
            middleware=[Middleware(_Headers)],
            exception_handlers={HTTPException: self._refuse, PgbusError: self._complain},
            lifespan=_closing_desk,
        )
        self.state.desk = Desk(config)
        self.state.carrier = Carrier(config)

    def _route(self, page: Page) -> Any:
        async def answer(request: Request) -> Response:
            person = await self._identify(request)
            if isinstance(person, Response):
                return person
            key, form = FormKey(request), {}
            if request.method == "POST":
                form = await read_form(request)
                check_form(request, form, key, person)
            visits = partial(
                Visit, request, desk=self.state.desk, person=person, key=key, form=form, hidden=self._hidden
            )
            if request.method == "GET" and "live" in request.query_params:
                return self._stream(request, person, page, visits)
            async with self.state.desk.admin() as admin:
                visit = visits(admin)
                return self._show(visit, await page(visit))

        return answer

    def _stream(self, request: Request, person: Person, page: Page, visits: Callable[[Admin], Visit]) -> Response:
        """The part of a page that changes, again and again; all who may do the same get the same."""

        async def render() -> str:
            async with self.state.desk.admin() as admin:
                shown = await page(visits(admin))
            assert not isinstance(shown, Response)
            return self._text(request, *shown, layout="live.html")

        stream: Response = self.state.desk.feed.stream((str(request.url), person.role), render)
        return stream

    async def _identify(self, request: Request) -> Person | Response:
        answer = await identify(self._allow, request)
        if answer is None:
            raise HTTPException(401, "")
        request.state.person = answer
        return answer

    def _show(self, visit: Visit, shown: Shown) -> Response:
        if isinstance(shown, Response):
            return shown
        template, found = shown
        # A form that was refused is shown again, with the reason.
        status = 409 if visit.request.method == "POST" else 200
        response = self._render(visit.request, template, {"key": visit.key, **found}, status=status)
        visit.key.keep(response)
        return response

    def _render(self, request: Request, template: str, found: Mapping[str, Any], *, status: int = 200) -> Response:
        text = self._text(request, template, found, layout="base.html")
        return HTMLResponse(text, status_code=status, headers={"cache-control": "no-store"})

    def _text(self, request: Request, template: str, found: Mapping[str, Any], *, layout: str) -> str:
        root = request.scope.get("root_path", "")
        stream = request.url.include_query_params(live=1)
        return self._templates.get_template(template).render(
            root=root,
            # The address within the dashboard, also where it is mounted.
            path=request.scope["path"].removeprefix(root) or "/",
            names=_NAMES,
            query=request.query_params,
            person=getattr(request.state, "person", None),
            layout=layout,
            stream=f"{stream.path}?{stream.query}",
            **found,
        )

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
        await app.state.carrier.close()
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
