"""The port on which an integration serves HTTP by itself."""

from __future__ import annotations

import socket

from pgbus.errors import ConfigurationError


def listen(host: str, port: int) -> tuple[socket.socket, str]:
    """Open a port, of which 0 means a free one; returns the socket, and the address for people: `http://host:port`.

    Raises ConfigurationError if the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        raise ConfigurationError(f"cannot serve on {host}, port {port}: {error.strerror or error}") from error
    # Connections inherit it: asyncio sets it only for sockets that name their protocol, and answers would wait 40 ms.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    shown = f"[{host}]" if ":" in host else host
    return listening, f"http://{shown}:{listening.getsockname()[1]}"
