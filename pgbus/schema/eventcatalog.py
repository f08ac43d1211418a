"""The contract of a bus as the files of an EventCatalog: services, their events and procedures, and the teams.

services/<service>/index.mdx
services/<service>/events/<topic>/index.mdx, schema.json
services/<service>/commands/<procedure>/index.mdx, request.json, response.json
teams/<owner>.mdx
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from pgbus.errors import InvalidSchema
from pgbus.handlers.about import About
from pgbus.schema.contract import Contract
from pgbus.schema.documents import Stored, readable_json

Files: TypeAlias = dict[str, bytes]
"""Contents by path, relative to the catalog's directory."""

LIST = ".pgbus-catalog"
"""The file that lists what was written: what is not written again is removed."""
# The directory of what no service with a name has published.
_NAMELESS = "nameless"


def to_eventcatalog(contract: Contract) -> Files:
    """The catalog's files. Equal contracts make equal files.

    EventCatalog wants versions of three numbers: a schema's third version is 3.0.0. A procedure is a command.
    """
    services = sorted({one.service for one in (*contract.events, *contract.procedures, *contract.listeners)})
    files: Files = {}
    for service in services:
        files.update(_service(contract, service))
    stored = (*contract.events, *contract.procedures, *contract.listeners)
    for owner in sorted({one.about.owner for one in stored if one.about.owner}):
        files[f"teams/{_slug(owner)}.mdx"] = _page({"id": _slug(owner), "name": owner}, "")
    return dict(sorted(files.items()))


def write_eventcatalog(files: Files, directory: str | Path) -> None:
    """Write the files, and remove those that an earlier call wrote and this one does not; raises InvalidSchema."""
    root = Path(directory)
    try:
        for path in _written(root) - files.keys():
            (root / path).unlink(missing_ok=True)
        for path, content in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(content)
        (root / LIST).write_text("".join(f"{path}\n" for path in files), encoding="utf-8")
    except OSError as error:
        raise InvalidSchema(f"cannot write the catalog to {directory}: {error.strerror}: {error.filename}") from error


def _written(root: Path) -> set[str]:
    try:
        listed = (root / LIST).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return set()
    # Somebody may have edited the list: nothing outside the two directories is ours to remove.
    return {path for path in listed if re.fullmatch(r"(services|teams)(/(?!\.\.?/)[^/]+)+", path)}


# ---------------------------------------------------------------------------------------------------------------- pages


def _service(contract: Contract, service: str) -> Iterator[tuple[str, bytes]]:
    folder = f"services/{_slug(service or _NAMELESS)}"
    own = [one for one in contract.listeners if one.service == service]
    events = [one for one in contract.events if one.service == service]
    procedures = [one for one in contract.procedures if one.service == service]
    heard = {topic for listener in own for topic in contract.topics_of(listener)}
    received = [one for one in contract.published if one.name in heard]
    front = {
        "id": _slug(service or _NAMELESS),
        "name": service or _NAMELESS,
        "version": _version(contract.version),
        "sends": _pointers(events),
        "receives": _pointers([*received, *procedures]),
        **_owners(one.about for one in (*events, *procedures, *own)),
    }
    yield f"{folder}/index.mdx", _page(front, _listeners(own) + "<NodeGraph />\n")
    for one in events:
        yield from _message(f"{folder}/events", one, {"schema": "parameters"})
    for one in procedures:
        yield from _message(f"{folder}/commands", one, {"request": "parameters", "response": "response"})


def _message(folder: str, stored: Stored, parts: Mapping[str, str]) -> Iterator[tuple[str, bytes]]:
    folder = f"{folder}/{_slug(stored.name)}"
    front = {
        "id": stored.name,
        "name": stored.name,
        "version": _version(stored.version),
        "summary": stored.about.description,
        "schemaPath": f"{next(iter(parts))}.json",
        "attachments": [{"title": title, "url": url} for title, url in sorted(stored.about.links.items())],
        **_owners([stored.about]),
    }
    viewers = "".join(f'<SchemaViewer file="{file}.json" title="{file.capitalize()}" />\n' for file in parts)
    yield f"{folder}/index.mdx", _page(front, f"{_plain(stored.about.description)}\n\n{viewers}\n<NodeGraph />\n")
    for file, part in parts.items():
        yield f"{folder}/{file}.json", readable_json(stored.schema[part])


def _listeners(listeners: Iterable[Stored]) -> str:
    lines = [
        f"- `{one.name.replace('`', '')}` hears {', '.join(f'`{pattern}`' for pattern in sorted(one.schema['events']))}"
        + (f": {_plain(one.about.description)}" if one.about.description else "")
        for one in listeners
    ]
    return "## Listeners\n\n" + "\n".join(lines) + "\n\n" if lines else ""


def _pointers(stored: Iterable[Stored]) -> list[dict[str, str]]:
    found = {(one.name, _version(one.version)) for one in stored}
    return [{"id": name, "version": version} for name, version in sorted(found)]


def _owners(abouts: Iterable[About]) -> dict[str, list[str]]:
    owners = sorted({_slug(one.owner) for one in abouts if one.owner})
    return {"owners": owners} if owners else {}


def _page(front: Mapping[str, Any], body: str) -> bytes:
    """A page: its head is YAML, of which JSON is a part."""
    head = "".join(f"{key}: {_inline(value)}\n" for key, value in front.items() if value)
    return f"---\n{head}---\n\n{body}".encode()


def _inline(value: object) -> str:
    return msgspec.json.encode(value, order="sorted").decode()


def _version(number: int) -> str:
    return f"{number}.0.0"


def _slug(name: str) -> str:
    """A name as a directory's: other characters than letters, digits, dots and hyphens become their numbers."""
    plain = re.sub(r"[^\w.-]", lambda found: f"-{ord(found[0]):x}-", name)
    return f"-{plain}" if plain.startswith(".") else plain


def _plain(text: str) -> str:
    """The same words, in which MDX finds neither markup nor an expression."""
    return re.sub(r"[{}<>]", lambda found: f"&#{ord(found[0])};", text)
