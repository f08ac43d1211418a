"""Checking an event, and choosing its INSERT: no database here."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import msgspec
import pytest
import uuid_utils

from pgbus.codec.headers import MAX_HEADERS
from pgbus.database import sql
from pgbus.errors import InvalidEventError
from pgbus.events import event
from pgbus.publishing import outbox
from pgbus.publishing.rows import CHUNK_ROWS, Lines, OutboxRow, Rows, in_parts

STATEMENTS = sql.load()
LIMITS = outbox.Limits()


@event("orders.placed")
@dataclass
class OrderPlaced:
    number: int


@event("orders.placed.express")
@dataclass
class ExpressOrderPlaced(OrderPlaced):
    courier: str


@dataclass
class Undecorated(ExpressOrderPlaced):
    pass


def prepare(what: object = None, **options: Any) -> OutboxRow:
    return outbox.prepare(OrderPlaced(1) if what is None else what, limits=LIMITS, **options)


def refusal(what: object = None, **options: Any) -> InvalidEventError:
    with pytest.raises(InvalidEventError) as refused:
        prepare(what, **options)
    return refused.value


# -------------------------------------------------------------------------------------------------------- what is given


def test_an_event_class_brings_its_topic_and_its_ancestors() -> None:
    row = prepare(ExpressOrderPlaced(1, "DHL"))
    assert (row.topic, row.ancestors) == ("orders.placed.express", ("orders.placed",))
    assert row.payload == '{"number":1,"courier":"DHL"}'


def test_a_topic_that_is_given_replaces_that_of_the_class() -> None:
    row = prepare(ExpressOrderPlaced(1, "DHL"), topic="orders.other")
    assert (row.topic, row.ancestors) == ("orders.other", ("orders.placed",))


def test_a_plain_value_needs_a_topic() -> None:
    assert prepare({"number": 1}, topic="orders.placed").topic == "orders.placed"
    assert refusal({"number": 1}).field == "topic"


def test_a_subclass_does_not_inherit_the_topic() -> None:
    refused = refusal(Undecorated(1, "DHL"))
    assert refused.field == "topic"
    assert "Undecorated" in refused.reason
    assert prepare(Undecorated(1, "DHL"), topic="a").ancestors == ("orders.placed.express", "orders.placed")


@pytest.mark.parametrize("topic", ["", "a b", "a.*", 5, b"a", ["a"]])
def test_a_topic_that_is_none_is_refused(topic: Any) -> None:
    assert refusal(topic=topic).field == "topic"


@pytest.mark.parametrize("field", ["key", "dedup_key"])
def test_keys_have_1_to_255_characters(field: str) -> None:
    for key in ("a", "x" * 255, "\N{FACE WITH TEARS OF JOY}" * 255, " "):
        assert getattr(prepare(**{field: key}), field) == key
    for refused in ("", "x" * 256, "a\x00", "\ud800", 5, b"a", UUID(int=1)):
        assert refusal(**{field: refused}).field == field


def test_headers_become_json() -> None:
    row = prepare(headers={"trace": "00-1", "naïve": "ü"})
    assert row.headers is not None
    assert msgspec.json.decode(row.headers) == {"trace": "00-1", "naïve": "ü"}
    assert prepare(headers={}).headers is None
    assert prepare().headers is None


@pytest.mark.parametrize(
    "headers",
    [
        {"a": 1},
        {1: "a"},
        {"a": None},
        {"a": "\x00"},
        {"\x00": "a"},
        {"a": "\ud800"},
        [("a", "b")],
        {"a": "x" * MAX_HEADERS},
    ],
)
def test_headers_that_are_not_short_texts_are_refused(headers: Any) -> None:
    assert refusal(headers=headers).field == "headers"


def test_deliver_at_is_an_instant() -> None:
    berlin = timezone(timedelta(hours=2))
    row = prepare(deliver_at=datetime(2030, 1, 1, 12, tzinfo=berlin))
    assert row.deliver_at == datetime(2030, 1, 1, 10, tzinfo=UTC)
    assert row.deliver_at.tzinfo is UTC


@pytest.mark.parametrize(
    "deliver_at",
    [
        datetime(2030, 1, 1),  # noqa: DTZ001 - that is what is refused
        date(2030, 1, 1),
        "2030-01-01T00:00:00Z",
        1_900_000_000,
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-1))),
    ],
)
def test_deliver_at_without_a_time_zone_or_of_another_type_is_refused(deliver_at: Any) -> None:
    assert refusal(deliver_at=deliver_at).field == "deliver_at"


def test_delay_is_seconds() -> None:
    assert prepare(delay=1.5).delay == 1.5
    assert prepare(delay=2).delay == 2.0
    assert prepare(delay=outbox.MAX_DELAY).delay == outbox.MAX_DELAY


@pytest.mark.parametrize("delay", [0, 0.0, -0.0])
def test_no_delay_is_at_once(delay: float) -> None:
    assert prepare(delay=delay).delay is None


@pytest.mark.parametrize("delay", [-1, math.nan, math.inf, 1e300, "5", True, timedelta(seconds=5)])
def test_a_delay_that_the_database_cannot_add_is_refused(delay: Any) -> None:
    assert refusal(delay=delay).field == "delay"


def test_deliver_at_and_delay_exclude_each_other() -> None:
    assert "not both" in refusal(deliver_at=datetime.now(UTC), delay=1.0).reason


def test_an_event_id_may_be_given_in_any_form_of_a_uuid() -> None:
    wanted = UUID("01890a5d-ac96-774b-bcce-b302099a8057")
    for given in (wanted, str(wanted), wanted.hex, uuid_utils.UUID(str(wanted))):
        event_id = prepare(event_id=given).event_id
        assert event_id == wanted
        assert type(event_id) is UUID
    for refused in ("", "nonsense", 5):
        assert refusal(event_id=refused).field == "event_id"


def test_new_event_ids_are_ordered_uuids_of_version_7() -> None:
    ids = [prepare().event_id for _ in range(1000)]
    assert ids == sorted(set(ids))
    assert {event_id.version for event_id in ids} == {7}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_processes_make_different_event_ids() -> None:
    prepare()  # the generator is in use before the fork, as in a pre-forking web server
    texts = []
    for _ in range(3):
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.write(writing, prepare().event_id.bytes[6:])
            os._exit(0)
        os.waitpid(child, 0)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            texts.append(pipe.read())
    assert len(set(texts)) == 3


def test_the_payload_is_limited_in_bytes() -> None:
    limits = outbox.Limits(max_payload=10)
    assert outbox.prepare("ääää", topic="a", limits=limits).payload == '"ääää"'
    with pytest.raises(InvalidEventError, match=r"12 bytes .* 10 bytes") as refused:
        outbox.prepare("äääää", topic="a", limits=limits)
    assert refused.value.field == "payload"


def test_a_row_is_a_message_to_its_publisher() -> None:
    row = prepare(ExpressOrderPlaced(1, "DHL"), key="k", headers={"a": "b"})
    message = row.message()
    assert (message.event_id, message.topic, message.key) == (row.event_id, "orders.placed.express", "k")
    assert (message.payload, message.headers) == ({"number": 1, "courier": "DHL"}, {"a": "b"})
    assert (message.ancestors, message.published_at, message.position) == (("orders.placed",), None, None)


# ------------------------------------------------------------------------------------------------ statements and values


def test_one_event_that_is_due_takes_the_short_statement() -> None:
    row = prepare(ExpressOrderPlaced(1, "DHL"), key="k")
    statement, values = row.insert(STATEMENTS, service="shop", dedup_ttl=1.0)
    assert statement is STATEMENTS["insert_event"]
    assert statement.arguments(values) == [row.event_id, row.topic, "orders.placed", "k", row.payload, None, "shop"]


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ([{}, {}], "insert_events"),
        ([{"delay": 1.0}], "insert_events"),
        ([{"deliver_at": datetime(2030, 1, 1, tzinfo=UTC)}], "insert_events"),
        ([{"dedup_key": "a"}], "insert_events_once"),
        ([{}, {"dedup_key": "a"}, {}], "insert_events_once"),
    ],
)
def test_other_rows_take_the_statement_that_they_need(options: list[dict[str, Any]], name: str) -> None:
    (part,) = in_parts([prepare(**some) for some in options])
    statement, values = part.insert(STATEMENTS, service="shop", dedup_ttl=1.0)
    assert statement is STATEMENTS[name]
    assert set(values) == set(statement.parameters)


def test_columns_of_nothing_are_not_sent() -> None:
    rows = [prepare(key="k"), prepare()]
    _, values = Rows(rows).insert(STATEMENTS, service="shop", dedup_ttl=1.0)
    assert values["event_ids"] == [row.event_id for row in rows]
    assert values["keys"] == ["k", None]
    assert values["headers"] == values["ancestors"] == values["deliver_ats"] == values["delays"] == []


def test_published_ids_are_those_of_the_holders_of_dedup_keys() -> None:
    rows = [prepare(), prepare(dedup_key="a"), prepare(dedup_key="b"), prepare(dedup_key="a")]
    earlier = UUID(int=7)
    assert Rows(rows).ids([]) == [row.event_id for row in rows]
    assert Rows(rows).ids([("a", str(earlier)), ("b", str(rows[2].event_id))]) == [
        rows[0].event_id,
        earlier,
        rows[2].event_id,
        earlier,
    ]


def test_parts_are_limited_in_rows_and_in_size() -> None:
    row = prepare()
    assert [len(part.rows()) for part in in_parts([row] * 4001)] == [2000, 2000, 1]
    assert list(in_parts([])) == []
    large = outbox.prepare("x" * 5_000_000, topic="a", limits=outbox.Limits(max_payload=6_000_000))
    assert [len(part.rows()) for part in in_parts([large] * 5)] == [2, 2, 1]


class Tagged(msgspec.Struct):
    note: str | None = None
    amount: float = 0.0
    at: datetime | None = None


def test_many_events_of_one_class_go_as_lines() -> None:
    events = [ExpressOrderPlaced(number, "line\nfeed") for number in range(CHUNK_ROWS + 2)]
    first, last = outbox.prepare_many(events, limits=LIMITS)
    assert isinstance(first, Lines)
    assert isinstance(last, Lines)
    assert (len(first.event_ids), len(last.event_ids)) == (CHUNK_ROWS, 2)
    statement, values = last.insert(STATEMENTS, service="shop", dedup_ttl=1.0)
    assert statement is STATEMENTS["insert_lines"]
    assert set(values) == set(statement.parameters)
    assert last.ids([]) == last.event_ids == sorted(last.event_ids)
    assert [row.payload for row in last.rows()] == [prepare(one).payload for one in events[-2:]]
    assert {(row.topic, row.ancestors) for row in last.rows()} == {("orders.placed.express", ("orders.placed",))}


@pytest.mark.parametrize(
    "events",
    [
        [OrderPlaced(1), ExpressOrderPlaced(2, "DHL")],
        [Tagged(note="at T12:00:00"), Tagged(note="T12:00:00"), Tagged()],
        [msgspec.Raw(b'{"a":\n1}'), msgspec.Raw(b"{}")],
        [OrderPlaced(1)],
    ],
    ids=["two classes", "a text that looks like a naive datetime", "JSON with a line feed", "one"],
)
def test_events_that_lines_cannot_hold_go_one_by_one(events: list[object]) -> None:
    topic = "a" if not isinstance(events[0], OrderPlaced) else None
    (part,) = outbox.prepare_many(events, topic=topic, limits=LIMITS)
    assert not isinstance(part, Lines)
    assert [row.payload for row in part.rows()] == [prepare(one, topic=topic).payload for one in events]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (Tagged(amount=math.nan), "NaN"),
        (Tagged(note="a\x00b"), "NUL"),
        (Tagged(at=datetime(2030, 1, 1)), "time zone"),  # noqa: DTZ001
        (Tagged(note="\ud800"), "surrogate"),
        (Tagged(note=object()), "no JSON form"),  # type: ignore[arg-type]
        (Tagged(note="x" * 2_000_000), "too many"),
    ],
)
def test_what_is_wrong_with_one_of_many_is_told(wrong: Tagged, message: str) -> None:
    with pytest.raises(InvalidEventError, match=message):
        outbox.prepare_many([Tagged(), wrong, Tagged()], topic="a", limits=LIMITS)


def test_null_in_many_events_is_no_sign_of_nan() -> None:
    (part,) = outbox.prepare_many([Tagged(), Tagged(note="null")], topic="a", limits=LIMITS)
    assert isinstance(part, Lines)


def test_an_instance_that_does_not_fit_its_class_is_refused_among_many() -> None:
    with pytest.raises(InvalidEventError) as refused:
        outbox.prepare_many([OrderPlaced(1), OrderPlaced("2")], limits=LIMITS)  # type: ignore[arg-type]
    assert refused.value.field == "number"


def test_a_class_takes_the_topic_that_it_was_given_last() -> None:
    @event("orders.first")
    class Renamed(msgspec.Struct):
        pass

    assert prepare(Renamed()).topic == "orders.first"
    event("orders.second")(Renamed)
    assert prepare(Renamed()).topic == "orders.second"


def test_cancelling_needs_a_uuid() -> None:
    statement, values = outbox.cancel(str(UUID(int=1)), STATEMENTS)
    assert (statement, values) == (STATEMENTS["cancel_event"], {"event_id": UUID(int=1)})
    with pytest.raises(InvalidEventError):
        outbox.cancel("nonsense", STATEMENTS)
