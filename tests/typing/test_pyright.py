"""Pyright agrees with mypy on the public API; skipped where it is not installed."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT

PYRIGHT = shutil.which("pyright", path=str(Path(sys.executable).parent)) or shutil.which("pyright")


@pytest.mark.skipif(PYRIGHT is None, reason="pyright is not installed: pip install 'pyright[nodejs]'")
@pytest.mark.timeout(300)
def test_pyright_takes_what_is_right_and_refuses_what_is_marked_as_wrong() -> None:
    # Its settings have it report each `type: ignore` that it needs not, so that every one of them asserts an error.
    command = [str(PYRIGHT), "--project", str(ROOT / "tests" / "typing"), "--pythonpath", sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
