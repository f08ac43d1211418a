"""The Makefile without a make: what its targets install."""

import re

from tests.support import ROOT

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def extras(target: str) -> set[str]:
    """The extras of pgbus that the target's stamp installs."""
    [stamp] = re.findall(rf"^{target}: \$\((\w+)\)", MAKEFILE, re.MULTILINE)
    [recipe] = re.findall(rf"^\$\({stamp}\):.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    [named] = re.findall(r"--editable '\.\[([\w,]+)\]'", recipe)
    return set(named.split(","))


def test_the_demo_installs_what_it_runs_and_no_tool_of_the_developers() -> None:
    assert extras("demo") == {"embedded"}


def test_tests_and_checks_install_everything() -> None:
    assert extras("test") == extras("test-postgres") == extras("check") == {"dev", "embedded", "psycopg", "reload"}
