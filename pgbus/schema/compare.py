"""Whether a reader takes whatever a writer may write, judged by their JSON Schemas; and if not, where not and why.

It knows what `generate` makes, and what pydantic does. It errs on the side of refusing, with one exception: where a
writer says nothing of a value, nothing is held against it. A writer sends no fields but those it declares, unless its
schema says so; a reader passes over fields that it does not know, unless its schema forbids them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

Part: TypeAlias = Any  # a JSON Schema: an object, or true or false

_TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")
# Keyword of the reader -> whether the writer's limit must be at least, or at most, as large.
_LOWER = ("minLength", "minItems", "minProperties", "minimum", "exclusiveMinimum")
_UPPER = ("maxLength", "maxItems", "maxProperties", "maximum", "exclusiveMaximum")
# The limits of each type. Those that are neither lower nor upper ones have to be the same.
_OF_TYPE = {
    "string": ("minLength", "maxLength", "pattern", "format", "contentEncoding"),
    "number": ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum", "multipleOf"),
    "integer": ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum", "multipleOf"),
    "array": ("minItems", "maxItems", "uniqueItems", "contains"),
    "object": ("minProperties", "maxProperties", "propertyNames"),
}
_CHOICES = ("anyOf", "oneOf")
_ANNOTATIONS = frozenset(
    (
        "$comment", "$defs", "$id", "$schema", "contentMediaType", "default", "deprecated", "description",
        "discriminator", "examples", "readOnly", "title", "writeOnly",
    )
)  # fmt: skip
_SHAPES = (
    "$ref", "additionalProperties", "allOf", "const", "enum", "items", "prefixItems", "properties", "required", "type",
)  # fmt: skip
_KNOWN = _ANNOTATIONS.union(*_OF_TYPE.values(), _CHOICES, _SHAPES)


def find_breaks(writer: Part, reader: Part, *, fills_defaults: bool) -> list[str]:
    """Return the reasons why the reader may refuse a value of the writer's schema; empty if the two are compatible.

    `fills_defaults`: the writer also sends the fields that have a default, as an event or a result does, and as the
    arguments of a call do not.
    """
    return list(dict.fromkeys(_Comparison(writer, reader, fills_defaults=fills_defaults).breaks()))


class _Comparison:
    def __init__(self, writer: Part, reader: Part, *, fills_defaults: bool) -> None:
        self._writer = writer
        self._reader = reader
        self._fills_defaults = fills_defaults
        # Pairs under comparison: a type that holds itself is compared once, and taken to fit meanwhile.
        self._open: set[tuple[str, str]] = set()

    def breaks(self) -> Iterator[str]:
        yield from self._compare(self._writer, self._reader, "")

    def _compare(self, writer: Part, reader: Part, path: str) -> Iterator[str]:
        writer, reader = _resolve(writer, self._writer), _resolve(reader, self._reader)
        pair = repr(writer), repr(reader)
        if pair in self._open:
            return
        self._open.add(pair)
        try:
            yield from self._resolved(writer, reader, path)
        finally:
            self._open.discard(pair)

    def _resolved(self, writer: Part, reader: Part, path: str) -> Iterator[str]:
        if says_nothing(writer) or says_nothing(reader) or writer is False:
            return
        if reader is False:
            yield f"{_place(path)} is not taken"
        elif choice := next((name for name in _CHOICES if name in writer), None):
            rest = {name: value for name, value in writer.items() if name != choice}
            for option in writer[choice]:
                yield from self._compare(_merged(rest, option, self._writer), reader, path)
        elif "allOf" in writer:
            yield from self._compare(_all_of(writer, self._writer), reader, path)
        elif "allOf" in reader:
            yield from self._compare(writer, _all_of(reader, self._reader), path)
        elif "enum" in writer or "const" in writer:
            yield from self._values(writer, reader, path)
        else:
            for kind in _types(writer):
                yield from self._typed({**writer, "type": kind}, reader, path)

    def _values(self, writer: Part, reader: Part, path: str) -> Iterator[str]:
        for value in [writer["const"]] if "const" in writer else writer["enum"]:
            if not self._takes(reader, value):
                yield f"{_place(path)} may be {value!r}, which is not taken"

    def _typed(self, writer: Part, reader: Part, path: str) -> Iterator[str]:
        """The writer's value is of one type, and no choice."""
        if choice := next((name for name in _CHOICES if name in reader), None):
            rest = {name: value for name, value in reader.items() if name != choice}
            options = [_merged(rest, option, self._reader) for option in reader[choice]]
            complaints = [list(self._compare(writer, option, path)) for option in options]
            if all(complaints):
                yield from _nearest(writer, options, complaints, path)
            return
        kind = writer["type"]
        if not _admits(reader, kind):
            yield f"{_place(path)} may be {_article(kind)}, and is to be {_describe(reader)}"
        elif "enum" in reader or "const" in reader:
            yield f"{_place(path)} may be any {kind}, and is to be {_describe(reader)}"
        else:
            yield from _limits(writer, reader, path)
            for name in reader.keys() - _KNOWN:
                if writer.get(name) != reader[name]:
                    yield f"{_place(path)} is to meet {name!r}, which pgbus cannot compare"
            if kind == "object":
                yield from self._objects(writer, reader, path)
            elif kind == "array":
                yield from self._arrays(writer, reader, path)

    # ------------------------------------------------------------------------------------------------------- objects

    def _objects(self, writer: Part, reader: Part, path: str) -> Iterator[str]:
        written: Mapping[str, Part] = writer.get("properties", {})
        read: Mapping[str, Part] = reader.get("properties", {})
        always = {*writer.get("required", ()), *(self._filled(written) if self._fills_defaults else ())}
        for name in reader.get("required", ()):
            if name not in always:
                yield f"{_place(_step(path, name))} is needed, and {'may be' if name in written else 'is'} missing"
        others = reader.get("additionalProperties", True)
        for name, part in written.items():
            if name in read:
                yield from self._compare(part, read[name], _step(path, name))
            elif others is False:
                yield f"{_place(_step(path, name))} is sent, and is not taken"
            else:
                yield from self._compare(part, others, _step(path, name))
        yield from self._further(writer, reader, path)

    def _filled(self, written: Mapping[str, Part]) -> list[str]:
        return [name for name, part in written.items() if isinstance(part, Mapping) and "default" in part]

    def _further(self, writer: Part, reader: Part, path: str) -> Iterator[str]:
        """Fields that the writer's schema admits without naming them."""
        more = "patternProperties" in writer or writer.get("additionalProperties", "properties" not in writer)
        if more is False:
            return
        others = reader.get("additionalProperties", True)
        if others is False:
            yield f"{_place(path)} may have further fields, which are not taken"
            return
        named = set(writer.get("properties", {}))
        places = {name: part for name, part in reader.get("properties", {}).items() if name not in named}
        for name, part in places.items():
            yield from self._compare(more, part, _step(path, name))
        yield from self._compare(more, others, _step(path, "*"))

    # -------------------------------------------------------------------------------------------------------- arrays

    def _arrays(self, writer: Part, reader: Part, path: str) -> Iterator[str]:
        written, read = writer.get("prefixItems", []), reader.get("prefixItems", [])
        # One place beyond both prefixes stands for all that follow.
        for index in range(max(len(written), len(read)) + 1):
            if index >= writer.get("maxItems", index + 1):
                return
            source = written[index] if index < len(written) else writer.get("items", True)
            target = read[index] if index < len(read) else reader.get("items", True)
            is_last = index == max(len(written), len(read))
            yield from self._compare(source, target, f"{path}[{'*' if is_last and not written else index}]")

    # -------------------------------------------------------------------------------------------------------- values

    def _takes(self, reader: Part, value: Any) -> bool:
        """Whether the reader takes this value; of arrays and objects only their type is looked at."""
        reader = _resolve(reader, self._reader)
        if isinstance(reader, bool):
            return reader
        if "allOf" in reader:
            return self._takes(_all_of(reader, self._reader), value)
        for choice in _CHOICES:
            if choice in reader and not any(self._takes(option, value) for option in reader[choice]):
                return False
        if "enum" in reader and not any(_same(value, one) for one in reader["enum"]):
            return False
        if "const" in reader and not _same(value, reader["const"]):
            return False
        kind = _type_of(value)
        if not _admits(reader, kind):
            return False
        singleton = {"type": kind, **_measures(value, kind)}
        return _KNOWN.issuperset(reader) and not any(_limits(singleton, reader, ""))


