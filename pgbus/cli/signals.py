"""Handles the signals that stop a program: SIGTERM, Ctrl-C, and SIGHUP when its terminal is closed."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable
from typing import NoReturn


def heed_signals(stop: Callable[[], None]) -> None:
    """Call `stop` at every SIGTERM and SIGINT (the second one means: do not wait), and at SIGHUP if that comes first.

    A closing terminal may send SIGHUP twice, from the shell and from the kernel, and service managers may send it right
    after SIGTERM: so it begins a stop, but never makes it immediate.
    """
    loop = asyncio.get_running_loop()
    told = asked = False

    def stop_each_time() -> None:
        nonlocal told, asked
        # Signals that arrive together are handled in the order of their numbers: SIGHUP before an earlier SIGTERM.
        if asked or not told:
            stop()
        told = asked = True

    def stop_once() -> None:
        nonlocal told
        if not told:
            told = True
            stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop_each_time)
    if not _ignores_hangup():
        loop.add_signal_handler(signal.SIGHUP, stop_once)


def interrupt_by_signals() -> None:
    """Make SIGTERM and SIGHUP raise KeyboardInterrupt, as Ctrl-C does."""
    # Not Ctrl-C's own handler: a shell lets commands in the background ignore Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if not _ignores_hangup():
        signal.signal(signal.SIGHUP, signal.default_int_handler)


def wait_for_interrupt() -> NoReturn:
    """Wait until one of these signals raises KeyboardInterrupt."""
    # Not `signal.pause`: a signal that comes right before it, when Python has looked for signals, ends no pause.
    hearing, told = socket.socketpair()
    told.setblocking(False)
    signal.set_wakeup_fd(told.fileno())
    try:
        while True:
            hearing.recv(1)
    finally:
        signal.set_wakeup_fd(-1)
        hearing.close()
        told.close()


def ignore_hangups() -> None:
    """Ignore SIGHUP from now on, so that a second one does not interrupt the end of the program."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _ignores_hangup() -> bool:
    """Whether SIGHUP was ignored when the process started, as under `nohup`."""
    return signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
