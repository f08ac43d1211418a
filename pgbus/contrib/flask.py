"""Flask: an extension that binds the bus to the application's scoped session, and answers for calls that failed."""

from __future__ import annotations

import logging
from typing import Any

from flask import Flask, current_app, request
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import scoped_session
from werkzeug.exceptions import default_exceptions

from pgbus.api import BoundBus
from pgbus.bus import Bus
from pgbus.contrib.requests import CauseMiddleware
from pgbus.contrib.statuses import status_of
from pgbus.errors import NoAnswer

logger = logging.getLogger("pgbus")


class PgBus:
    """The extension: `events = PgBus(bus, session=db.session)`, then `events.init_app(app)`, for any number of apps.

    - `bus`: the service's bus; it connects when it is first used, so importing and forking come before.
    - `session`: SQLAlchemy's `scoped_session`, as Flask-SQLAlchemy's `db.session` is one. To commit it is left to the
      views; to remove it at the end of a request, to who made it.
    - `app`: an application to initialise at once.
    """

    def __init__(self, bus: Bus, *, session: scoped_session[Any], app: Flask | None = None) -> None:
        self.bus: BoundBus = bus.bind(session)
        """Publishes in the transaction of the request's session."""
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Be `app.extensions["pgbus"]`, and turn calls without an answer into 503, 504 and 502.

        503 is for NoWorkerAvailable, 504 for CallTimeout, 502 for WorkerLost. The application's own handlers of these
        codes render them; its handlers of these errors come first.

        What a request publishes and calls is caused by it: see `Cause.of_request` for the headers that say so.
        """
        app.wsgi_app = CauseMiddleware(app.wsgi_app)  # type: ignore[method-assign]
        app.extensions["pgbus"] = self
        app.register_error_handler(NoAnswer, _respond)


def _respond(error: NoAnswer) -> ResponseReturnValue:
    logger.warning("%s %s: %s", request.method, request.path, error)
    return current_app.handle_user_exception(default_exceptions[status_of(error)]())
