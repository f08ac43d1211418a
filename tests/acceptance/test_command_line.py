"""The command line against what the module says in its code."""

from __future__ import annotations

import pytest

from tests.support.programs import PROGRAM
from tests.support.services import Services

STUBBORN = """
import pgbus
from pgbus import Config

bus = pgbus.create({arguments})
"""


@pytest.mark.parametrize("processes", ["1", "2"])
@pytest.mark.parametrize(
    "arguments",
    [
        '"postgresql://nowhere/x", service_name="code", process_name="code", namespace="code"',
        'config=Config(dsn="postgresql://nowhere/x", service_name="code", process_name="code")',
        'config={"dsn": "postgresql://nowhere/x", "service_name": "code", "process_name": "code"}',
    ],
)
async def test_options_win_over_what_the_code_passes(services: Services, arguments: str, processes: str) -> None:
    cwd = services.write("stubborn", STUBBORN.format(arguments=arguments))
    options = ["--dsn", services.dsn, "--service-name", "told", "--process-name", "told-{pid}", "--namespace", "pgbus"]
    async with services.process(PROGRAM, "run", *options, "--processes", processes, cwd=cwd) as worker:
        await worker.says(r"leading")
        rows = await services.connection.fetch("SELECT DISTINCT service, name ~ '^told-[0-9]+$' FROM pgbus.workers")
        assert [tuple(row) for row in rows] == [("told", True)]
