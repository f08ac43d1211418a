"""Who may see the dashboard, and who may change things with it."""

from __future__ import annotations

import base64
import binascii
import hmac
import inspect
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from pgbus.errors import ConfigurationError

Role: TypeAlias = Literal["reader", "operator", "admin"]
"""A reader looks; an operator pauses, retries, replays and discards; an admin also removes listeners and schedules."""

_ROLES: tuple[Role, ...] = get_args(Role)

COOKIE = "pgbus_dashboard"
SESSION = 12 * 3600
"""Seconds for which a browser stays in after it has followed a link with the token."""

MAX_NAME = 255


@dataclass(frozen=True, slots=True)
class Person:
    """The sender of a request. The name is recorded with each operation, as its `person`; 1 to 255 characters."""

    name: str
    role: Role = "reader"

    def __post_init__(self) -> None:
        if not 1 <= len(self.name) <= MAX_NAME:
            raise ConfigurationError(f"a person's name has 1 to {MAX_NAME} characters")
        if self.role not in _ROLES:
            raise ConfigurationError(f"{self.role!r} is not a role of the dashboard: {', '.join(_ROLES)}")

    def may(self, role: Role) -> bool:
        """Whether the person may do what needs this role."""
        return _ROLES.index(self.role) >= _ROLES.index(role)


Answer: TypeAlias = Person | Response | None
Allow: TypeAlias = Callable[[Request], Answer | Awaitable[Answer]]
"""Who the sender of a request is: a function of the application, or one of those below. None: nobody who may see the
dashboard. A response is sent in place of the page, for example a redirect to the application's login."""


async def identify(allow: Allow | None, request: Request) -> Answer:
    """The sender of a request; None for everybody where nothing is configured."""
    if allow is None:
        return None
    answer = allow(request)
    return await answer if inspect.isawaitable(answer) else answer


def any_of(*checks: Allow) -> Allow:
    """Ask several checks; the first that knows the sender decides."""

    async def allow(request: Request) -> Answer:
        for check in checks:
            if (answer := await identify(check, request)) is not None:
                return answer
        return None

    return allow


def by_password(name: str, password: str, *, role: Role = "reader") -> Allow:
    """Allow the person who sends this name and password by HTTP Basic (RFC 7617).

    Raises ConfigurationError for an empty password.
    """
    person, expected = Person(name, role), f"{name}:{_secret(password, 'password')}".encode()

    def allow(request: Request) -> Answer:
        scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
        try:
            sent = base64.b64decode(encoded, validate=True)
        except (ValueError, binascii.Error):
            return None
        return person if scheme.lower() == "basic" and hmac.compare_digest(sent, expected) else None

    return allow


def by_token(token: str, *, name: str = "token", role: Role = "reader") -> Allow:
    """Allow bearers of the token, and a browser that has followed a link with `?token=...`, for 12 hours.

    The token leaves the address at once, and the cookie in its place does not contain it. Raises ConfigurationError for
    an empty token.
    """
    person, key = Person(name, role), _secret(token, "token").encode()

    def allow(request: Request) -> Answer:
        if (sent := request.query_params.get("token")) is not None:
            return _enter(request, key) if hmac.compare_digest(sent.encode(), key) else None
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return person if hmac.compare_digest(bearer.encode(), key) else None
        return person if _is_session(request.cookies.get(COOKIE, ""), key) else None

    return allow


def _enter(request: Request, key: bytes) -> Response:
    """Turn the token of the address into a session, so that it does not stay in the browser's history."""
    response = RedirectResponse(str(request.url.remove_query_params("token")), status_code=303)
    expires = int(time.time()) + SESSION
    response.set_cookie(
        COOKIE, f"{expires}.{_sign(expires, key)}", max_age=SESSION, httponly=True, samesite="lax",
        secure=request.url.scheme == "https", path=request.scope.get("root_path", "") or "/",
    )  # fmt: skip
    return response


def _is_session(cookie: str, key: bytes) -> bool:
    expires, _, signature = cookie.partition(".")
    if not (expires.isascii() and expires.isdigit()) or len(expires) > 12 or int(expires) < time.time():
        return False
    return hmac.compare_digest(signature.encode(), _sign(int(expires), key).encode())


def _sign(expires: int, key: bytes) -> str:
    return hmac.new(key, f"pgbus dashboard until {expires}".encode(), "sha256").hexdigest()


def _secret(value: str, what: str) -> str:
    if not value:
        raise ConfigurationError(f"the dashboard's {what} must not be empty: everybody would know it")
    return value
