"""The command line of relays and CloudEvents; what relays do is tested in tests/relay."""

from __future__ import annotations

import json

import asyncpg
import pytest

from tests.integration.conftest import Invoke


async def test_a_cloudevent_is_published_from_the_shell(invoke: Invoke, connection: asyncpg.Connection) -> None:
    cloud = {"specversion": "1.0", "id": "A-1", "source": "/erp", "type": "erp.invoiced", "subject": "7"}
    result = await invoke("publish", "--cloudevent", "-", text=json.dumps({**cloud, "data": {"n": 1}}))
    assert result.exit_code == 0, result.output
    (row,) = await connection.fetch("SELECT topic, key, payload, headers FROM pgbus.outbox")
    assert (row["topic"], row["key"], json.loads(row["payload"])) == ("erp.invoiced", "7", {"n": 1})
    assert json.loads(row["headers"]) == {"ce_source": "/erp", "ce_id": "A-1"}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("publish", "--cloudevent", "{}"), 1, "specversion: a CloudEvent must have one"),
        (("publish", "a.b", "--cloudevent", "{}"), 2, "a CloudEvent has its own topic"),
        (("publish", "a.b"), 2, "give TOPIC and JSON, or --cloudevent"),
        (("relay", "--name", "r"), 2, "give either --to or --from"),
        (("relay", "--name", "r", "--to", "nats://h"), 2, "name the topics or patterns"),
        (("relay", "--name", "r", "--from", "nats://h", "a.b"), 2, "give none"),
        (("relay", "--name", "r", "--to", "http://h", "a.b"), 2, "'http' is not the scheme of a relay"),
        (("relay", "--name", "r", "--from", "nats://u:secret@h"), 2, "name what to read: h?stream=NAME"),
        (
            ("relay", "--name", "r", "--from", "postgresql://h/d"),
            2,
            "run `pgbus relay --to` at the one that has the events",
        ),
    ],
)
async def test_a_mistake_is_one_line(invoke: Invoke, arguments: tuple[str, ...], code: int, said: str) -> None:
    result = await invoke(*arguments)
    assert (result.exit_code, "secret" in result.output) == (code, False), result.output
    assert said in " ".join(result.output.split())
