"""`pgbus config`: each setting and where it came from."""

from __future__ import annotations

import rich_click as click
from rich.text import Text

from pgbus.cli.options import database_options, json_option, load_config
from pgbus.cli.output import console, print_json, table
from pgbus.config import Setting


@click.command("config")
@database_options
@json_option
def show_config(as_json: bool) -> None:
    """Show each setting and where it came from; passwords are hidden. With --json also what it means."""
    settings = load_config().describe()
    if as_json:
        for setting in settings:
            print_json(setting)
        return
    rows = table("setting", "value", "source", wide=("value",))
    for setting in settings:
        rows.add_row(Text(setting.name, style="bold"), _value(setting), _source(setting))
    console().print(rows)


def _value(setting: Setting) -> Text:
    if setting.value is None or setting.value == "":
        return Text("-", style="dim")
    return Text(f"{setting.value:.12g}" if isinstance(setting.value, float) else str(setting.value))


def _source(setting: Setting) -> Text:
    return Text(setting.source, style="dim" if setting.source == "default" else "cyan")
