"""`uses_django_db` as far as it needs no Django that is set up; the acceptance tests have one."""

import inspect

import pytest

import pgbus
from pgbus.contrib.django import uses_django_db


class AnalyticsApi(pgbus.Api):
    viewed = pgbus.Event(parameters=("url",))

    class Meta:
        name = "analytics"

    @uses_django_db
    def get_total(self, url: str) -> int:
        """How often a page was viewed."""
        return 0


@uses_django_db
def handle(event: pgbus.EventMessage, url: int) -> None:
    pass


def test_what_is_decorated_is_a_procedure_and_a_listener_as_before() -> None:
    bus = pgbus.create()
    bus.client.register_api(AnalyticsApi())
    bus.analytics.viewed.listen(handle, listener_name="handle")
    assert str(inspect.signature(AnalyticsApi.get_total)) == "(self, url: str) -> int"
    [served] = bus.registry.procedures.select()
    assert served.name == "analytics.get_total"
    with pytest.raises(pgbus.InvalidEventListener, match="has no parameter 'url'"):
        bus.analytics.viewed.listen(uses_django_db(lambda uri: None), listener_name="misfit")


def test_an_async_function_is_refused() -> None:
    async def handle_async(event: pgbus.EventMessage) -> None:
        pass

    with pytest.raises(pgbus.ConfigurationError, match="handle_async is async"):
        uses_django_db(handle_async)
