"""Addresses of relays, and what they must not show."""

from __future__ import annotations

import pytest

from pgbus.config import Config
from pgbus.contrib.relay.addresses import Address
from pgbus.contrib.relay.opening import name_of, receiver_from
from pgbus.errors import ConfigurationError


def test_an_address_is_taken_apart() -> None:
    address = Address.read("kafka+tls://adam:s%40fe@a:9092,b:9092?topic=shop.{topic}")
    assert (address.kind, address.hosts, address.user, address.password) == ("kafka", "a:9092,b:9092", "adam", "s@fe")
    assert address.is_encrypted
    assert address.target("topic", "orders.placed") == "shop.orders.placed"
    assert address.place("orders") == "kafka://a:9092,b:9092/orders"
    assert "s@fe" not in repr(address)
    assert "s%40fe" not in repr(address)


def test_parameters_of_the_client_stay_in_its_url() -> None:
    address = Address.read("amqps://adam:eve@h/vhost?exchange=shop&heartbeat=5")
    assert address.url == "amqps://adam:eve@h/vhost?heartbeat=5"
    assert address.parameters == {"exchange": "shop"}
    assert not Address.read("nats://h:4222").is_encrypted


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("http://h", "'http' is not the scheme of a relay"),
        ("kafka://h?acks=1", "'acks' is not a parameter of kafka; it has topic"),
        ("nats://", "needs a host"),
        ("nats://h?subject", "is not a URL"),
    ],
)
def test_another_address_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        Address.read(text)


def test_what_is_read_has_to_be_named() -> None:
    with pytest.raises(ConfigurationError, match=r"h:9092\?topic=NAME"):
        Address.read("kafka://h:9092").names("topic")
    with pytest.raises(ConfigurationError, match="run `pgbus relay --to`"):
        receiver_from(Address.read("postgresql://h/db"), Config(), name="in")


def test_a_service_reads_under_the_same_name_at_each_start() -> None:
    address = Address.read("nats://user:secret@h?stream=ORDERS&subject=orders.>")
    assert name_of(address, Config(service_name="shop")) == "shop-nats-ORDERS-orders"
