"""The results of a race: medians with their spread, as Markdown and as plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.plots import Bar, bars
from benchmarks.race.peers_table import PEERS, Workload
from benchmarks.race.workloads import Figures
from benchmarks.support import median, spread


@dataclass(frozen=True)
class Column:
    """A figure of a workload: its heading, and how many digits stand behind the point."""

    key: str
    heading: str
    digits: int = 0


@dataclass(frozen=True)
class Sheet:
    """How a workload is shown. `plot` is the column that is drawn."""

    title: str
    about: str
    columns: Sequence[Column]
    plot: str


def _by_clients(numbers: Sequence[int], *columns: Column) -> list[Column]:
    return [
        Column(f"{number} {one.key}", f"{number}: {one.heading}", one.digits) for number in numbers for one in columns
    ]


CPU = (
    Column("cpu", "CPU us/event", 1),
    Column("worker", "of that worker", 1),
    Column("server", "server", 1),
)

SHEETS: Mapping[Workload, Sheet] = {
    "W1": Sheet(
        "W1 Publish in the user's transaction",
        "The rate of a transaction that writes one small row and publishes, as a part of the rate of the same "
        "transaction with one INSERT into an outbox by hand, by the same driver, in turns. CPU is that of client and "
        "server per transaction. 1, 8 and 32 clients in one process.",
        _by_clients((1, 8, 32), Column("of hand", "of by hand", 2), Column("tx/s", "tx/s"), Column("cpu", "CPU us")),
        "1 of hand",
    ),
    "W2": Sheet(
        "W2 Publish in bulk",
        "In transactions of 5,000 to 10,000 events, by the fastest way that the peer has. The bare INSERT of the same "
        "driver and run is given arrays of ready rows.",
        (
            Column("events/s", "events/s"),
            Column("of bare", "of a bare INSERT", 2),
            Column("cpu", "CPU us/event, client and server", 1),
        ),
        "events/s",
    ),
    "W3": Sheet(
        "W3 Handle what is stored, one process",
        "From the start of the first handler, which does nothing, until all is acknowledged in the database. CPU is "
        "that of the worker and of all processes of the server since then.",
        (Column("events/s", "events/s"), *CPU),
        "events/s",
    ),
    "W4": Sheet(
        "W4 Handle what is stored, two processes",
        "The same work for two worker processes, which share two cores with the server.",
        (Column("events/s", "events/s"), *CPU),
        "events/s",
    ),
    "W5": Sheet(
        "W5 Latency of an idle bus",
        "From before the publisher's transaction to the handler's first line, in another process; one event at a time, "
        "10 to 30 ms apart.",
        (Column("p50", "p50 ms", 2), Column("p99", "p99 ms", 2)),
        "p50",
    ),
    "W6": Sheet(
        "W6 Three listeners",
        "Each of three listeners in one process gets every event. All figures but the publisher's are per delivery.",
        (
            Column("deliveries/s", "deliveries/s"),
            *(Column(one.key, one.heading.replace("event", "delivery"), 1) for one in CPU),
            Column("published/s", "published events/s"),
            Column("wal", "WAL bytes per delivery"),
        ),
        "deliveries/s",
    ),
    "W7": Sheet(
        "W7 WAL and dead rows",
        "From the runs of W2 and W3. Dead row versions are those that updates and deletes have made, whether or not "
        "vacuum has removed them.",
        (
            Column("publish", "WAL bytes/event, publish"),
            Column("handle", "handle"),
            Column("all", "both"),
            Column("dead", "dead row versions/event", 3),
        ),
        "all",
    ),
    "W8": Sheet(
        "W8 Calls",
        "A caller's process and a server's process. One call after the other, then 50 at once; CPU of caller and "
        "database.",
        (
            Column("p50", "p50 ms", 2),
            Column("p99", "p99 ms", 2),
            Column("calls/s", "calls/s with 50 callers"),
            Column("p50 at 50", "p50 ms with 50", 1),
            Column("cpu", "CPU us/call, caller and database", 0),
        ),
        "calls/s",
    ),
    "W10": Sheet(
        "W10 Publishers with a worker on the same cores",
        "The rate of transactions that write one small row and publish, while a worker handles the events, as a part "
        "of the rate of those that do not publish.",
        _by_clients((8, 32), Column("of plain", "of plain", 2), Column("tx/s", "tx/s")),
        "8 of plain",
    ),
}


@dataclass
class Results:
    """Figures by workload and peer, one per pass; who was skipped, and the versions of what ran."""

    figures: dict[Workload, dict[str, list[Figures]]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    versions: dict[str, dict[str, str]] = field(default_factory=dict)

    def add(self, peer: str, found: Mapping[Workload, Figures]) -> None:
        for workload, figures in found.items():
            self.figures.setdefault(workload, {}).setdefault(peer, []).append(figures)


def markdown(results: Results, *, heading: str, how: Sequence[str]) -> str:
    """The page of results, with all tables."""
    parts = [f"# The race\n\n{heading}"]
    parts.append("## What ran\n\n" + _peers(results))
    parts += [_sheet(workload, results.figures[workload]) for workload in SHEETS if workload in results.figures]
    if results.failures:
        parts.append("## What failed, or did not run\n\n" + "\n".join(f"- {one}" for one in results.failures))
    parts.append("## How to repeat it\n\n" + "\n\n".join(how))
    return "\n\n".join(parts) + "\n"


def _peers(results: Results) -> str:
    lines = ["| peer | versions | settings | note |", "|---|---|---|---|"]
    for name, versions in results.versions.items():
        entry = PEERS[name]
        named = ", ".join(f"{one} {number}" for one, number in versions.items())
        lines.append(f"| {entry.title} | {named} | {entry.settings} | {entry.note} |")
    lines += [f"| {PEERS[name].title} | not run | | {_cell(why)} |" for name, why in results.skipped.items()]
    return "\n".join(lines)


def _sheet(workload: Workload, figures: Mapping[str, Sequence[Figures]]) -> str:
    sheet = SHEETS[workload]
    lines = [
        "| | " + " | ".join(one.heading for one in sheet.columns) + " |",
        "|---|" + "---|" * len(sheet.columns),
    ]
    for peer, passes in figures.items():
        cells = (spread(_values(passes, column), column.digits) for column in sheet.columns)
        lines.append(f"| {PEERS[peer].title} | " + " | ".join(cells) + " |")
    plot = f"![{sheet.title}](../docs/explanation/plots/{_plot_name(workload)})"
    return f"## {sheet.title}\n\n{sheet.about}\n\n" + "\n".join(lines) + f"\n\n{plot}"


def _plot_name(workload: Workload) -> str:
    return f"race-{workload.lower()}.svg"


def _values(passes: Sequence[Figures], column: Column) -> list[float]:
    return [one[column.key] for one in passes if column.key in one]


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "/").split())


def plots(results: Results) -> dict[str, str]:
    """SVG by file name: one plot per workload, of its main column."""
    drawn = {}
    for workload, figures in results.figures.items():
        sheet = SHEETS[workload]
        [column] = [one for one in sheet.columns if one.key == sheet.plot]
        shown = []
        for peer, passes in figures.items():
            if values := _values(passes, column):
                text = f"{median(values):,.{column.digits}f}"
                shown.append(Bar(PEERS[peer].title, median(values), min(values), max(values), text))
        if shown:
            drawn[_plot_name(workload)] = bars(sheet.title, column.heading, shown)
    return drawn
