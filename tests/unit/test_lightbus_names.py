"""Names that programs written for Lightbus use."""

from uuid import uuid4

import pytest

import pgbus
from pgbus.errors import LightbusException


class Shop(pgbus.Api):
    class Meta:
        name = "shop"


class Backstage(pgbus.Api):
    class Meta:
        name = "backstage"
        internal = True


def test_a_message_reads_as_it_was_fired() -> None:
    message = pgbus.EventMessage(topic="auth.user_created", raw='{"username": "adam", "age": 3}', event_id=uuid4())
    assert str(message) == "auth.user_created(username='adam', age=3)"
    assert str(pgbus.EventMessage(topic="shop.opened", raw="[1]", event_id=uuid4())) == "shop.opened()"


def test_the_registry_tells_public_apis_from_internal_ones() -> None:
    registry = pgbus.create().client.api_registry
    shop, backstage = Shop(), Backstage()
    registry.add(shop)
    registry.add(backstage)
    assert registry.all() == [shop, backstage]
    assert registry.public() == [shop]
    assert registry.internal() == [backstage]


def test_every_error_is_a_lightbus_exception_and_a_listener_of_nothing_is_one() -> None:
    with pytest.raises(LightbusException) as raised:
        pgbus.create().client.listen_for_events([], print, "nothing")
    assert isinstance(raised.value, pgbus.NothingToListenFor)
