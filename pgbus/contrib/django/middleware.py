"""Django's middleware: what a request publishes and calls is caused by it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from inspect import iscoroutinefunction
from typing import Any, cast

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.decorators import sync_and_async_middleware

from pgbus.causality import Cause, caused_by


@sync_and_async_middleware
def caused_by_request(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """For MIDDLEWARE: "pgbus.contrib.django.middleware.caused_by_request"; see `Cause.of_request` for the headers.

    Under WSGI and ASGI alike, for views of both kinds.
    """
    if iscoroutinefunction(get_response):
        answer = cast("Callable[[HttpRequest], Awaitable[HttpResponseBase]]", get_response)

        async def respond(request: HttpRequest) -> HttpResponseBase:
            with caused_by(_cause_of(request)):
                return await answer(request)

        return respond

    def respond_sync(request: HttpRequest) -> HttpResponseBase:
        with caused_by(_cause_of(request)):
            return cast("HttpResponseBase", get_response(request))

    return respond_sync


def _cause_of(request: HttpRequest) -> Cause:
    return Cause.of_request({name.lower(): value for name, value in request.headers.items()})
