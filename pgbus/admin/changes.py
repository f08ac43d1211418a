"""The transactions in which operators change something."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeAlias

# Begins a transaction.
Change: TypeAlias = Callable[[], AbstractAsyncContextManager[Any]]
