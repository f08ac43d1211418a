"""`manage.py pgbus ...`: the commands of `pgbus`, for the project's bus and in its database."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from pgbus.cli.program import pgbus
from pgbus.contrib.django.project import get_bus

_MODULE = "pgbus.contrib.django.worker"
# As the settings say them; the others reach the worker with the bus itself.
_PASSED_ON = ("dsn", "direct_dsn", "namespace")


class Command(BaseCommand):
    """Hands its arguments on as they are, with the project's bus in place of a module's."""

    help = "Run a worker (`run`), upgrade the bus's schema (`db upgrade`), and whatever else `pgbus` does."
    requires_system_checks: Sequence[str] = ()

    def run_from_argv(self, argv: list[str]) -> None:
        """Run the command, and end the program with its exit code."""
        from pgbus.cli import main

        arguments = _without_djangos(argv[2:])
        _tell_settings()
        sys.argv = [f"{os.path.basename(argv[0])} pgbus", *arguments]  # noqa: PTH119 - a string, for the help
        main()

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take whatever comes: `call_command("pgbus", "db", "upgrade")`."""
        parser.add_argument("arguments", nargs="*")

    def handle(self, *_: object, arguments: Sequence[str], **__: Any) -> None:
        """Run the command within this program, and leave its environment as it was; raises CommandError if it fails."""
        before = dict(os.environ)
        try:
            _tell_settings()
            code = pgbus.main(list(arguments), prog_name="manage.py pgbus", standalone_mode=False)
        finally:
            for name in os.environ.keys() - before.keys():
                del os.environ[name]
            os.environ.update(before)
        if isinstance(code, int) and code:
            raise CommandError(f"`pgbus {' '.join(arguments)}` failed", returncode=code)


def _without_djangos(arguments: Sequence[str]) -> list[str]:
    """The arguments without `--settings` and `--pythonpath`, which `manage.py` has read by now."""
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--settings")
    parser.add_argument("--pythonpath")
    return parser.parse_known_args(arguments)[1]


def _tell_settings() -> None:
    """Have the commands, and the processes that they start, find the bus. As variables, for a DSN is a secret."""
    config = get_bus().config
    for name in _PASSED_ON:
        if (value := getattr(config, name)) is not None:
            os.environ[f"PGBUS_{name.upper()}"] = str(value)
    os.environ["PGBUS_MODULE"] = _MODULE
    paths = [os.environ.get("PYTHONPATH", ""), sys.path[0]]  # where `manage.py` lies: a copy is started elsewhere
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
