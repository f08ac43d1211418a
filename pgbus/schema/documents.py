"""Declared and stored schemas, and their documents: JSON objects of APIs in files or streams.

{"auth": {"events": {"user_created": {"parameters": ...}},
          "rpcs": {"check_password": {"parameters": ..., "response": ...}}}}
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import IO, Any, TypeAlias

import msgspec

from pgbus.database.statements.schemas import Kind
from pgbus.errors import InvalidSchema
from pgbus.handlers.about import About
from pgbus.schema.keywords import Schema
from pgbus.topics import split_name

logger = logging.getLogger("pgbus")

Documents: TypeAlias = dict[str, dict[str, dict[str, Schema]]]

_SECTIONS: Mapping[str, Kind] = {"events": "event", "rpcs": "procedure"}
_PARTS: Mapping[str, tuple[str, ...]] = {"event": ("parameters",), "procedure": ("parameters", "response")}
# The file of what has no API, as its topic is a single word.
_NAMELESS = "_"


@dataclass(frozen=True, slots=True)
class Declaration:
    """The declaration of one event, procedure or listener; `ancestors` are the topics of an event's parent classes."""

    kind: Kind
    name: str
    schema: Schema
    ancestors: tuple[str, ...] = ()
    about: About = field(default_factory=About)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One version of a schema as it was published; `is_live`: by a worker that is there now.

    `is_registered` is true unless it is of a listener that was removed; `options` are a registered listener's.
    """

    kind: Kind
    name: str
    schema: Schema
    service: str = ""
    version: int = 1
    is_live: bool = True
    workers: tuple[str, ...] = ()
    is_registered: bool = True
    options: Mapping[str, object] = field(default_factory=dict)
    about: About = field(default_factory=About)
    first_seen_at: datetime | None = None
    published_at: datetime | None = None
    last_seen_at: datetime | None = None


def read_schema(text: str) -> Schema | None:
    """Return a stored schema; None for JSON that Python cannot represent, because any publisher may store any JSON."""
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError) as error:
        logger.warning("a stored schema is skipped, because it cannot be read: %s", error)
        return None


def to_documents(items: Iterable[Declaration | Stored]) -> Documents:
    """The events and procedures among the items, by API; of two with one name, the later one."""
    sections = {kind: section for section, kind in _SECTIONS.items()}
    documents: Documents = {}
    for item in items:
        if item.kind == "listener":
            continue
        api, name = split_name(item.name)
        documents.setdefault(api, {"events": {}, "rpcs": {}})[sections[item.kind]][name] = item.schema
    return {api: documents[api] for api in sorted(documents)}


def join_name(api_name: str, name: str) -> str:
    """The topic or procedure of a name within an API, which may be empty."""
    return f"{api_name}.{name}" if api_name else name


def from_documents(documents: object, *, source: str) -> Iterator[Declaration]:
    """The declarations that a document holds; raises InvalidSchema naming what is wrong in `source`."""
    for api, sections in _mapping(documents, f"{source} is not a JSON object of APIs").items():
        for section, entries in _mapping(sections, f"{source}: API {api!r} is not a JSON object").items():
            kind = _SECTIONS.get(section)
            if kind is None:
                raise InvalidSchema(f"{source}: API {api!r} has {section!r}; there are 'events' and 'rpcs'")
            for name, schema in _mapping(entries, f"{source}: {section} of API {api!r} are not a JSON object").items():
                full_name = join_name(api, name)
                found = _mapping(schema, f"{source}: {full_name} is not a JSON object")
                if missing := [part for part in _PARTS[kind] if part not in found]:
                    raise InvalidSchema(f"{source}: {full_name} has no {' and no '.join(map(repr, missing))}")
                yield Declaration(kind, full_name, dict(found))


def _mapping(value: object, complaint: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InvalidSchema(complaint)
    return value


# ----------------------------------------------------------------------------------------------------------- files


def read_documents(source: str | Path | IO[str] | IO[bytes]) -> list[Declaration]:
    """Read a file, the `*.json` of a directory, or an open file; raises InvalidSchema."""
    if not isinstance(source, str | Path):
        name = str(getattr(source, "name", "the stream"))
        try:
            text = source.read()
        except UnicodeDecodeError as error:
            raise InvalidSchema(f"{name} is not JSON: {error}") from error
        return list(from_documents(_decode(text, name), source=name))
    path = Path(source)
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files:
        raise InvalidSchema(f"there is no *.json in {path}")
    return [one for file in files for one in from_documents(_decode(_read(file), str(file)), source=str(file))]


def write_documents(documents: Documents, destination: str | Path) -> None:
    """Write one file, or one `<api>.json` for each API if the destination is a directory or ends in a slash."""
    path = Path(destination)
    if path.is_dir() or str(destination).endswith("/"):
        path.mkdir(parents=True, exist_ok=True)
        for api, sections in documents.items():
            (path / f"{api or _NAMELESS}.json").write_bytes(readable_json({api: sections}))
    else:
        path.write_bytes(readable_json(documents))


def readable_json(value: object) -> bytes:
    """A value as JSON for people: indented, keys in order, so that two files compare line by line."""
    return msgspec.json.format(msgspec.json.encode(value, order="sorted"), indent=2) + b"\n"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidSchema(f"cannot read {path}: {error.strerror}") from error


def _decode(text: str | bytes, source: str) -> object:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise InvalidSchema(f"{source} is not JSON: {error}") from error
