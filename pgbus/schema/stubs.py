"""A `.pyi` stub of a bus module, so that editors and type checkers know what is at `bus.auth.check_password(`."""

from __future__ import annotations

import keyword
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from pgbus.schema.documents import Declaration, Stored
from pgbus.schema.keywords import Schema
from pgbus.topics import split_name

_HEADER = """\
# Written by `pgbus schema stubs`; write it again when an API changes.
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Literal, NotRequired, TypedDict
from uuid import UUID

import pgbus
"""

# The types that a caller may pass for a format of a schema, besides a string.
_FORMATS = {
    "date-time": "datetime",
    "date": "date",
    "time": "time",
    "duration": "timedelta",
    "uuid": "UUID",
    "decimal": "Decimal",
}
_TYPES = {"string": "str", "integer": "int", "number": "float", "boolean": "bool", "null": "None"}


_OPTIONS = "bus_options: Mapping[str, object] | None = None"


class _Node(msgspec.Struct):
    """The content of one path: further words, an event, a procedure, or several of these."""

    words: dict[str, _Node] = msgspec.field(default_factory=dict)
    event: Schema | None = None
    procedure: Schema | None = None


def make_stubs(
    items: Iterable[Declaration | Stored],
    *,
    bus_name: str = "bus",
    own: Collection[str] = (),
    taken_names: Collection[str] = (),
) -> str:
    """The text of a stub for a module whose bus is `bus_name`; what cannot be written as a path is left out.

    So is what begins with one of `taken_names`, which are attributes of the bus.

    `own` names the procedures that the module has itself, whose results are cast to its annotations: a schema does not
    describe types other than plain values.
    """
    root = _tree(items)
    for name in taken_names:
        root.words.pop(name, None)
    writer = _Writer(own)
    words = writer.words(root, ())
    lines = [
        _HEADER,
        *writer.classes,
        "class Bus(pgbus.Bus):",
        *(words or ["    ..."]),
        "",
        f"{bus_name}: Bus",
        "",
        "def __getattr__(name: str) -> Any: ...",
    ]
    return "\n".join(lines) + "\n"


def _tree(items: Iterable[Declaration | Stored]) -> _Node:
    root = _Node()
    for item in items:
        words = item.name.split(".")
        api, _ = split_name(item.name)
        if item.kind == "listener" or not api or not all(_is_attribute(word) for word in words):
            continue
        node = root
        for word in words:
            node = node.words.setdefault(word, _Node())
        if item.kind == "event":
            node.event = item.schema
        else:
            node.procedure = item.schema
    return root


def _is_attribute(word: str) -> bool:
    return word.isidentifier() and not keyword.iskeyword(word) and not word.startswith("_")


