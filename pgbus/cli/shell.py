"""`pgbus shell`: a Python prompt with the bus at hand."""

from __future__ import annotations

import asyncio
import platform
import sys
import traceback
from importlib.metadata import version
from types import TracebackType
from typing import Any

import rich_click as click
from click import get_current_context

import pgbus
from pgbus.cli.exits import FAILED
from pgbus.cli.loading import load_bus
from pgbus.cli.options import database_options, load_config, pass_on
from pgbus.cli.prompt import SCRIPT, Prompt, complete, run_script


@click.command()
@click.argument("module", required=False, metavar="[MODULE[:BUS]]")
@database_options
def shell(module: str | None) -> None:
    """Open a Python prompt with `bus` and the names of pgbus: fire, call, and let Tab complete.

    MODULE and BUS are what `pgbus run` takes. It is IPython if that is installed (pgbus[shell]). Python that comes from
    a pipe is run, and an exception in it is exit code 1.
    """
    config = load_config(module=module)
    pass_on(module=module)
    bus = load_bus(config.module)
    names = {name: getattr(pgbus, name) for name in pgbus.__all__}
    names |= {"__name__": "__main__", "pgbus": pgbus, "bus": bus}
    banner = _banner(bus, module=config.module)
    if not sys.stdin.isatty():
        _run_script(sys.stdin.read(), names, bus)
    elif not _open_ipython(names, bus, banner=banner):
        _open_prompt(names, bus, banner=banner)


def _run_script(source: str, names: dict[str, Any], bus: pgbus.Bus) -> None:
    with asyncio.Runner() as runner:
        try:
            run_script(source, names, runner)
        except Exception as error:
            traceback.print_exception(error.with_traceback(_from_script(error.__traceback__)))
            get_current_context().exit(FAILED)
        finally:
            runner.run(bus.close())


def _from_script(trace: TracebackType | None) -> TracebackType | None:
    """The traceback from the script's own first line on."""
    while trace is not None and trace.tb_frame.f_code.co_filename != SCRIPT:
        trace = trace.tb_next
    return trace


def _open_prompt(names: dict[str, Any], bus: pgbus.Bus, *, banner: str) -> None:
    with asyncio.Runner() as runner:
        try:
            Prompt(names, runner).interact(banner=banner, exitmsg="")
        finally:
            runner.run(bus.close())


def _open_ipython(names: dict[str, Any], bus: pgbus.Bus, *, banner: str) -> bool:
    """Open IPython; false if it is not installed."""
    try:
        from IPython.core.async_helpers import get_asyncio_loop
        from IPython.terminal.ipapp import TerminalIPythonApp
        from traitlets.config import Config
    except ImportError:
        return False
    config = Config()
    config.TerminalInteractiveShell.banner1 = banner
    config.TerminalInteractiveShell.banner2 = ""
    config.TerminalInteractiveShell.confirm_exit = False
    config.Completer.use_jedi = False  # it knows nothing of what `dir` says
    app: Any = TerminalIPythonApp.instance(config=config, user_ns=names)
    app.initialize([])
    # IPython's own completion reads no attribute of a class with a `__getattr__`, so it walks no path.
    app.shell.set_custom_completer(lambda _, text: complete(text, app.shell.user_ns))
    try:
        app.start()
    finally:
        loop: asyncio.AbstractEventLoop = get_asyncio_loop()  # type: ignore[no-untyped-call]
        loop.run_until_complete(bus.close())
    return True


def _banner(bus: pgbus.Bus, *, module: str) -> str:
    apis = ", ".join(bus.client.api_registry.names()) or "none"
    return (
        f"pgbus {version('pgbus')}, Python {platform.python_version()}\n"
        f"`bus` is that of module {module}; registered APIs: {apis}\n"
        "Tab completes, `await` works, Ctrl-D ends.\n"
    )
