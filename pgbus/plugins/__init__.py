"""Plugins: what is installed beside an application, and hooked into its bus by configuration."""

from pgbus.plugins.base import Plugin, in_order, tell_plugins
from pgbus.plugins.loading import load_plugins, plugin_schemas

__all__ = ["Plugin", "in_order", "load_plugins", "plugin_schemas", "tell_plugins"]