# ------------------------------------------------------------------------------------------------------------- keywords


def _limits(writer: Part, reader: Part, path: str) -> Iterator[str]:
    for name in _OF_TYPE.get(writer["type"], ()):
        if reader.get(name) is None or reader[name] is False:
            continue
        limit = _limit(writer, name)
        if name in _LOWER:
            fits = limit is not None and limit >= reader[name]
        elif name in _UPPER:
            fits = limit is not None and limit <= reader[name]
        else:
            fits = limit == reader[name]
        if not fits and not _is_trivial(name, reader[name]):
            yield f"{_place(path)} is to meet {name} {reader[name]!r}, and has {limit if limit is not None else 'none'}"


def _limit(writer: Part, name: str) -> Any:
    """The writer's own limit of that kind; an exclusive one is also an inclusive one."""
    if name in writer:
        return writer[name]
    match name:
        case "minimum":
            return writer.get("exclusiveMinimum")
        case "maximum":
            return writer.get("exclusiveMaximum")
        case "minItems" | "minLength" | "minProperties":
            return 0
        case "maxItems" if writer.get("items") is False:
            return len(writer.get("prefixItems", []))
    return None


def _is_trivial(name: str, limit: Any) -> bool:
    return name.startswith("min") and name != "minimum" and limit == 0


