"""What a chaos run has found, as Markdown and as JSON."""

from __future__ import annotations

import json
import os
import platform
from collections import defaultdict
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from tests.chaos.campaign import Episode, Result


def as_json(result: Result) -> str:
    return json.dumps(_values(result), indent=2, default=str) + "\n"


def as_markdown(result: Result) -> str:
    """A table of faults, the counts, and each law that was broken."""
    verdict = result.verdict
    lines = [
        "| fault | times | goal (s) | goes on after (s) | caught up after (s) | longest wait (s) | goal met |",
        "|---|---|---|---|---|---|---|",
        *(_row(name, episodes) for name, episodes in _by_fault(result.episodes).items()),
        "",
        f"- {len(result.episodes)} faults in {result.seconds / 60:.1f} minutes, seed {result.seed}",
        f"- {verdict.committed:,} committed events, {verdict.deliveries:,} deliveries handled",
        f"- handled more than once: {_counts(verdict.duplicates)}",
        f"- dead letters that the handler asked for: {verdict.dead_letters}; calls: {_counts(verdict.calls)}",
        f"- {'; '.join(f'{name} {found}' for name, found in _versions(result).items())}",
        *(f"- skipped: {name} ({reason})" for name, reason in result.skipped.items()),
        "",
    ]
    if verdict.broken:
        lines += ["Broken:", "", *(f"- {law}: {rows}" for law, rows in verdict.broken.items())]
    else:
        lines += ["No law was broken."]
    return "\n".join(lines) + "\n"


def _counts(found: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(found.items())) or "none"


def _by_fault(episodes: list[Episode]) -> dict[str, list[Episode]]:
    found: dict[str, list[Episode]] = defaultdict(list)
    for episode in sorted(episodes, key=lambda one: (one.fault.kind, one.fault.name)):
        found[episode.fault.name].append(episode)
    return found


def _row(name: str, episodes: list[Episode]) -> str:
    fault = episodes[0].fault
    met = sum(episode.is_met for episode in episodes)
    cells = [
        name,
        len(episodes),
        f"{fault.goal:.0f} once {fault.since}",
        _worst([episode.recovery for episode in episodes]),
        _worst([episode.caught_up for episode in episodes]),
        _worst([episode.stall for episode in episodes]),
        "yes" if met == len(episodes) else f"{met} of {len(episodes)}",
    ]
    return f"| {' | '.join(map(str, cells))} |"


def _worst(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{max(known):.1f}" if len(known) == len(values) else "not"


def _versions(result: Result) -> dict[str, object]:
    return {
        "pgbus": version("pgbus"),
        "PostgreSQL": result.server_version,
        "Python": platform.python_version(),
        "Linux": platform.release(),
        "cores": os.cpu_count(),
        "load": f"{os.getloadavg()[1]:.1f}",
    }


def _values(result: Result) -> dict[str, Any]:
    return {
        "seed": result.seed,
        "seconds": result.seconds,
        "versions": _versions(result),
        "verdict": asdict(result.verdict),
        "skipped": result.skipped,
        "faults": [
            {
                "name": episode.fault.name, "kind": episode.fault.kind, "goal": episode.fault.goal,
                "since": episode.fault.since, "began_at": episode.began_at, "recovery": episode.recovery,
                "last": episode.last, "caught_up": episode.caught_up, "stall": episode.stall, "met": episode.is_met,
                "findings": episode.findings,
            }
            for episode in result.episodes
        ],
    }  # fmt: skip
