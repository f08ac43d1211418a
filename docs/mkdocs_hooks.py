"""Hooks of the site (`mkdocs.yml`): its navigation, and the pages that lie outside `docs/`.

The navigation has all pages of a directory, in the order in which `index.md` leads to them, and each page says of which
kind it is. README.md and other pages that people read in the repository become pages of the site, and links to source
files, which the site does not have, become their names. Nothing comes from another host: the script that draws diagrams
is part of the site.
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
KINDS = {
    "tutorial": "Tutorial",
    "how-to": "How to",
    "reference": "Reference",
    "explanation": "Explanation",
    "decisions": "Decision",
}
"""What is above the title of a page, by its directory."""
OUTSIDE = {
    "README.md": "readme.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "benchmarks/RESULTS.md": "benchmarks/results.md",
    "benchmarks/SCALE.md": "benchmarks/scale.md",
}
"""Paths in the site by paths in the repository."""
MERMAID = "javascripts/mermaid.min.js"
"""Mermaid 11.16.0, as npm has it."""
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
_LOADED = re.compile(r'<(?:script|img|source|iframe|link rel="stylesheet")[^>]*(?:src|srcset|href)="https?://[^"]*')
_ADDRESS = re.compile(r'\b(src|srcset)="([^":]+)"')
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
    kind = KINDS.get(place.split("/")[0])
    if kind:  # below the title, from which the navigation has the page's name
        parts[0] = parts[0].replace("\n", f"\n\n<small>{kind}</small>\n", 1)
    return "".join(part if number % 2 else _placed(part, place, source) for number, part in enumerate(parts))


def on_post_page(output: str, page: Any, config: Any) -> str:  # noqa: ARG001 - a hook's signature
    """Add the script that draws diagrams to the pages that have one; else the theme loads it from another host."""
    if elsewhere := _LOADED.search(output):
        from mkdocs.exceptions import PluginError

        raise PluginError(f"{page.file.src_uri} loads something from another host: {elsewhere[0]}")
    if 'class="mermaid"' not in output:
        return output
    script = posixpath.relpath(MERMAID, posixpath.dirname(page.file.dest_uri) or ".")
    # The theme draws; without this, the script would draw as well.
    loaded = f'<script src="{script}"></script><script>mermaid.initialize({{startOnLoad: false}})</script>'
    return output.replace("</head>", f"{loaded}</head>", 1)


def _placed(text: str, place: str, source: str) -> str:
    """Prose with links and pictures that lead to where things are in the site."""
    text = _LINK.sub(lambda found: _link(found, place, source), text)
    return _ADDRESS.sub(lambda found: f'{found[1]}="{_relative(found[2], place, source) or found[2]}"', text)


def _relative(path: str, place: str, source: str) -> str | None:
    """The path of a file, as the page in the repository has it, from the page in the site; None if it is not there."""
    wanted = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    if wanted.startswith("docs/"):
        there = wanted.removeprefix("docs/")
    elif wanted in OUTSIDE:
        there = OUTSIDE[wanted]
    else:
        return None
    return posixpath.relpath(there, posixpath.dirname(place) or ".")


def _link(found: re.Match[str], place: str, source: str) -> str:
    mark, text, target = found.groups()
    path, _, anchor = target.partition("#")
    if not path or ":" in path:
        return found[0]
    near = _relative(path, place, source)
    if near is None:
        wanted = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        if not (ROOT / wanted).exists():
            return found[0]  # mkdocs says that it leads nowhere
        return text if wanted in text else f"{text} (`{wanted}`)"
    return f"{mark}[{text}]({near}{'#' + anchor if anchor else ''})"


def _pages(directory: str) -> list[str]:
    """The pages of a directory, in the order of their links in the index; those without one come last."""
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    found = [page.relative_to(ROOT / "docs").as_posix() for page in sorted((ROOT / "docs" / directory).glob("*.md"))]

    def place(page: str) -> tuple[bool, int]:
        linked = index.find(f"]({page})")
        return not page.endswith("/index.md"), linked if linked >= 0 else len(index)

    return sorted(found, key=place)
