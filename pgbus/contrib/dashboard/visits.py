"""One request of a page: what its address asks for, and what it reads with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias
from uuid import UUID

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from pgbus.admin import Admin
from pgbus.contrib.dashboard.access import Person
from pgbus.contrib.dashboard.desk import Desk
from pgbus.contrib.dashboard.forms import FormKey
from pgbus.errors import InvalidEventError

Shown: TypeAlias = Response | tuple[str, Mapping[str, Any]]
"""A response, or a template with its values."""
Page: TypeAlias = Callable[["Visit"], Awaitable[Shown]]

LIMIT = 50
"""Rows on a page; more follow on the next one."""


class Visit:
    """One request of a page by a person, with an Admin for it, and the payload fields that nobody sees.

    `form` has the fields of a form that was sent, and was found to be one of ours.
    """

    def __init__(
        self,
        request: Request,
        admin: Admin,
        *,
        desk: Desk,
        person: Person,
        key: FormKey,
        form: Mapping[str, str],
        hidden: frozenset[str],
    ) -> None:
        self.request = request
        self.admin = admin
        self.desk = desk
        self.person = person
        self.key = key
        self.form = form
        self.hidden = hidden
        self.problem = ""

    @property
    def root(self) -> str:
        """The path of the dashboard, where it is mounted."""
        return str(self.request.scope.get("root_path", ""))

    def asked(self, name: str) -> str | None:
        """A parameter of the address; None for one that is empty."""
        return self.request.query_params.get(name, "").strip() or None

    def path(self, name: str) -> str:
        """A part of the address."""
        return str(self.request.path_params[name])

    def uuid(self, name: str) -> UUID:
        """A part of the address that is an id; there is nothing under another text."""
        try:
            return UUID(self.path(name))
        except ValueError:
            raise HTTPException(404, "an id is a UUID") from None

    def read(self, name: str, reader: Callable[[str], Any]) -> Any:
        """A parameter as a value; the page says which cannot be read, and does not use it."""
        if (text := self.asked(name)) is None:
            return None
        try:
            return reader(text)
        except (ValueError, InvalidEventError) as error:
            self.problem = f"{name}: {error}"
            return None
