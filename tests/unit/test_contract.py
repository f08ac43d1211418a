"""The contract of a bus, and the documents that show it."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import jsonschema_rs
import msgspec
import pytest

from pgbus.errors import InvalidSchema, SchemaNotFound
from pgbus.handlers.about import About
from pgbus.schema import Field, Fields, Stored, parameters_schema, type_schema
from pgbus.schema.asyncapi import to_asyncapi
from pgbus.schema.contract import contract_of
from pgbus.schema.documents import readable_json
from pgbus.schema.eventcatalog import LIST, to_eventcatalog, write_eventcatalog

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)
SPECIFICATION = Path(__file__).parent / "asyncapi" / "3.0.0.json.gz"


@dataclass
class Item:
    sku: str
    count: int


@dataclass
class Order:
    id: int
    items: list[Item]


@dataclass
class OldOrder:
    id: int


def event(name: str, cls: type, *, service: str = "shop", minute: int = 0, version: int = 1, **more: Any) -> Stored:
    schema = {"parameters": type_schema(cls, title=f"Event {name}")}
    return stored("event", name, schema, service=service, minute=minute, version=version, **more)


def listener(name: str, *, service: str = "mail", minute: int = 0, **patterns: Any) -> Stored:
    events = {pattern: type_schema(cls, title="E") for pattern, cls in patterns["hears"].items()}
    options = {"ordered": True, "on_poison": "block"}
    return stored("listener", name, {"events": events}, service=service, minute=minute, options=options)


def procedure(name: str, *, service: str = "auth", minute: int = 0) -> Stored:
    schema = {
        "parameters": parameters_schema(Fields([Field("item", Item)]), title="P"),
        "response": type_schema(bool, title="R"),
    }
    return stored("procedure", name, schema, service=service, minute=minute)


def stored(kind: Any, name: str, schema: dict[str, Any], *, minute: int, **more: Any) -> Stored:
    at = NOON + timedelta(minutes=minute)
    return Stored(kind=kind, name=name, schema=schema, first_seen_at=at, published_at=at, last_seen_at=at, **more)


BUS = [
    event("orders.placed", OldOrder, minute=0),
    event(
        "orders.placed", Order, minute=1, version=2,
        about=About("orders team", "An order {was} <placed>.", {"runbook": "https://wiki.example/orders"}),
    ),
    event("orders.placed", OldOrder, service="kiosk", minute=2),
    event("orders.paid", Order, minute=3),
    event("stock.low", Item, service="stock", minute=4),
    listener("mailer", hears={"orders.*": dict, "orders.placed": OldOrder}, minute=5),
    listener("a/b~c d", hears={"refunds.**": dict}, minute=6),
    procedure("auth.check", minute=7),
]  # fmt: skip


@lru_cache
def specification() -> Any:
    return jsonschema_rs.validator_for(msgspec.json.decode(gzip.decompress(SPECIFICATION.read_bytes())))


def faults_of(document: Any) -> list[str]:
    return [error.message for error in specification().iter_errors(document)]


def document(stored: list[Stored] = BUS, **wanted: Any) -> Any:
    return msgspec.json.decode(readable_json(to_asyncapi(contract_of(stored, **wanted), listeners=stored)))


def follow(document: Any, reference: dict[str, str]) -> Any:
    for word in reference["$ref"].removeprefix("#/").split("/"):
        document = document[word.replace("%20", " ").replace("~1", "/").replace("~0", "~")]
    return document


def references(part: Any) -> list[dict[str, str]]:
    if isinstance(part, dict):
        own = [part] if isinstance(part.get("$ref"), str) else []
        return [*own, *(found for one in part.values() for found in references(one))]
    return [found for one in part for found in references(one)] if isinstance(part, list) else []


# ------------------------------------------------------------------------------------------------------------ AsyncAPI


def test_the_document_is_valid_and_each_reference_leads_somewhere() -> None:
    made = document()
    assert faults_of(made) == []
    assert len(references(made)) > 20
    for reference in references(made):
        assert isinstance(follow(made, reference), dict)


def test_the_specification_refuses_what_is_wrong() -> None:
    made = document()
    made["operations"]["shop.sends.orders.placed"]["action"] = "publish"
    assert faults_of(made)
    del (broken := document())["info"]["version"]
    assert faults_of(broken)


def test_services_send_what_they_publish_and_receive_what_their_listeners_hear() -> None:
    operations = document()["operations"]
    assert {name: one["action"] for name, one in operations.items()} == {
        "kiosk.sends.orders.placed": "send",
        "shop.sends.orders.paid": "send",
        "shop.sends.orders.placed": "send",
        "stock.sends.stock.low": "send",
        "mailer.receives.orders.paid": "receive",
        "mailer.receives.orders.placed": "receive",
        "a/b~c d.receives.refunds.**": "receive",
        "auth.serves.auth.check": "receive",
    }
    assert operations["mailer.receives.orders.placed"]["x-pgbus-listener"] == {
        "name": "mailer", "version": 1, "ordered": True, "on_poison": "block",
    }  # fmt: skip
    reply = operations["auth.serves.auth.check"]["reply"]
    assert follow(document(), reply["channel"])["address"] is None


def test_two_services_that_publish_different_events_under_a_topic_have_a_message_each() -> None:
    channels = document()["channels"]
    assert set(channels["orders.placed"]["messages"]) == {"kiosk.orders.placed", "shop.orders.placed"}
    assert set(channels["orders.paid"]["messages"]) == {"orders.paid"}


def test_a_message_says_what_people_should_know_and_who_could_not_read_it() -> None:
    made = document([*BUS, listener("strict", hears={"orders.placed": Order}, minute=8)])
    message = made["components"]["messages"]["shop.orders.placed"]
    assert message["x-pgbus-owner"] == "orders team"
    assert message["externalDocs"] == {"description": "runbook", "url": "https://wiki.example/orders"}
    assert message["x-pgbus-version"] == 2
    assert message["x-pgbus-compatibility"] == {"breaks": []}
    [broken] = made["components"]["messages"]["kiosk.orders.placed"]["x-pgbus-compatibility"]["breaks"]
    assert "listener strict of service mail" in broken


def test_the_document_of_one_service_has_its_own_operations_and_the_channels_that_they_need() -> None:
    made = document(service="mail")
    assert faults_of(made) == []
    assert set(made["operations"]) == {
        "mailer.receives.orders.paid", "mailer.receives.orders.placed", "a/b~c d.receives.refunds.**"
    }  # fmt: skip
    assert set(made["channels"]) == {"orders.paid", "orders.placed", "refunds.**"}


def test_an_earlier_version_is_what_was_stored_until_then() -> None:
    assert document()["info"]["version"] == "8"
    first = document(version=1)
    assert first["info"]["version"] == "1"
    assert set(first["operations"]) == {"shop.sends.orders.placed"}
    assert first["components"]["messages"]["orders.placed"]["x-pgbus-version"] == 1
    assert document(version=2)["components"]["messages"]["orders.placed"]["x-pgbus-version"] == 2


def test_after_a_rollback_the_old_version_holds() -> None:
    back = Stored(
        **{**{name: getattr(BUS[0], name) for name in BUS[0].__slots__}, "published_at": NOON.replace(hour=13)}
    )
    made = document([back, *BUS[1:2]])
    assert made["components"]["messages"]["orders.placed"]["x-pgbus-version"] == 1


def test_equal_contracts_make_equal_documents_whoever_is_alive() -> None:
    asleep = [
        Stored(**{**{name: getattr(one, name) for name in one.__slots__}, "is_live": one.version == 1, "workers": ()})
        for one in reversed(BUS)
    ]
    assert readable_json(to_asyncapi(contract_of(asleep))) == readable_json(to_asyncapi(contract_of(BUS)))


def test_a_bus_without_schemas_has_a_valid_document() -> None:
    assert faults_of(document([])) == []


@pytest.mark.parametrize("version", [0, 9])
def test_a_version_that_never_was_is_refused(version: int) -> None:
    with pytest.raises(SchemaNotFound, match="versions 1 to 8"):
        contract_of(BUS, version=version)


def test_a_service_that_never_was_is_refused_with_those_that_are() -> None:
    with pytest.raises(SchemaNotFound, match=r"no service 'shops' .* auth, kiosk, mail, shop, stock"):
        contract_of(BUS, service="shops")


# -------------------------------------------------------------------------------------------------------- EventCatalog


def front(content: bytes) -> dict[str, Any]:
    _, head, _ = content.decode().split("---\n", 2)
    pairs = (line.partition(": ") for line in head.splitlines())
    return {key: msgspec.json.decode(value) for key, _, value in pairs}


def test_the_catalog_has_a_page_for_each_service_event_procedure_and_team() -> None:
    files = to_eventcatalog(contract_of(BUS))
    assert [path for path in files if path.endswith("index.mdx")] == [
        "services/auth/commands/auth.check/index.mdx",
        "services/auth/index.mdx",
        "services/kiosk/events/orders.placed/index.mdx",
        "services/kiosk/index.mdx",
        "services/mail/index.mdx",
        "services/shop/events/orders.paid/index.mdx",
        "services/shop/events/orders.placed/index.mdx",
        "services/shop/index.mdx",
        "services/stock/events/stock.low/index.mdx",
        "services/stock/index.mdx",
    ]
    placed = front(files["services/shop/events/orders.placed/index.mdx"])
    assert placed["version"] == "2.0.0"
    assert placed["owners"] == ["orders-20-team"]
    assert front(files["teams/orders-20-team.mdx"]) == {"id": "orders-20-team", "name": "orders team"}
    assert (
        msgspec.json.decode(files["services/shop/events/orders.placed/schema.json"])["title"] == "Event orders.placed"
    )
    mail = front(files["services/mail/index.mdx"])
    assert {"id": "orders.placed", "version": "2.0.0"} in mail["receives"]
    assert front(files["services/auth/index.mdx"])["receives"] == [{"id": "auth.check", "version": "1.0.0"}]


def test_a_description_is_no_markup() -> None:
    page = to_eventcatalog(contract_of(BUS))["services/shop/events/orders.placed/index.mdx"].decode()
    body = page.split("---\n", 2)[2]
    assert "An order &#123;was&#125; &#60;placed&#62;." in body


def test_pages_that_are_no_longer_true_are_removed_and_others_are_left(tmp_path: Path) -> None:
    (tmp_path / "services").mkdir()
    (tmp_path / "services" / "by-hand.mdx").write_text("mine")
    write_eventcatalog(to_eventcatalog(contract_of(BUS)), tmp_path)
    write_eventcatalog(to_eventcatalog(contract_of(BUS[1:2])), tmp_path)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {
        LIST,
        "services/by-hand.mdx",
        "services/shop/events/orders.placed/index.mdx",
        "services/shop/events/orders.placed/schema.json",
        "services/shop/index.mdx",
        "teams/orders-20-team.mdx",
    }


def test_a_list_that_somebody_has_edited_removes_nothing_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    catalog = tmp_path / "catalog"
    catalog.mkdir()
    (catalog / LIST).write_text("../precious\nservices/../../precious\n/etc/hostname\n")
    write_eventcatalog({}, catalog)
    assert (tmp_path / "precious").read_text() == "mine"


def test_a_catalog_that_cannot_be_written_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidSchema, match="cannot write the catalog"):
        write_eventcatalog(to_eventcatalog(contract_of(BUS)), tmp_path / "file")
