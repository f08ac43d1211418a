"""Distributions as an installer leaves them: a module, and metadata beside it that names its entry points."""

from __future__ import annotations

import textwrap
from pathlib import Path


def install(directory: Path, name: str, source: str, *, plugins: dict[str, str]) -> None:
    """Put a module into a directory of the import path; `plugins` are its classes by the names of the plugins."""
    directory.mkdir(exist_ok=True)
    (directory / f"{name}.py").write_text(textwrap.dedent(source))
    metadata = directory / f"{name}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [f"{plugin} = {name}:{cls}" for plugin, cls in plugins.items()]
    (metadata / "entry_points.txt").write_text("\n".join(["[pgbus_plugins]", *lines, ""]))
