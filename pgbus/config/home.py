"""The default name of a bus's service: that of the project, or of the folder, of the module that makes the bus."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

# Folders that say how code is laid out or deployed, and not what it is.
_LAYOUT = frozenset({
    "app", "apps", "application", "backend", "bin", "bus", "code", "config", "core", "current", "dist-packages", "env",
    "home", "lib", "lib64", "opt", "private", "project", "python", "release", "releases", "root", "service", "services",
    "site-packages", "source", "src", "srv", "tmp", "usr", "users", "var", "venv", "work", "workspace", "www",
})  # fmt: skip
# A release's number or date, or a commit.
_RELEASE = re.compile(r"[vr]?[\d._-]+|(?=[a-z]*\d)[0-9a-f]{7,40}|python\d(\.\d+)?t?", re.IGNORECASE)
_HOMES = frozenset({"home", "Users"})


@dataclass(frozen=True, slots=True)
class Home:
    """The name of a service, empty if its folders give none, and the folder that gave it."""

    name: str
    folder: str


def home_of_caller(frame: FrameType) -> Home | None:
    """The home of the module whose own code runs in the frame; None for a function, and where there is no file.

    Code of a function may make buses for others, in a test or a tool: only a module's own bus is its service's.
    """
    file = frame.f_globals.get("__file__")
    if frame.f_code.co_name != "<module>" or not isinstance(file, str):
        return None
    return find_home(Path(file).absolute().parent)


def find_home(folder: Path) -> Home:
    """The first folder on the way up that is a project or has a name of its own.

    The name has to be the same at each start, on each host, and after each deploy: so it is neither random, nor that of
    a host, nor that of a release.
    """
    for place in (folder, *folder.parents):
        if name := _project(place) or _telling_name(place):
            return Home(re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII).strip("-"), str(place))
    return Home("", str(folder))


def _project(folder: Path) -> str:
    try:
        text = (folder / "pyproject.toml").read_text(encoding="utf-8")
    except OSError:
        return ""
    import tomllib  # most deployed code has no project's file

    try:
        content = tomllib.loads(text)
    except ValueError:
        return ""
    tables = (content.get("project"), (content.get("tool") or {}).get("poetry"))
    return next((str(table["name"]) for table in tables if isinstance(table, dict) and table.get("name")), "")


def _telling_name(folder: Path) -> str:
    name = folder.name
    is_layout = name.lower() in _LAYOUT or name.startswith((".", "_")) or _RELEASE.fullmatch(name)
    return "" if is_layout or folder.parent.name in _HOMES else name
