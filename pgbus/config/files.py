"""Finds and reads the configuration file, and replaces the variables in its strings."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pgbus.errors import ConfigurationError, UnexpectedConfigurationFormat

# The names looked for in the working directory.
NAMES = ("pgbus.toml", "pgbus.yaml", "pgbus.yml")
PYPROJECT = "pyproject.toml"
PYPROJECT_TABLE = "[tool.pgbus]"

# ${NAME} is a variable's value; $${ is how to write ${ itself.
VARIABLE_NAME = "[A-Za-z_][A-Za-z0-9_]*"
_REFERENCE = re.compile(r"\$(\$?)\{([^}]*)\}")


@dataclass(frozen=True, slots=True)
class File:
    """The content of a file, and its name for error messages."""

    table: Mapping[str, object]
    source: str


class FromVariables(str):
    """A string in which variables were replaced; it is parsed like a variable, so "5" may be a number."""

    __slots__ = ()


def find_file(directory: Path, *, environ: Mapping[str, str]) -> File:
    """The file that counts in a directory: one of `NAMES`, else pyproject.toml; an empty one where there is no file.

    Raises ConfigurationError if there are two.
    """
    match [name for name in NAMES if (directory / name).is_file()]:
        case [name]:
            return read_file(directory / name, source=name, environ=environ)
        case []:
            path = directory / PYPROJECT
            return read_file(path, source=PYPROJECT, environ=environ) if path.is_file() else File({}, "no file")
        case names:
            raise ConfigurationError(f"{' and '.join(names)} both exist; keep one, because only one is used")


def read_file(path: Path, *, source: str, environ: Mapping[str, str]) -> File:
    """Read a file, and replace the variables in it.

    Raises ConfigurationError if it cannot be read, and UnexpectedConfigurationFormat if it is not a table of settings.
    """
    try:
        content = _reader(path, source)(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{source} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ConfigurationError(f"{source} cannot be read: {error}") from None
    if path.name == PYPROJECT:
        content, source = (
            _tool_table(content),
            PYPROJECT_TABLE if source == PYPROJECT else f"{source} {PYPROJECT_TABLE}",
        )
    return File(fill(checked_root(content, source), environ, source=source), source)


def checked_root(content: object, source: str) -> Mapping[str, object]:
    """Return the content, if it is a table with strings as keys; else raises UnexpectedConfigurationFormat."""
    if not isinstance(content, Mapping):
        raise UnexpectedConfigurationFormat(f"{source}: settings are a table of names and values, not {_kind(content)}")
    for name in content:
        if not isinstance(name, str):
            raise UnexpectedConfigurationFormat(f"{source}: {name!r} is not the name of a setting; names are strings")
    return content


def fill(table: Mapping[str, object], environ: Mapping[str, str], *, source: str) -> dict[str, object]:
    """Return the table with `${NAME}` in its strings replaced; raises ConfigurationError for a variable that is not
    set.
    """
    return {name: _filled(value, environ, f"{name} ({source})") for name, value in table.items()}


def has_variables(value: object) -> bool:
    """Whether variables were put into the value, or into anything in it."""
    match value:
        case Mapping():
            return any(map(has_variables, value.values()))
        case list():
            return any(map(has_variables, value))
        case _:
            return isinstance(value, FromVariables)


def _filled(value: object, environ: Mapping[str, str], place: str) -> object:
    match value:
        case str():
            return _filled_text(value, environ, place)
        case Mapping():
            return {name: _filled(one, environ, f"{name} in {place}") for name, one in value.items()}
        case list():
            return [_filled(one, environ, place) for one in value]
        case _:
            return value


def _filled_text(text: str, environ: Mapping[str, str], place: str) -> str:
    is_filled = False

    def replacement(found: re.Match[str]) -> str:
        nonlocal is_filled
        escape, name = found.groups()
        if escape:
            return found[0][1:]
        if not re.fullmatch(VARIABLE_NAME, name):
            raise ConfigurationError(
                f"{place}: {found[0]} does not name a variable; for the literal text write ${found[0]}"
            )
        if name not in environ:
            raise ConfigurationError(f"{place}: the variable {name} is not set")
        is_filled = True
        return environ[name]

    filled = _REFERENCE.sub(replacement, text)
    return FromVariables(filled) if is_filled else filled


# ------------------------------------------------------------------------------------------------------------- formats


def _reader(path: Path, source: str) -> Callable[[str], object]:
    match path.suffix.lower():
        case ".toml":
            return _load_toml
        case ".yaml" | ".yml" | ".json":  # JSON is YAML
            return _load_yaml
        case _:
            raise ConfigurationError(f"{source}: a configuration file is named *.toml, *.yaml, *.yml or *.json")


def _load_toml(text: str) -> object:
    import tomllib  # a bus may be configured by variables and arguments alone

    return tomllib.loads(text)


def _load_yaml(text: str) -> object:
    from pgbus.config.yaml_files import load  # most programs have no YAML to read

    return load(text)


def _tool_table(content: object) -> object:
    for name in ("tool", "pgbus"):
        content = content.get(name, {}) if isinstance(content, Mapping) else content
    return content


def _kind(content: object) -> str:
    return "a list" if isinstance(content, list) else f"a value of type {type(content).__name__}"
