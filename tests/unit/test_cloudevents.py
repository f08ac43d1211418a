"""CloudEvents: both modes, both ways, and what the specification's own SDK makes of them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgbus import cloudevents
from pgbus.cloudevents import CloudEvent, from_binary, from_event, from_json, to_binary, to_event, to_json
from pgbus.errors import InvalidEventError
from pgbus.messages import EventMessage

EVENT_ID = UUID("0199d3a0-0000-7000-8000-000000000001")
CAUSED = {
    "correlation_id": "checkout-7",
    "causation_id": "0199d3a0-0000-7000-8000-000000000000",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "tracestate": "vendor=1",
}


def event(**more: Any) -> EventMessage:
    made = EventMessage(topic="orders.placed", raw='{"total": 42}', event_id=EVENT_ID, **more)
    made.published_at = datetime(2026, 11, 28, 12, tzinfo=UTC)
    return made


def as_sent(message: EventMessage) -> dict[str, object]:
    headers = {name: value for name, value in message.headers.items() if not name.startswith("ce_")}
    return {
        "topic": message.topic, "payload": message.payload, "event_id": message.event_id, "key": message.key,
        "headers": headers, "ancestors": list(message.ancestors or []),
    }  # fmt: skip


headers = st.dictionaries(
    st.text(st.characters(codec="ascii", exclude_characters="\x00"), min_size=1, max_size=25).filter(
        lambda name: not name.startswith("ce_")
    ),
    st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=30),
    max_size=4,
)


@given(
    key=st.none() | st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=20),
    given=headers,
)
def test_an_event_comes_back_as_it_was_in_every_mode(key: str | None, given: dict[str, str]) -> None:
    sent = event(key=key, ancestors=["orders"])
    sent.headers = given
    cloud = from_event(sent, source="shop")
    assert as_sent(to_event(from_json(to_json(cloud)))) == as_sent(sent)
    for prefix, quoted in (("ce_", False), ("ce-", True)):
        values = to_binary(cloud, prefix=prefix, quoted=quoted)
        assert not quoted or all(" " <= letter <= "~" for value in values.values() for letter in value)
        arrived = from_binary(values, cloud.data, prefix=prefix, quoted=quoted)
        assert arrived is not None
        assert as_sent(to_event(arrived)) == as_sent(sent)


def test_the_attributes_are_those_of_the_specification() -> None:
    sent = event(key="adam")
    sent.headers = {**CAUSED, "api_version": "2"}
    assert dict(from_event(sent, source="shop").attributes) == {
        "specversion": "1.0",
        "id": str(EVENT_ID),
        "source": "shop",
        "type": "orders.placed",
        "datacontenttype": "application/json",
        "subject": "adam",
        "partitionkey": "adam",
        "time": "2026-11-28T12:00:00Z",
        "correlationid": "checkout-7",
        "causationid": CAUSED["causation_id"],
        "traceparent": CAUSED["traceparent"],
        "tracestate": "vendor=1",
        "pgbusheaders": '{"api_version":"2"}',
    }


def test_the_sdk_reads_what_we_write_and_writes_what_we_read() -> None:
    pytest.importorskip("cloudevents.core", reason="needs cloudevents, which is not installed")
    from cloudevents.core.bindings import kafka, rabbitmq
    from cloudevents.core.formats.json import JSONFormat

    sent = event(key="adam")
    sent.headers = CAUSED
    cloud = from_event(sent, source="shop")
    data = cloud.data or b""

    def for_kafka(found: dict[str, str]) -> kafka.KafkaMessage:
        return kafka.KafkaMessage({name: value.encode() for name, value in found.items()}, b"adam", data)

    def for_rabbit(found: dict[str, str]) -> rabbitmq.RabbitMQMessage:
        return rabbitmq.RabbitMQMessage(found, found.pop("content-type"), data)

    bindings: list[tuple[Any, str, Any]] = [(kafka, "ce_", for_kafka), (rabbitmq, "ce-", for_rabbit)]
    for binding, prefix, make in bindings:
        read = binding.from_binary(make(to_binary(cloud, prefix=prefix)), JSONFormat())
        written = binding.to_binary(read, JSONFormat())
        found = {name: value.decode() if isinstance(value, bytes) else value for name, value in written.headers.items()}
        found.setdefault("content-type", "application/json")
        body = written.value if binding is kafka else written.body
        back = from_binary(found, body, prefix=prefix)
        assert back is not None
        assert dict(back.attributes) == dict(cloud.attributes)
        assert as_sent(to_event(back)) == as_sent(sent)
    read = JSONFormat().read(None, to_json(cloud))
    assert read.get_data() == {"total": 42}
    assert read.get_extension("correlationid") == "checkout-7"
    assert dict(from_json(JSONFormat().write(read)).attributes) == dict(cloud.attributes)


def test_a_foreign_cloudevent_keeps_its_identity_on_its_way_through() -> None:
    document = {
        "specversion": "1.0", "id": "A-1", "source": "/erp", "type": "erp.invoiced", "subject": "invoice 7",
        "time": "2026-01-01T00:00:00Z", "dataschema": "https://erp/schema", "sampled": True, "size": 7, "data": [1],
    }  # fmt: skip
    arrived = to_event(from_json(json.dumps(document)))
    assert (arrived.topic, arrived.key, arrived.payload) == ("erp.invoiced", "invoice 7", [1])
    assert arrived.event_id == to_event(from_json(json.dumps({**document, "data": 2}))).event_id
    again = json.loads(to_json(from_event(arrived, source="shop")))
    assert again.items() >= {**document, "sampled": "true", "size": "7", "partitionkey": "invoice 7"}.items()


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ("[]", "cloudevent"),
        ("{", "cloudevent"),
        ('{"id": "1"}', "specversion"),
        ('{"specversion": "0.3", "id": "1", "source": "s", "type": "t"}', "specversion"),
        ('{"specversion": "1.0", "id": "", "source": "s", "type": "t"}', "id"),
        ('{"specversion": "1.0", "id": "1", "type": "t"}', "source"),
        ('{"specversion": "1.0", "id": "1", "source": "s", "type": "t", "Bad": "x"}', "Bad"),
        ('{"specversion": "1.0", "id": "1", "source": "s", "type": "t", "x": [1]}', "x"),
        ('{"specversion": "1.0", "id": "1", "source": "s", "type": "not a topic"}', "topic"),
        ('{"specversion": "1.0", "id": "1", "source": "s", "type": "t", "data_base64": "gA=="}', "data"),
    ],
)
def test_what_cannot_be_an_event_is_refused_with_the_part_that_is_wrong(document: str, field: str) -> None:
    with pytest.raises(InvalidEventError) as caught:
        to_event(from_json(document))
    assert caught.value.field == field


def test_data_that_is_text_becomes_a_string_and_none_becomes_null() -> None:
    attributes = {"id": "1", "source": "s", "type": "t", "datacontenttype": "text/plain; charset=utf-8"}
    assert to_event(CloudEvent(attributes=attributes, data="grün".encode())).payload == "grün"
    assert to_event(CloudEvent(attributes=attributes)).payload is None
    document = {"specversion": "1.0", **attributes, "data": "grün"}
    assert to_event(from_json(json.dumps(document))).payload == "grün"
    assert json.loads(to_json(from_json(json.dumps(document))))["data_base64"] == "Z3LDvG4="


def test_a_message_that_is_no_cloudevent_is_none() -> None:
    assert from_binary({"content-type": "application/json"}, b"{}", prefix="ce_") is None
    assert cloudevents.read_data(b"{}", None) == "{}"
