"""A browser without a screen, for tests of the dashboard over HTTP."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html import unescape

import httpx2 as httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Mount

from pgbus.contrib.dashboard import Allow, Dashboard, Person, Role


def everyone(role: Role) -> Allow:
    """Let each sender in, as ann."""

    def allow(request: Request) -> Person:
        return Person(request.headers.get("x-person", "ann"), role)

    return allow


@asynccontextmanager
async def browser(dashboard: Dashboard, *, mount: str = "", **options: object) -> AsyncIterator[httpx.AsyncClient]:
    app = Starlette(routes=[Mount(mount, dashboard)]) if mount else dashboard
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://dashboard", **options) as client:  # type: ignore[arg-type]
        yield client
    await dashboard.state.carrier.close()
    await dashboard.state.desk.close()


def form_of(page: str, action: str) -> dict[str, str]:
    """The hidden fields of the form that is sent to an address."""
    form = re.search(rf'<form[^>]*method="post"[^>]*action="{re.escape(action)}"[^>]*>(.*?)</form>', page, re.DOTALL)
    assert form, f"no form for {action} in {page}"
    hidden = re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', form.group(1))
    return {name: unescape(value) for name, value in hidden}


async def change(client: httpx.AsyncClient, verb: str, reason: str, **given: str) -> str:
    """Preview a change and confirm it, as a person does without JavaScript; the address of the operation."""
    page = await client.get(f"/changes/{verb}", params=given)
    assert page.status_code == 200, page.text
    answer = await client.post(f"/changes/{verb}", data={**form_of(page.text, f"/changes/{verb}"), "reason": reason})
    assert answer.status_code == 303, answer.text
    return str(answer.headers["location"])
