"""`pgbus config`: show each setting with its source, and the schema of the file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import rich_click as click
from rich.text import Text

from pgbus.cli.global_options import database_options, load_config
from pgbus.cli.options import json_option
from pgbus.cli.output import console, print_json
from pgbus.cli.tables import Column, Listing
from pgbus.config import Setting, file_schema
from pgbus.plugins import plugin_schemas


@click.group("config", invoke_without_command=True)
@database_options
@json_option
@click.pass_context
def config(context: click.Context, as_json: bool) -> None:
    """Show each setting and its source; passwords are hidden. With --json also its meaning."""
    if context.invoked_subcommand is None:
        _show(load_config().describe(), as_json=as_json)


@config.command("schema")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write it to this file.")
def schema(out: Path | None) -> None:
    """Print a JSON Schema of the configuration file, for editors and CI, including the installed plugins."""
    text = msgspec.json.format(msgspec.json.encode(file_schema(plugin_schemas())), indent=2).decode()
    if out is None:
        click.echo(text)
    else:
        out.write_text(f"{text}\n", encoding="utf-8")
        click.echo(f"schema of the configuration file written to {out}", err=True)


def _show(settings: Sequence[Setting], *, as_json: bool) -> None:
    if as_json:
        for setting in settings:
            print_json(setting)
        return
    rows = Listing(Column(heading="setting"), Column(heading="value", elastic=True), Column(heading="source"))
    for setting in settings:
        rows.add(Text(setting.name, style="bold"), _value(setting), _source(setting))
    console().print(rows)


def _value(setting: Setting) -> Text:
    if setting.value is None or setting.value == "":
        return Text("-", style="dim")
    if isinstance(setting.value, bool):
        return Text(str(setting.value).lower())
    return Text(f"{setting.value:.12g}" if isinstance(setting.value, float) else str(setting.value))


def _source(setting: Setting) -> Text:
    return Text(setting.source, style="dim" if setting.source == "default" else "cyan")
