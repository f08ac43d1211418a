"""How the demo's report is printed."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from pgbus.demo.orders import Ledger
from pgbus.demo.screen import print_verdict


@pytest.mark.parametrize("terminal", [True, False])
def test_only_a_terminal_has_the_verdict_in_lines_that_fit_it(terminal: bool) -> None:
    console = Console(file=StringIO(), width=80, force_terminal=terminal, color_system=None)
    print_verdict(console, Ledger(), [])
    assert isinstance(console.file, StringIO)
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]
    assert (max(map(len, lines)) <= 80) is terminal
    assert ("      failed and were retried" in lines) is terminal
