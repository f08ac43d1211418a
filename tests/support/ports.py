"""Ports for servers of tests, which keep them while they are down."""

from __future__ import annotations

import contextlib
import random
import socket

# Connections that go out get their own ports from 32768 on, also those of whoever tries to reach a server that is down:
# it could not be started again on a port that one of them has got.
_PORTS = range(20_000, 32_000)


def free_port() -> int:
    """A port that nobody has, and that no connection gets."""
    chance = random.SystemRandom()  # whoever seeds the other one would get the same ports in each process
    while True:
        port = chance.choice(_PORTS)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
