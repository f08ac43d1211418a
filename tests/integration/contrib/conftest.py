"""Frameworks that warn when they are imported, once, before any test is."""

from __future__ import annotations

import importlib
import warnings

collect_ignore_glob: list[str] = []

with warnings.catch_warnings():
    # advanced-alchemy, which Litestar imports, uses a decorator that SQLAlchemy 2.1 deprecates.
    warnings.simplefilter("ignore", DeprecationWarning)
    try:
        importlib.import_module("advanced_alchemy.extensions.litestar")
        importlib.import_module("litestar.testing")
    except ImportError:
        collect_ignore_glob.append("test_litestar*")