def _measures(value: Any, kind: str) -> Mapping[str, Any]:
    match kind:
        case "string":
            return {"minLength": len(value), "maxLength": len(value)}
        case "integer" | "number":
            return {"minimum": value, "maximum": value, "exclusiveMinimum": value - 1, "exclusiveMaximum": value + 1}
        case "array":
            return {"minItems": len(value), "maxItems": len(value)}
        case "object":
            return {"minProperties": len(value), "maxProperties": len(value)}
    return {}


def _type_of(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        return "integer"
    for kind, name in ((bool, "boolean"), (int, "integer"), (float, "number"), (str, "string"), (list, "array")):
        if isinstance(value, kind):
            return name
    return "null" if value is None else "object"


def _same(left: Any, right: Any) -> bool:
    return bool(left == right and isinstance(left, bool) is isinstance(right, bool))


def _types(part: Part) -> Sequence[str]:
    """The types that a value may be of; an untyped schema with keywords in it may be of any."""
    kind = part.get("type")
    if kind is None:
        return [name for name in _TYPES if name != "integer"]
    return [kind] if isinstance(kind, str) else list(kind)


def _admits(reader: Part, kind: str) -> bool:
    kinds = _types(reader)
    return kind in kinds or (kind == "integer" and "number" in kinds)


# ------------------------------------------------------------------------------------------------------------- schemas


def says_nothing(part: Part) -> bool:
    """Whether a schema takes anything."""
    return part is True or (isinstance(part, Mapping) and _ANNOTATIONS.issuperset(part))


def _reference(part: Part) -> str:
    return part.get("$ref", "") if isinstance(part, Mapping) else ""


def _resolve(part: Part, root: Part) -> Part:
    """Return the schema that a reference points to, merged with the other keywords of the reference."""
    while reference := _reference(part):
        target = root
        for step in reference.removeprefix("#").strip("/").split("/"):
            target = target[step.replace("~1", "/").replace("~0", "~")] if step else target
        rest = {name: value for name, value in part.items() if name != "$ref"}
        part = target if not rest else _merged(rest, target, root)
    return part


def _merged(first: Part, second: Part, root: Part) -> Part:
    """A schema of values that both take, as far as keywords can be joined; else of more than that."""
    second = _resolve(second, root)
    if isinstance(second, bool):
        return first if second else False
    joined = {**first, **second}
    for name in first.keys() & second.keys():
        joined[name] = _joined(name, first[name], second[name])
    return joined


def _joined(name: str, first: Any, second: Any) -> Any:
    match name:
        case "properties":
            return {**first, **second}
        case "required":
            return list(dict.fromkeys([*first, *second]))
        case _ if name in _LOWER:
            return max(first, second)
        case _ if name in _UPPER:
            return min(first, second)
    return second


def _all_of(part: Part, root: Part) -> Part:
    joined: Part = {name: value for name, value in part.items() if name != "allOf"}
    for one in part["allOf"]:
        joined = _merged(joined, one, root)
    return joined


# ---------------------------------------------------------------------------------------------------------------- words


def _nearest(writer: Part, options: Sequence[Part], complaints: Sequence[list[str]], path: str) -> Iterator[str]:
    """Of a choice that fits nowhere: what is wrong with the only option of the writer's type, if there is just one."""
    alike = [
        complaint
        for option, complaint in zip(options, complaints, strict=True)
        if isinstance(option, Mapping) and "type" in option and _admits(option, writer["type"])
    ]
    if len(alike) == 1:
        yield from alike[0]
    else:
        words = " or ".join(dict.fromkeys(_describe(option) for option in options))
        yield f"{_place(path)} may be {_article(writer['type'])}, and is to be {words}"


def _describe(reader: Part) -> str:
    if not isinstance(reader, Mapping):
        return "anything" if reader else "nothing"
    if "enum" in reader:
        return f"one of {', '.join(map(repr, reader['enum']))}"
    if "const" in reader:
        return repr(reader["const"])
    if "title" in reader and reader.get("type") == "object":
        return f"an object ({reader['title']})"
    if "$ref" in reader:
        return str(reader["$ref"]).rsplit("/", 1)[-1]
    return " or ".join(_article(kind) for kind in _types(reader))


def _article(kind: str) -> str:
    return kind if kind == "null" else f"{'an' if kind[0] in 'aio' else 'a'} {kind}"


def _step(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _place(path: str) -> str:
    return f"`{path}`" if path else "the value"