class _Writer:
    def __init__(self, own: Collection[str]) -> None:
        self.classes: list[str] = []
        self._own = own
        self._taken: set[str] = set()

    def words(self, node: _Node, path: tuple[str, ...]) -> list[str]:
        """The properties of a class for what may follow the path; their own classes are written first."""
        lines = []
        for word, child in sorted(node.words.items()):
            name = self._class(child, (*path, word))
            lines += ["    @property", f"    def {word}(self) -> {name}: ..."]
        return lines

    def _class(self, node: _Node, path: tuple[str, ...]) -> str:
        inner = self.words(node, path)
        name = self._free("_" + "".join(_camel(word) for word in path))
        is_own = ".".join(path) in self._own
        body = [*self._event(node.event, name), *self._procedure(node.procedure, name, is_own=is_own), *inner]
        # Not BusPath, whose methods take anything.
        self.classes += [f"class {name}:", *(body or ["    ..."]), ""]
        return name

    # ------------------------------------------------------------------------------------------------------ methods

    def _event(self, schema: Schema | None, owner: str) -> list[str]:
        if schema is None:
            return []
        signature = self._signature(schema["parameters"], owner, f"using: object = None, {_OPTIONS}")
        listening = (
            "self, listener: Callable[..., Any], *, listener_name: str | None = None, "
            f"{_OPTIONS}, on_error: pgbus.OnError = ..."
        )
        return [
            f"    def fire({signature}) -> pgbus.EventMessage: ...",
            f"    async def fire_async({signature}) -> pgbus.EventMessage: ...",
            f"    def listen({listening}) -> None: ...",
            f"    async def listen_async({listening}) -> None: ...",
            *_schema_members(is_procedure=False),
        ]

    def _procedure(self, schema: Schema | None, owner: str, *, is_own: bool) -> list[str]:
        if schema is None:
            return []
        arguments = self._signature(schema["parameters"], owner, _OPTIONS)
        response = schema["response"]
        result = (
            "Any"
            if is_own and _is_cast(response)
            else self._type(response, _Names(response, f"{owner}Result"), is_result=True)
        )
        signature = f"({arguments}) -> {result}: ..."
        return [
            f"    def __call__{signature}",
            f"    def call{signature}",
            f"    async def call_async{signature}",
            *_schema_members(is_procedure=True),
        ]

    def _signature(self, schema: Schema, owner: str, options: str) -> str:
        names = _Names(schema, owner)
        arguments = [
            f"{name}: {self._type(part, names)}{'' if is_required else ' = ...'}"
            for name, part, is_required in _members(schema)
            if _is_attribute(name)
        ]
        others = ["**others: object"] if schema.get("additionalProperties") is not False else []
        return ", ".join(["self", "*", *arguments, options, *others])

    # -------------------------------------------------------------------------------------------------------- types

    def _type(self, part: Any, names: _Names, *, is_result: bool = False) -> str:
        """The Python type of a schema; a result is plain JSON, and an argument may be what becomes it."""
        if not isinstance(part, dict):
            return "Any"
        if reference := part.get("$ref"):
            return self._referenced(str(reference).rsplit("/", 1)[-1], names, is_result=is_result)
        if "enum" in part or "const" in part:
            return _literal(part["enum"] if "enum" in part else [part["const"]])
        if options := part.get("anyOf") or part.get("oneOf"):
            return _union([self._type(option, names, is_result=is_result) for option in options])
        kind = part.get("type")
        if isinstance(kind, list):
            return _union([self._type({**part, "type": one}, names, is_result=is_result) for one in kind])
        if kind == "array":
            return self._array(part, names, is_result=is_result)
        if kind == "object":
            return self._object(part, names, is_result=is_result)
        found = _TYPES.get(kind, "Any") if isinstance(kind, str) else "Any"
        if is_result or found != "str":
            return found
        if part.get("contentEncoding") == "base64":
            return "bytes | str"
        other = _FORMATS.get(part.get("format", ""))
        return f"{other} | str" if other else "str"

    def _array(self, part: Schema, names: _Names, *, is_result: bool) -> str:
        prefix = part.get("prefixItems")
        if prefix and part.get("maxItems") == len(prefix) and not is_result:
            return f"tuple[{', '.join(self._type(one, names) for one in prefix)}] | list[Any]"
        items = "Any" if prefix else self._type(part.get("items", True), names, is_result=is_result)
        return f"list[{items}]" if is_result else f"list[{items}] | tuple[{items}, ...] | set[{items}]"

    def _object(self, part: Schema, names: _Names, *, is_result: bool) -> str:
        if "properties" in part:
            # What is the whole value has a title of its own kind: "RPC auth.find() response".
            own_name = "" if "$schema" in part else _camel(str(part.get("title") or "Object"))
            name = self._free(f"{names.owner}{own_name}")
            return self._typed_dict(name, part, names, is_result=is_result)
        values = self._type(part.get("additionalProperties", True), names, is_result=is_result)
        return f"dict[str, {values}]"

    def _referenced(self, definition: str, names: _Names, *, is_result: bool) -> str:
        if definition in names.written:
            return names.written[definition]
        part = names.definitions.get(definition, {})
        if "properties" not in part:
            names.written[definition] = "Any"  # should it hold itself
            names.written[definition] = self._type(part, names, is_result=is_result)
            return names.written[definition]
        name = self._free(f"{names.owner}{_camel(definition)}")
        names.written[definition] = name
        return self._typed_dict(name, part, names, is_result=is_result)

    def _typed_dict(self, name: str, part: Schema, names: _Names, *, is_result: bool) -> str:
        items = []
        for key, value, is_required in _members(part):
            found = self._type(value, names, is_result=is_result)
            is_there = is_required or (is_result and isinstance(value, Mapping) and "default" in value)
            items.append(f"    {key!r}: {found if is_there else f'NotRequired[{found}]'},")
        self.classes += [f"{name} = TypedDict({name!r}, {{", *items, "})", ""]
        return name

    def _free(self, name: str) -> str:
        candidate, number = name, 1
        while candidate in self._taken:
            number += 1
            candidate = f"{name}{number}"
        self._taken.add(candidate)
        return candidate


class _Names:
    """The definitions of one schema, and the types that were written for them."""

    def __init__(self, schema: Schema, owner: str) -> None:
        self.definitions: Mapping[str, Any] = schema.get("$defs", {})
        self.owner = owner
        self.written: dict[str, str] = {}


def _is_cast(part: Schema) -> bool:
    """Whether a result becomes something else than the JSON value that arrives, or may do so."""
    if options := part.get("anyOf"):
        return any(_is_cast(option) for option in options)
    return part.get("type") not in _TYPES or not {"enum", "format", "contentEncoding"}.isdisjoint(part)


def _members(part: Schema) -> list[tuple[str, Any, bool]]:
    """The properties: name, schema, and whether it is required. The database does not keep their order."""
    properties, required = part.get("properties", {}), part.get("required", [])
    rest = sorted(properties.keys() - set(required))
    return [
        *((name, properties[name], True) for name in required if name in properties),
        *((name, properties[name], False) for name in rest),
    ]


def _schema_members(*, is_procedure: bool) -> list[str]:
    lines = [
        "    @property",
        "    def parameter_schema(self) -> dict[str, Any]: ...",
        "    def validate_parameters(self, parameters: Mapping[str, object]) -> None: ...",
    ]
    if is_procedure:
        lines += [
            "    @property",
            "    def response_schema(self) -> dict[str, Any]: ...",
            "    def validate_response(self, response: object) -> None: ...",
        ]
    return lines


def _literal(values: Sequence[Any]) -> str:
    # Literal takes no floats and nothing that is made of parts.
    if values and all(value is None or isinstance(value, str | int) for value in values):
        return f"Literal[{', '.join(map(repr, values))}]"
    return "Any"


def _union(options: Sequence[str]) -> str:
    unique = dict.fromkeys(options)
    return "Any" if "Any" in unique else " | ".join(unique)


def _camel(word: str) -> str:
    return "".join(part[:1].upper() + part[1:] for part in re.split(r"[^0-9A-Za-z]+", word) if part)
