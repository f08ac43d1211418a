"""YAML, and so JSON, without what is unsafe or ambiguous in it."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import yaml


def load(text: str) -> object:
    """Parse a YAML document; an empty one is an empty table. Raises ValueError with the fault and its line."""
    try:
        content = yaml.load(text, _Loader)  # noqa: S506 - a safe loader
    except yaml.YAMLError as error:
        raise ValueError(_complaint(error)) from None
    return {} if content is None else content


class _Loader(yaml.SafeLoader):
    """The safe loader, which would take the last of two equal keys; here that is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":  # `<<`, whose keys yield to our own
                continue
            name = key.value if isinstance(key, yaml.ScalarNode) else None
            if name in seen:
                raise yaml.MarkedYAMLError(problem=f"there are two {name!r} in one table", problem_mark=key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep=deep)


def _complaint(error: yaml.YAMLError) -> str:
    """Without the error's own text, which would quote the file, in which there may be passwords."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        mark = error.problem_mark
        return f"{error.problem} (line {mark.line + 1}, column {mark.column + 1})"
    return type(error).__name__
