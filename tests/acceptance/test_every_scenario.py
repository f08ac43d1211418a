"""The list in README.md is whole, and what it names is there."""

import ast
import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SCENARIOS = [f"S{number}" for number in range(1, 19)] + [f"N{number}" for number in range(1, 21)]
ROWS = re.findall(r"^\| ([SN]\d+) \| .* \| `([\w/.]+)::(\w+)` \|$", (HERE / "README.md").read_text(), re.MULTILINE)


def test_every_scenario_is_listed() -> None:
    assert {scenario for scenario, _, _ in ROWS} == set(SCENARIOS)


@pytest.mark.parametrize(("scenario", "file", "test"), ROWS, ids=lambda part: part)
def test_a_test_that_is_listed_says_that_it_is_of_the_scenario(scenario: str, file: str, test: str) -> None:
    module = ast.parse((HERE / file).read_text(encoding="utf-8"))
    [found] = [
        node
        for node in ast.walk(module)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == test
    ]
    said = f"{ast.get_docstring(module)} {ast.get_docstring(found)}"
    assert re.search(rf"\b{scenario}\b", said)
