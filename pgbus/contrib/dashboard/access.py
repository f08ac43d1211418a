"""Who may see the dashboard."""

from __future__ import annotations

import base64
import binascii
import hmac
import inspect
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

Allow: TypeAlias = Callable[[Request], bool | Awaitable[bool]]
"""Whether the sender of a request may see the dashboard; a function of the application, or one of those below."""

COOKIE = "pgbus_dashboard"


async def may_see(allow: Allow | None, request: Request) -> bool:
    """Whether the sender may see it; nobody may where nothing is configured."""
    if allow is None:
        return False
    answer = allow(request)
    return bool(await answer if inspect.isawaitable(answer) else answer)


def by_password(user: str, password: str) -> Allow:
    """Allow each sender of this name and password by HTTP Basic (RFC 7617)."""

    def allow(request: Request) -> bool:
        scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
        try:
            sent = base64.b64decode(encoded, validate=True)
        except (ValueError, binascii.Error):
            return False
        return scheme.lower() == "basic" and hmac.compare_digest(sent, f"{user}:{password}".encode())

    return allow


def by_token(token: str) -> Allow:
    """Allow a browser that has followed a link with `?token=...`, which becomes a cookie, and bearers of the token."""

    def allow(request: Request) -> bool:
        sent = request.cookies.get(COOKIE, "")
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        found = bearer if scheme.lower() == "bearer" else sent
        return hmac.compare_digest(found.encode(), token.encode())

    return allow


def keep_token(request: Request) -> Response | None:
    """Turn a token in the address into a cookie, so that it does not stay in the browser's history."""
    if (token := request.query_params.get("token")) is None:
        return None
    response = RedirectResponse(str(request.url.remove_query_params("token")), status_code=303)
    path = request.scope.get("root_path", "") or "/"
    secure = request.url.scheme == "https"
    response.set_cookie(COOKIE, token, httponly=True, samesite="strict", secure=secure, path=path)
    return response
