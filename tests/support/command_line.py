"""What commands print, as tests read it."""

from __future__ import annotations

import json
from typing import Any

from click.testing import Result

NOWHERE = "postgresql://adam:s3cret@127.0.0.1:1/nothing"


def json_lines(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def words(text: str) -> str:
    return " ".join(text.split())
