"""Conditions on an event's payload, and the SQL/JSON path that they become.

Every word of the path, and every value, is written as a JSON literal, and the whole is passed as a parameter.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast, get_args

import msgspec

Operator: TypeAlias = Literal["=", "!=", "<", "<=", ">", ">="]
Scalar: TypeAlias = str | int | float | bool | None

_CONDITION = re.compile(r'((?:"(?:[^"\\]|\\.)*"|[^"=!<>])+?)\s*(=|!=|<=|>=|<|>)\s*(.*)', re.DOTALL)
_STEP = re.compile(r'(?:^|\.)(?:"((?:[^"\\]|\\.)*)"|([^.\[\]"]+))|\[(\d+|\*)\]')


@dataclass(frozen=True, slots=True)
class Condition:
    """A value inside the payload compared with another: `customer.name = "adam"`, `items[*].price > 10`.

    The path is words joined by dots; a word with a dot or bracket in it stands in double quotes; `[0]` is one element
    of an array and `[*]` any of them. An event without that path fits no condition; one with a value of another type
    there fits `!=` only. Raises ValueError for a malformed path or operator.
    """

    path: str
    operator: Operator
    value: Scalar

    def __post_init__(self) -> None:
        if self.operator not in get_args(Operator):
            raise ValueError(f"{self.operator!r} is not an operator: {', '.join(get_args(Operator))}")
        if not isinstance(self.value, Scalar):
            raise ValueError(f"{self.path}: only a string, number, boolean or null can be compared")
        self.steps()

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Read `PATH OP VALUE`; the value is JSON, or else a string as it stands. Raises ValueError."""
        found = _CONDITION.fullmatch(text.strip())
        if found is None:
            raise ValueError(f"{text!r} is not a condition: PATH OP VALUE, as in 'customer.age>=18' or 'name=adam'")
        path, operator, value = found.groups()
        return cls(path.strip(), cast("Operator", operator), _read_value(value))

    def steps(self) -> str:
        """The path as SQL/JSON path steps, each word quoted: `."customer"."name"`."""
        text, end, steps = self.path.removeprefix("$").removeprefix("."), 0, []
        while end < len(text):
            found = _STEP.match(text, end)
            if found is None:
                break
            quoted, bare, index = found.groups()
            word = json.loads(f'"{quoted}"') if quoted is not None else bare
            steps.append(f"[{index}]" if index else f".{json.dumps(word.strip() if quoted is None else word)}")
            end = found.end()
        if end < len(text) or not steps:
            raise ValueError(
                f"{self.path!r} is not a path: words joined by dots, as in 'customer.name' or 'items[*].sku'"
            )
        return "".join(steps)


def combine(conditions: Sequence[Condition]) -> str | None:
    """One SQL/JSON path that finds something if all conditions hold; None without any.

    It is for the operator `@?`, which a GIN index on the payload answers. That is why it has no variables: the operator
    takes none.
    """
    if not conditions:
        return None
    tests = (f"exists(@{one.steps()} ? ({_test(one.operator, json.dumps(one.value))}))" for one in conditions)
    return f"$ ? ({' && '.join(tests)})"


def _test(operator: Operator, literal: str) -> str:
    match operator:
        case "=":
            return f"@ == {literal}"
        case "!=":
            # Values of two types are neither equal nor unequal to SQL/JSON, but "unknown".
            return f"@ != {literal} || (@ == {literal}) is unknown"
        case _:
            return f"@ {operator} {literal}"


def _read_value(text: str) -> Scalar:
    try:
        return cast("Scalar", msgspec.json.decode(text))
    except (msgspec.DecodeError, RecursionError):
        return text
