"""Plugins: installed distributions whose methods the configuration adds to a bus as hooks."""

from pgbus.plugins.base import Plugin, in_order, tell_plugins
from pgbus.plugins.loading import load_plugins, plugin_schemas

__all__ = ["Plugin", "in_order", "load_plugins", "plugin_schemas", "tell_plugins"]
