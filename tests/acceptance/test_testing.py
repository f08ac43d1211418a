"""What Lightbus's page on testing does; and what it cannot, which is to run listeners in a transaction to be undone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import pgbus
from pgbus.testing import BusMocker, MockResult, bus_mocker
from tests.support.services import Services


class AuthApi(pgbus.Api):
    user_registered = pgbus.Event(parameters=("username", "email"))

    class Meta:
        name = "auth"

    def create_user(self, username: str, email: str) -> int:
        raise AssertionError("whoever is under test is not to reach it")


bus = pgbus.create("postgresql://nobody@127.0.0.1:1/none")
bus.client.register_api(AuthApi())


@pytest.fixture(autouse=True)
def closed_bus() -> Iterator[None]:
    yield
    bus.close_sync()


def sign_up(username: str) -> int:
    """The code that is under test."""
    email = f"{username}@example.com"
    user_id: int = bus.auth.create_user(username=username, email=email)
    bus.auth.user_registered.fire(username=username, email=email)
    return user_id


def test_events_and_calls_are_mocked_counted_and_read() -> None:
    """S14: mock event firing, mock an RPC, assert counts, read the arguments of messages."""
    with BusMocker(bus) as bus_mock:
        bus_mock.mock_event_firing("auth.user_registered")
        bus_mock.mock_rpc_call("auth.create_user", result=7)
        assert sign_up("ada") == 7
        bus_mock.assert_events_fired("auth.user_registered", times=1)
        bus_mock.assert_rpc_called("auth.create_user", times=1)
        (event,) = bus_mock.get_event_messages("auth.user_registered")
        assert event.kwargs == {"username": "ada", "email": "ada@example.com"}
        (call,) = bus_mock.get_rpc_messages("auth.create_user")
        assert call.kwargs == {"username": "ada", "email": "ada@example.com"}
        assert bus_mock.event_names_fired == ["auth.user_registered"]
        assert bus_mock.rpc_names_called == ["auth.create_user"]


def test_what_was_not_mocked_fails_the_test() -> None:
    """S14: mocking is required."""
    with BusMocker(bus) as bus_mock:
        bus_mock.mock_rpc_call("auth.create_user", result=7)
        with pytest.raises(AssertionError, match=r"event 'auth\.user_registered' was fired, and is not mocked"):
            sign_up("ada")


def test_permissive_mode_lets_everything_pass() -> None:
    """S14: events are swallowed, calls return None."""
    with BusMocker(bus, require_mocking=False) as bus_mock:
        assert sign_up("ada") is None
    bus_mock.assertEventFired("auth.user_registered")
    bus_mock.assertRpcCalled("auth.create_user")


def test_a_call_fails_as_it_would() -> None:
    """S14: a procedure's error, and the death of its worker."""
    with BusMocker(bus) as bus_mock:
        bus_mock.mock_rpc_call("auth.create_user", error=True, trace="File 'auth.py'")
        with pytest.raises(pgbus.LightbusWorkerError):
            sign_up("ada")
        bus_mock.mock_rpc_call("auth.create_user", error=pgbus.SuddenDeathException())
        with pytest.raises(pgbus.LightbusTimeout):
            sign_up("ada")
        bus_mock.assert_event_not_fired("auth.user_registered")


class TestSignUp:
    @bus_mocker(bus)
    def test_the_decorator_appends_the_mock(self, tmp_path: Path, bus_mock: MockResult) -> None:
        """S14: the decorator form, here beside a fixture."""
        bus_mock.mockEventFiring("auth.user_registered")
        bus_mock.mockRpcCall("auth.create_user", result=7)
        assert sign_up(tmp_path.name) == 7
        bus_mock.assertEventFired("auth.user_registered", times=1)


def test_listeners_run_inside_a_django_testcase_that_rolls_back(services: Services) -> None:
    """S14: the handlers use Django's models, and see what the test has not committed."""
    site = services.write("site", DJANGO_BUS, settings=DJANGO_SETTINGS)
    services.write("site/shop", "", __init__="", models=DJANGO_MODELS, tests=DJANGO_TESTS)
    run = services.python(site, "-W", "error", "-m", "django", "test", "--settings", "settings", "--noinput")
    assert run.returncode == 0, run.stderr
    assert "Ran 3 tests" in run.stderr


DJANGO_SETTINGS = """
import os
from urllib.parse import parse_qs, urlsplit

from django.test.runner import DiscoverRunner

parts = urlsplit(os.environ["PGBUS_DSN"])
options = {name: value[0] for name, value in parse_qs(parts.query).items()}
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts.path[1:],
        "USER": parts.username,
        "PASSWORD": parts.password or "",
        "HOST": options.get("host", parts.hostname or ""),
        "PORT": options.get("port", parts.port or ""),
    }
}
INSTALLED_APPS = ["shop"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"


class Runner(DiscoverRunner):
    def setup_databases(self, **kwargs):
        from django.db import connection
        from pgbus import migrate

        found = super().setup_databases(**kwargs)
        connection.ensure_connection()
        info = connection.connection.info
        migrate.upgrade(f"postgresql://{info.user}@/{info.dbname}?host={info.host}&port={info.port}")
        return found


TEST_RUNNER = "settings.Runner"
"""

DJANGO_MODELS = """
from django.db import models


class User(models.Model):
    name = models.TextField()


class Profile(models.Model):
    user = models.ForeignKey(User, on_delete=models.CASCADE)
"""

DJANGO_BUS = """
import pgbus
from pgbus.contrib.django import uses_django_db


class AuthApi(pgbus.Api):
    user_registered = pgbus.Event(parameters=("user_id",))
    profile_made = pgbus.Event(parameters=("profile_id",))

    class Meta:
        name = "auth"


bus = pgbus.create()
bus.client.register_api(AuthApi())
heard = []


@uses_django_db
def make_profile(event, user_id):
    from shop.models import Profile, User

    if not User.objects.get(pk=user_id).name:
        raise ValueError("no name")
    bus.auth.profile_made.fire(profile_id=Profile.objects.create(user_id=user_id).pk)


bus.auth.user_registered.listen(make_profile, listener_name="make_profile")
bus.auth.profile_made.listen(lambda event, profile_id: heard.append(profile_id), listener_name="tell")
"""

DJANGO_TESTS = """
from django.db import connection
from django.test import TestCase
from pgbus.testing import bus_mocker, deliver_now_sync

from bus import bus, heard
from shop.models import Profile, User


def register(name):
    user = User.objects.create(name=name)
    bus.auth.user_registered.fire(user_id=user.pk, using=connection.connection)


class TestRegistration(TestCase):
    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        bus.close_sync()

    def setUp(self):
        self.assertEqual((User.objects.count(), Profile.objects.count()), (0, 0))
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pgbus.outbox")
            self.assertEqual(cursor.fetchone(), (0,))

    def test_a_profile_is_made(self):
        register("ada")
        attempts = deliver_now_sync(bus, using=connection.connection)
        self.assertEqual([attempt.listener_name for attempt in attempts], ["site-make_profile", "site-tell"])
        self.assertEqual(heard, [Profile.objects.get().pk])

    def test_what_a_handler_raises_comes_through(self):
        register("")
        with self.assertRaisesMessage(ValueError, "no name"):
            deliver_now_sync(bus, using=connection.connection)

    @bus_mocker(bus)
    def test_the_mock_needs_no_outbox(self, mock):
        mock.mockEventFiring("auth.user_registered")
        register("eve")
        mock.assertEventFired("auth.user_registered", times=1)
"""
