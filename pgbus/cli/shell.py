"""`pgbus shell`: a Python prompt with the bus loaded."""

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
from pgbus.cli.global_options import database_options, load_config, pass_on
from pgbus.cli.loading import load_bus
from pgbus.cli.printable import printable
from pgbus.cli.prompt import SCRIPT, Completion, Prompt, describe, is_direct, run_script
from pgbus.database.faults import ServerError
from pgbus.topics import split_name


@click.command()
@click.argument("module", required=False, metavar="[MODULE[:BUS]]")
@database_options
def shell(module: str | None) -> None:
    """Open a Python prompt with `bus` and the names of pgbus; Tab completes events and procedures.

    MODULE and BUS are as for `pgbus run`. The prompt is IPython if it is installed (pgbus[shell]). Python code from a
    pipe is run, with exit code 1 if it raises.
    """
    config = load_config(module=module)
    pass_on(module=module)
    bus = load_bus(config.module)
    names = {name: getattr(pgbus, name) for name in pgbus.__all__}
    names |= {"__name__": "__main__", "pgbus": pgbus, "bus": bus}
    if not sys.stdin.isatty():
        _run_script(sys.stdin.read(), names, bus)
        return
    known = _known_names(bus)
    banner, completion = _banner(bus, known, module=config.module), Completion(names, known)
    if not _open_ipython(names, bus, completion, banner=banner):
        _open_prompt(names, bus, completion, banner=banner)


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
    """Return the traceback from the script's first line on."""
    while trace is not None and trace.tb_frame.f_code.co_filename != SCRIPT:
        trace = trace.tb_next
    return trace


def _known_names(bus: pgbus.Bus) -> list[str]:
    """Return the names of all known events and procedures, including those of other services."""
    try:
        return [".".join(names) for names in (*bus.schema.events, *bus.schema.rpcs)]
    except (pgbus.PgbusError, ServerError) as error:
        click.echo(printable(f"pgbus: the events and procedures of other services are unknown: {error}"), err=True)
        return []


def _open_prompt(names: dict[str, Any], bus: pgbus.Bus, completion: Completion, *, banner: str) -> None:
    with asyncio.Runner() as runner:
        try:
            Prompt(names, runner, completion).interact(banner=banner, exitmsg="")
        finally:
            runner.run(bus.close())


def _open_ipython(names: dict[str, Any], bus: pgbus.Bus, completion: Completion, *, banner: str) -> bool:
    """Open IPython; false if it is not installed."""
    try:
        from IPython.core import async_helpers
        from IPython.terminal.ipapp import TerminalIPythonApp
        from traitlets.config import Config
    except ImportError:
        return False
    config = Config()
    config.TerminalInteractiveShell.banner1 = banner
    config.TerminalInteractiveShell.banner2 = ""
    config.TerminalInteractiveShell.confirm_exit = False
    config.Completer.use_jedi = False  # it does not use `dir`
    app: Any = TerminalIPythonApp.instance(config=config, user_ns=names)
    app.initialize([])
    _adapt(app.shell, completion)
    try:
        app.start()
    finally:
        loop: asyncio.AbstractEventLoop = async_helpers.get_asyncio_loop()  # type: ignore[no-untyped-call]
        loop.run_until_complete(bus.close())
    return True


def _adapt(ipython: Any, completion: Completion) -> None:
    from IPython.core.completer import CompletionContext, SimpleCompletion, SimpleMatcherResult, context_matcher

    def match(context: CompletionContext) -> SimpleMatcherResult:
        """Complete paths of the bus, because IPython does not read attributes of a class with `__getattr__`."""
        before, begun = split_name(context.token)
        found = [text.removeprefix(before) for text in completion(context.token)]
        completions = [SimpleCompletion(text=text) for text in found]
        return {"completions": completions, "matched_fragment": f".{begun}", "suppress": bool(found)}

    def show(shell: Any, cls: type[BaseException], error: BaseException, trace: Any, tb_offset: Any = None) -> None:
        if is_direct(trace):
            click.echo(printable(describe(error)), err=True, nl=False)
        else:
            shell.showtraceback((cls, error, trace), tb_offset=tb_offset)

    matcher: Any = context_matcher(identifier="pgbus")(match)
    ipython.Completer.custom_matchers.insert(0, matcher)
    ipython.set_custom_exc((pgbus.PgbusError,), show)


def _banner(bus: pgbus.Bus, known: list[str], *, module: str) -> str:
    own = bus.client.api_registry.names()
    others = sorted({api for name in known if (api := split_name(name)[0]) and api not in own})
    return (
        f"pgbus {version('pgbus')}, Python {platform.python_version()}\n"
        f"`bus` is the bus of module {module}; registered APIs: {', '.join(own) or 'none'}; "
        f"APIs of other services: {', '.join(others) or 'none'}\n"
        "Tab completes, `await` works, Ctrl-D ends.\n"
    )
