"""The tasks framework: Django's own, from version 6 on, else the package django-tasks, which has the same names."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import Any

from django.conf import settings

_NAME = next((name for name in ("django.tasks", "django_tasks") if find_spec(name)), None)


def framework(module: str = "") -> Any:
    """A module of the framework; raises ImportError where it is not installed."""
    if _NAME is None:
        raise ImportError("a backend for tasks needs Django 6 or the package django-tasks: install pgbus[django-tasks]")
    return importlib.import_module(f"{_NAME}.{module}" if module else _NAME)


def declare_task_listeners() -> None:
    """Have workers run what is enqueued at the backends of TASKS that are pgbus's."""
    if _NAME is None or not hasattr(settings, "TASKS"):
        return
    backends = framework().task_backends
    for alias in backends.settings:
        # By its path, so that the backends of others are not made before they are needed.
        if backends.settings[alias]["BACKEND"].startswith("pgbus."):
            backends[alias].declare_listeners()
