"""The `pgbus` command line."""

from pgbus.cli.main import main

__all__ = ["main"]
