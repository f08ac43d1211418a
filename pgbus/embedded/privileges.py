"""How the server's programs run when we are root, which PostgreSQL refuses: as another user, with no user created."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from pgbus.embedded.binaries import Binaries
from pgbus.errors import EmbeddedPostgresError

# In a user namespace our own root appears as user 1000: files stay ours on disk, private parents stay passable.
_NAMESPACE = ("unshare", "--user", "--map-user=1000", "--map-group=1000")


@dataclass(frozen=True, slots=True)
class Privileges:
    """A command prefix, and the (user, group) that must own what the server writes if they are not our own."""

    prefix: tuple[str, ...] = ()
    owner: tuple[int, int] | None = None

    def give(self, path: Path) -> None:
        """Hand `path` to the user that the server runs as."""
        if self.owner is not None:
            os.chown(path, *self.owner)

    def runnable(self, binaries: Binaries, *, copies: Path) -> Binaries:
        """These binaries, or a copy under `copies` if the server's user may not read them where they lie."""
        if self._can_run(binaries):
            return binaries
        copy = binaries.copied_to(copies)
        if self._can_run(copy):
            return copy
        raise EmbeddedPostgresError(
            f"{binaries.program('initdb')} cannot be run as the user nobody, nor can a copy of it: "
            "start this process as an ordinary user"
        )

    def _can_run(self, binaries: Binaries) -> bool:
        # Through a shell, which has dropped root's capabilities for good: `setpriv` itself may still enter private
        # directories. And initdb, because it needs libraries that postgres does without.
        through_shell = ("/bin/sh", "-c", 'exec "$0" --version', binaries.program("initdb"))
        return self.owner is None or _succeeds(*self.prefix, *through_shell)


def find_privileges() -> Privileges:
    """Nothing special for an ordinary user; for root a user namespace or, where those are forbidden, user nobody.

    Root is supported on Linux only. Raises EmbeddedPostgresError if neither way is open.
    """
    if os.geteuid() != 0:
        return Privileges()
    if shutil.which(_NAMESPACE[0]) and _succeeds(*_NAMESPACE, "true"):
        return Privileges(prefix=_NAMESPACE)
    nobody = pwd.getpwnam("nobody")
    prefix = ("setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups")
    if shutil.which(prefix[0]) and _succeeds(*prefix, "true"):
        return Privileges(prefix=prefix, owner=(nobody.pw_uid, nobody.pw_gid))
    raise EmbeddedPostgresError(
        "PostgreSQL refuses to run as root, and neither `unshare --user` nor `setpriv` works here: start this process "
        "as an ordinary user, or use a server of your own"
    )


def _succeeds(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
