"""`pgbus doctor`: what is wrong with the bus and its database, and the command that repairs it."""

from __future__ import annotations

import asyncio
from itertools import groupby

import rich_click as click
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from pgbus.cli.exits import FAILED
from pgbus.cli.global_options import database_options, load_config
from pgbus.cli.options import json_option
from pgbus.cli.output import console, print_json
from pgbus.doctor import Examination, Finding, Verdict, examine

_MARKS: dict[Verdict, tuple[str, str]] = {
    "ok": ("ok", "green"),
    "warning": ("warning", "yellow"),
    "fault": ("fault", "bold red"),
    "skipped": ("skipped", "dim"),
}


@click.command()
@click.option("--all", "show_all", is_flag=True, help="Show what is well, too.")
@database_options
@json_option
def doctor(show_all: bool, as_json: bool) -> None:
    """Examine the bus and its database: each fault with its evidence and the command that repairs it.

    Exit code 1 if something is wrong now; warnings, and checks that were skipped, leave it 0.
    """
    found = asyncio.run(examine(load_config()))
    if as_json:
        for finding in found.findings:
            print_json(finding)
    else:
        console().print(_screen(found, show_all=show_all))
    if found.faults:
        raise SystemExit(FAILED)


def _screen(found: Examination, *, show_all: bool) -> RenderableType:
    shown = [one for one in found.findings if show_all or one.verdict != "ok"]
    parts: list[RenderableType] = []
    for group, findings in groupby(shown, key=lambda one: one.group):
        parts += [Text(group, style="bold"), *map(_lines, findings), Text()]
    return Group(*parts, _summary(found))


def _lines(finding: Finding) -> RenderableType:
    mark, style = _MARKS[finding.verdict]
    lines = Text.assemble((f"{mark:8}", style), (f"{finding.check}: ", "bold"), finding.evidence)
    if finding.remedy:
        lines.append("\n        mend it: ", style="dim").append(finding.remedy, style="cyan")
    return Padding(lines, (0, 0, 0, 2))


def _summary(found: Examination) -> Text:
    count = {verdict: sum(one.verdict == verdict for one in found.findings) for verdict in _MARKS}
    text = Text(f"{len(found.findings)} checks: {count['ok']} ok")
    for verdict, number in count.items():
        if number and verdict != "ok":
            plural = "s" if number > 1 and verdict != "skipped" else ""
            text.append(f", {number} {verdict}{plural}", style=_MARKS[verdict][1])
    return text
