"""Forms that change something: how their fields are read, and that no other site has sent them.

A form is accepted if it has a token that only our own pages can contain, made of a cookie that no script reads, and if
nothing that the browser says of its origin speaks against it. Some browsers say nothing; then the token decides.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Mapping
from urllib.parse import parse_qsl, urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from pgbus.contrib.dashboard.access import Person

FIELD = "form_token"
MAX_FORM = 4 * 1024 * 1024
"""Bytes of a form; a larger one is refused."""
MAX_FIELDS = 50

_COOKIE = "pgbus_form"


class FormKey:
    """The secret of one browser, from which the tokens of its forms are made; a new one where it has none yet.

    Over HTTPS the cookie's name has the prefix `__Host-`, so that no other host of the domain can set it.
    """

    def __init__(self, request: Request) -> None:
        self._secure = request.url.scheme == "https"
        self._name = f"__Host-{_COOKIE}" if self._secure else _COOKIE
        self._path = "/" if self._secure else request.scope.get("root_path", "") or "/"
        sent = request.cookies.get(self._name, "")
        self._sent = len(sent) >= 32
        self._key = sent if self._sent else secrets.token_urlsafe(32)
        self._used = False

    def token(self, person: Person) -> str:
        """The token for the forms of this person."""
        self._used = True
        return hmac.new(self._key.encode(), f"pgbus form of {person.name}".encode(), "sha256").hexdigest()

    def keep(self, response: Response) -> None:
        """Have the browser keep the secret, if a form on this page needs it."""
        if self._used and not self._sent:
            response.set_cookie(
                self._name, self._key, httponly=True, samesite="lax", secure=self._secure, path=self._path
            )

    def accepts(self, token: str, person: Person) -> bool:
        """Whether a form of this browser and person has this token."""
        return self._sent and hmac.compare_digest(token.encode(), self.token(person).encode())


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a form; raises HTTPException for one that is too large or of another kind."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        raise HTTPException(415, "a form is application/x-www-form-urlencoded")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM:
            raise HTTPException(413, f"a form may have {MAX_FORM:,} bytes")
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict"))
    except ValueError:
        raise HTTPException(400, "this form cannot be read") from None


def check_form(request: Request, form: Mapping[str, str], key: FormKey, person: Person) -> None:
    """Raise HTTPException unless a page of this dashboard has sent the form."""
    site = request.headers.get("sec-fetch-site")
    if site not in (None, "same-origin"):
        raise HTTPException(403, "this form was sent by another site")
    origin = request.headers.get("origin") or request.headers.get("referer")
    # The scheme may differ: a proxy ends TLS.
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host", ""):
        raise HTTPException(
            403, "this form was sent by another site; if it was not, have the proxy pass on the header Host"
        )
    if not key.accepts(form.get(FIELD, ""), person):
        raise HTTPException(403, "this form is not one of yours, or too old: open its page again")
