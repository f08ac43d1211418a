"""Integrations that commands use, which need what only an extra brings."""

from __future__ import annotations

import importlib
from types import ModuleType

from pgbus.errors import ConfigurationError


def import_extra(module: str, *, used_by: str, extra: str) -> ModuleType:
    """Import an integration by its name, as with plugins.

    Raises ConfigurationError where its extra is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"{used_by} needs {error.name}, which is not installed: pip install 'pgbus[{extra}]'"
        ) from None
