"""What a chaos run may or may not have on this machine: file systems and networks of its own, and programs."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self


class Tmpfs:
    """A file system in memory, of a size, that can be filled to its last byte."""

    def __init__(self, size: str) -> None:
        self._size = size
        self.path = Path(tempfile.mkdtemp(prefix="pgbus-disk-"))
        self._ballast = self.path / "ballast"

    @staticmethod
    @cache
    def lacks() -> str | None:
        """Why there can be none here, or None."""
        try:
            with Tmpfs("1M"):
                return None
        except (OSError, subprocess.CalledProcessError):
            return "needs the right to mount a tmpfs"

    def __enter__(self) -> Self:
        try:
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={self._size}", "tmpfs", str(self.path)],
                           check=True, capture_output=True)  # fmt: skip
        except BaseException:
            self.path.rmdir()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        subprocess.run(["umount", "--lazy", str(self.path)], check=False, capture_output=True)
        self.path.rmdir()

    def fill(self) -> None:
        """Leave no room at all."""
        with self._ballast.open("ab") as ballast:
            for size in (1 << 20, 4096):
                with contextlib.suppress(_NoRoom):
                    while True:
                        _grow(ballast.fileno(), size)

    def free(self) -> None:
        self._ballast.unlink(missing_ok=True)


class _NoRoom(Exception):
    """The file system is full."""


def _grow(file: int, size: int) -> None:
    try:
        os.posix_fallocate(file, os.fstat(file).st_size, size)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise _NoRoom from error


class Network:
    """A network namespace whose one link leads to ours, and can be cut."""

    def __init__(self) -> None:
        self.name = f"pgbus{uuid.uuid4().hex[:8]}"
        subnet = f"10.213.{random.randrange(256)}"  # two runs on one machine must not share it
        self.ours, self.theirs = f"{subnet}.1", f"{subnet}.2"
        self._link = f"{self.name[:12]}a"

    @staticmethod
    @cache
    def lacks() -> str | None:
        """Why there can be none here, or None."""
        if shutil.which("ip"):
            with contextlib.suppress(subprocess.CalledProcessError), network():
                return None
        return "needs the right to make network namespaces"

    @property
    def prefix(self) -> tuple[str, ...]:
        """What a command begins with to run there."""
        return ("ip", "netns", "exec", self.name)

    def cut(self) -> None:
        _ip("-n", self.name, "link", "set", "far", "down")

    def join(self) -> None:
        _ip("netns", "add", self.name)
        _ip("link", "add", self._link, "type", "veth", "peer", "name", "far", "netns", self.name)
        _ip("addr", "add", f"{self.ours}/24", "dev", self._link)
        _ip("link", "set", self._link, "up")
        _ip("-n", self.name, "addr", "add", f"{self.theirs}/24", "dev", "far")
        _ip("-n", self.name, "link", "set", "far", "up")

    def remove(self) -> None:
        for command in (("link", "del", self._link), ("netns", "del", self.name)):  # the first is at once
            subprocess.run(["ip", *command], check=False, capture_output=True)


@contextlib.contextmanager
def network() -> Iterator[Network]:
    found = Network()
    try:
        found.join()
        yield found
    finally:
        found.remove()


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@cache
def faketime() -> Path | None:
    """The library by which a process sees another time than its machine, if it is installed."""
    places = (
        "/usr/lib/*/faketime/libfaketime.so.1",
        "/usr/lib/faketime/libfaketime.so.1",
        "/usr/lib64/faketime/*.so.1",
    )
    return next((found for place in places for found in Path("/").glob(place.lstrip("/"))), None)
