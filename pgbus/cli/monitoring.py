"""The address of `pgbus run --http`, and serving metrics and health there, where that extra is installed."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass

import rich_click as click

import pgbus
from pgbus.cli.extras import import_extra
from pgbus.cli.supervisor import copy_number


@dataclass(frozen=True, slots=True)
class Address:
    """The address to serve on. Of several copies, the first serves on `port`, the second on `port` + 1, and so on."""

    host: str
    port: int

    @classmethod
    def read(cls, text: str) -> Address:
        """Read HOST:PORT or [IPV6]:PORT; raises BadParameter for anything else."""
        host, colon, port = text.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            colon = ""
        if not (colon and host and port.isascii() and port.isdigit() and int(port) < 65_536):
            raise click.BadParameter(f"{text!r} is not HOST:PORT, such as 0.0.0.0:9464 or [::1]:9464")
        return cls(host, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def monitoring(bus: pgbus.Bus, address: Address | None) -> AbstractAsyncContextManager[object]:
    """Serve /metrics, /livez and /readyz of the bus within the block; nothing without an address.

    Raises ConfigurationError where the extra is not installed.
    """
    if address is None:
        return nullcontext()
    module = import_extra("pgbus.contrib.prometheus.serving", used_by="--http", extra="prometheus")
    serving: AbstractAsyncContextManager[int] = module.serving(bus, address.host, address.port + _offset(address))
    return serving


def _offset(address: Address) -> int:
    return max(0, copy_number() - 1) if address.port else 0
