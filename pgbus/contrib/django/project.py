"""The bus of a Django project: one in a process, in the database that Django's settings name."""

from __future__ import annotations

import importlib
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import connections
from django.db.backends.base.base import NO_DB_ALIAS, BaseDatabaseWrapper

from pgbus.bus import Bus
from pgbus.config import Config
from pgbus.config.home import find_home
from pgbus.contrib.django.connections import close_old_connections_around, close_old_connections_of_async_code
from pgbus.contrib.django.settings import ProjectSettings, read_settings
from pgbus.handlers.signatures import Wanted
from pgbus.plugins import load_plugins


class DjangoBus(Bus):
    """A bus whose database is the one that Django's connection leads to: in a test run, that is the test's.

    Its handlers find connections that are neither broken nor too old.
    """

    def __init__(self, project: ProjectSettings, config: Config) -> None:
        self.project = project
        self._config = config
        self._place = _place_of(project.database)
        super().__init__(config, plugins=load_plugins(config))
        # A transactional handler that takes no connection is called in `atomic`, and uses its models.
        self.registry.transaction = Wanted("django", BaseDatabaseWrapper, lambda: connections[project.database])
        self.middleware(close_old_connections_of_async_code(self))
        self.middleware(close_old_connections_around)

    @property
    def config(self) -> Config:
        """Its settings, with the database that Django has now."""
        place = _place_of(self.project.database)
        if place != self._place:
            changes: dict[str, Any] = {**self.project.dsns()}
            self._config = replace(self._config, **changes)
            self._place = place
            self.client.sender.config = self.client.calls.config = self._config
            self.schema.forget()
        return self._config

    @config.setter
    def config(self, config: Config) -> None:
        self._config = config

    def follow(self, *, connection: Any, **_: object) -> None:
        """Publish and call in the database that Django has now; called when Django opens a connection.

        One that leads to no database of its own is there to create, copy or drop one, where no other may be open.
        """
        if connection.alias == NO_DB_ALIAS:
            self.close_sync()
        self.config  # noqa: B018 - to look is to follow


@cache
def get_bus() -> DjangoBus:
    """The project's bus; raises ConfigurationError for settings that are wrong."""
    project = read_settings()
    config = Config.load({**project.config, **project.dsns()})
    if (file := _settings_file()) is not None:
        config = config.at_home(find_home(file.parent))
    return DjangoBus(project, config)


def _place_of(alias: str) -> tuple[object, ...]:
    # A test run writes the names of its databases, and of each process's copies of them, into these very dicts.
    found: dict[str, Any] = connections.settings[alias]
    return tuple(found[name] for name in ("NAME", "HOST", "PORT", "USER", "PASSWORD"))


def _settings_file() -> Path | None:
    name = settings.SETTINGS_MODULE  # None for settings that were made by `settings.configure()`
    file = getattr(importlib.import_module(name), "__file__", None) if name else None
    return Path(file).absolute() if file else None
