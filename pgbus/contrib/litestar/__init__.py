"""Litestar: durable events behind `app.emit` and `@listener`, in the request's transaction where there is one."""

from pgbus.contrib.litestar.emitter import PgBusEventEmitter
from pgbus.contrib.litestar.listeners import PgBusListener, listener
from pgbus.contrib.litestar.plugin import PgBusPlugin

__all__ = ["PgBusEventEmitter", "PgBusListener", "PgBusPlugin", "listener"]
