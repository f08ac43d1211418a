"""The `pgbus` command line. `main` is imported on demand, because a program that imports `pgbus.cli.logs` needs no
commands.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pgbus.cli.program import main

__all__ = ["main"]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name != "main":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from pgbus.cli.program import main

        return main
