"""`pgbus call`: call one procedure from the shell."""

from __future__ import annotations

import asyncio

import msgspec
import rich_click as click

from pgbus.cli.global_options import database_options, load_config
from pgbus.cli.loading import create_bus
from pgbus.cli.options import Seconds, read_json, read_pair
from pgbus.cli.output import encode_json
from pgbus.cli.printable import printable
from pgbus.errors import NoWorkerAvailable, RemoteError


def read_argument(text: str) -> tuple[str, object]:
    """An argument from NAME=VALUE; the value is JSON if it parses as JSON, else a string."""
    name, value = read_pair(text)
    try:
        return name, msgspec.json.decode(value)
    except (msgspec.DecodeError, RecursionError):
        return name, value


@click.command()
@click.argument("procedure", metavar="API.PROCEDURE")
@click.argument("given", required=False, type=read_json, metavar="[JSON]")
@database_options
@click.option(
    "--arg",
    "-a",
    "named",
    type=read_argument,
    multiple=True,
    metavar="NAME=VALUE",
    help="An argument; VALUE is JSON if it parses as JSON, else a string. Repeatable.",
)
@click.option("--timeout", type=Seconds(min=0, min_open=True), metavar="SECONDS", help="Wait up to this many seconds.")
@click.option("--wait", is_flag=True, help="If no worker serves the procedure, wait for one, until the timeout.")
def call(
    *,
    procedure: str,
    given: object,
    named: tuple[tuple[str, object], ...],
    timeout: float | None,
    wait: bool,
) -> None:
    """Call API.PROCEDURE on a worker that serves it, and print its result as JSON.

    JSON has all arguments as one object (`-` reads stdin); --arg names one, or adds one.

    Exit codes: 0 it returned, 2 the arguments do not fit, 5 it raised, 6 no live worker serves it, 7 no response in
    time, 8 its worker died before it responded.
    """
    arguments = _arguments(given, named)
    config = load_config()

    async def call_it() -> msgspec.Raw:
        async with create_bus(config) as bus:
            result: msgspec.Raw = await bus.call(procedure, arguments, timeout=timeout, wait=wait, returns=msgspec.Raw)
            return result

    try:
        result = asyncio.run(call_it())
    except NoWorkerAvailable as error:
        raise NoWorkerAvailable(
            str(error).replace("or call with wait=True", "or use --wait"), procedure=procedure
        ) from error
    except RemoteError as error:
        click.echo(printable(error.remote_traceback.rstrip()), err=True)
        raise
    click.echo(encode_json(result))


def _arguments(given: object, named: tuple[tuple[str, object], ...]) -> dict[str, object]:
    arguments = {} if given is None else given
    if not isinstance(arguments, dict):
        raise click.UsageError('arguments are one object, such as \'{"username": "adam"}\'')
    for name, value in named:
        if name in arguments:
            raise click.UsageError(f"the argument {name!r} is given twice")
        arguments[name] = value
    return arguments
