"""The configuration file of a process."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pgbus.errors import ConfigurationError


def read_table(directory: Path) -> tuple[Mapping[str, object], str]:
    """What the directory's file says, and the name of that source."""
    if (path := directory / "pgbus.toml").is_file():
        return _read_toml(path), "pgbus.toml"
    if (path := directory / "pyproject.toml").is_file():
        return _read_toml(path).get("tool", {}).get("pgbus", {}), "[tool.pgbus]"
    return {}, "pgbus.toml"


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ConfigurationError(f"{path.name} cannot be read: {error}") from None
