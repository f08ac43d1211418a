"""Hooks of the site (`mkdocs.yml`): its navigation, and the pages that lie outside `docs/`.

The navigation follows the directories, so that a new page is in it. README.md and other pages that people read in the
repository become pages of the site, and links to source files, which the site does not have, become their names.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

SECTIONS = {
    "Tutorial": "tutorial",
    "How to": "how-to",
    "Reference": "reference",
    "API": "reference/api",
    "Explanation": "explanation",
    "Decisions": "decisions",
}
OUTSIDE = {
    "README.md": "readme.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "benchmarks/RESULTS.md": "benchmarks/results.md",
    "benchmarks/SCALE.md": "benchmarks/scale.md",
}
"""Paths in the site by paths in the repository."""
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
_FENCED = re.compile(r"(^```.*?^```)", re.MULTILINE | re.DOTALL)


def on_config(config: Any) -> Any:
    """Set the navigation: a section for each directory, with its pages by name."""
    config["nav"] = [
        {"pgbus": "index.md"},
        *({title: _pages(directory)} for title, directory in SECTIONS.items()),
        {"Project": list(OUTSIDE.values())},
    ]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages from outside the directory."""
    from mkdocs.structure.files import File

    for source, place in OUTSIDE.items():
        files.append(File.generated(config, place, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:  # noqa: ARG001 - a hook's signature
    """Return the page with links that lead to where things are in the site."""
    place = page.file.src_uri
    # Where the page lies in the repository, which its links begin from.
    source = next((path for path, at in OUTSIDE.items() if at == place), f"docs/{place}")
    parts = _FENCED.split(markdown)
    return "".join(
        part if number % 2 else _LINK.sub(lambda found: _link(found, place, source), part)
        for number, part in enumerate(parts)
    )


def _link(found: re.Match[str], place: str, source: str) -> str:
    mark, text, target = found.groups()
    path, _, anchor = target.partition("#")
    if not path or ":" in path:
        return found[0]
    wanted = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    if wanted.startswith("docs/"):
        there = wanted.removeprefix("docs/")
    elif wanted in OUTSIDE:
        there = OUTSIDE[wanted]
    else:
        if not (ROOT / wanted).exists():
            return found[0]  # mkdocs says that it leads nowhere
        return text if wanted in text else f"{text} (`{wanted}`)"
    near = posixpath.relpath(there, posixpath.dirname(place) or ".")
    return f"{mark}[{text}]({near}{'#' + anchor if anchor else ''})"


def _pages(directory: str) -> list[str]:
    found = sorted((ROOT / "docs" / directory).glob("*.md"), key=lambda page: (page.name != "index.md", page.name))
    return [page.relative_to(ROOT / "docs").as_posix() for page in found]
