"""The Django app's admin, commands, test case, and the databases of a test run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection, transaction
from django.test import Client

from pgbus.contrib.django import bus, publish
from pgbus.contrib.django.models import Attempt, DeadLetter, Event, Listener
from pgbus.contrib.django.testing import deliver_now
from pgbus.errors import ConnectionUnusableError
from pgbus.testing import deliver_now as deliver_now_async
from pgbus.testing import deliver_now_sync
from pgbus.testing.databases import DatabaseServer
from tests.support import ROOT
from tests.support.django_project import in_database
from tests.support.django_project.warehouse.events import ItemStored
from tests.support.django_project.warehouse.models import Arrival

# -------------------------------------------------------------------------------------------------------------- admin


@pytest.fixture
def admin(django_database: str) -> Client:
    from django.contrib.auth.models import User

    client = Client()
    client.force_login(User.objects.create_superuser("operator"))
    return client


def given_up() -> Any:
    with transaction.atomic():
        publish(ItemStored("broken"))
    deliver_now_sync(bus, raise_errors=False)
    return DeadLetter.objects.get()


def act(client: Client, model: str, action: str, *chosen: object) -> str:
    answer = client.post(
        f"/admin/pgbus/{model}/", {"action": action, "_selected_action": [str(one) for one in chosen]}, follow=True
    )
    assert answer.status_code == 200
    return str(answer.content.decode())


def test_a_dead_letter_is_retried_in_the_admin(admin: Client) -> None:
    letter = given_up()
    assert "this item is broken" in admin.get("/admin/pgbus/deadletter/").content.decode()
    assert "Traceback" in admin.get(f"/admin/pgbus/deadletter/{letter.pk}/change/").content.decode()
    assert "1 dead letter will be tried again." in act(admin, "deadletter", "retry", letter.pk)
    assert not DeadLetter.objects.exists()
    deliver_now_sync(bus, raise_errors=False)
    assert DeadLetter.objects.exists()
    assert Attempt.objects.filter(listener_name="note_item").count() == 4


def test_a_dead_letter_is_discarded_in_the_admin(admin: Client) -> None:
    letter = given_up()
    assert "1 dead letter discarded." in act(admin, "deadletter", "discard", letter.pk)
    assert not DeadLetter.objects.exists()
    assert Attempt.objects.get(outcome="discarded").listener_name == "note_item"


def test_listeners_are_paused_and_resumed_in_the_admin(admin: Client) -> None:
    given_up()
    act(admin, "listener", "pause", "note_item", "count_item")
    assert sorted(Listener.objects.filter(state="paused").values_list("pk", flat=True)) == ["count_item", "note_item"]
    act(admin, "listener", "resume", "note_item")
    assert Listener.objects.get(state="paused").pk == "count_item"


def test_an_event_shows_what_each_listener_did(admin: Client) -> None:
    letter = given_up()
    assert str(letter.event_id) in admin.get("/admin/pgbus/event/", {"q": str(letter.event_id)}).content.decode()
    page = admin.get(f"/admin/pgbus/event/{letter.position}/change/").content.decode()
    assert "note_item, attempt 2: dead" in page
    assert "count_item, attempt 1: done" in page


def test_nothing_is_added_deleted_or_saved_in_the_admin(admin: Client) -> None:
    letter = given_up()
    assert admin.get("/admin/pgbus/event/add/").status_code == 403
    assert admin.get(f"/admin/pgbus/event/{letter.position}/delete/").status_code == 403
    assert 'name="_save"' not in admin.get(f"/admin/pgbus/event/{letter.position}/change/").content.decode()


def test_actions_need_the_permission_to_change(django_database: str) -> None:
    from django.contrib.auth.models import Permission, User

    letter = given_up()
    reader = User.objects.create_user("reader", is_staff=True)
    reader.user_permissions.add(Permission.objects.get(codename="view_deadletter"))
    client = Client()
    client.force_login(reader)
    assert client.get("/admin/pgbus/deadletter/").status_code == 200
    act(client, "deadletter", "retry", letter.pk)
    assert DeadLetter.objects.exists()


# -------------------------------------------------------------------------------------------- a test's own transaction


@pytest.mark.usefixtures("django_database")
def test_listeners_hear_in_the_transaction_of_a_test_and_leave_nothing_behind() -> None:
    with transaction.atomic():
        publish(ItemStored("bolt"))
        attempts = deliver_now()
        heard = sorted(Arrival.objects.values_list("listener", flat=True))
        transaction.set_rollback(True)
    assert heard == ["count_item", "note_count", "note_item", "note_item_async"]
    assert [attempt.outcome for attempt in attempts] == ["done"] * 4
    assert not Arrival.objects.exists()
    assert not Event.objects.exists()


@pytest.mark.usefixtures("django_database")
def test_a_handlers_error_comes_through_and_its_savepoint_is_rolled_back() -> None:
    with transaction.atomic():
        publish(ItemStored("uncountable"))
        with pytest.raises(ValueError, match="cannot be counted"):
            deliver_now()
        assert not Arrival.objects.filter(listener="count_item").exists()
        transaction.set_rollback(True)


@pytest.mark.usefixtures("django_database")
def test_the_awaited_form_refuses_djangos_connection() -> None:
    import asyncio

    with pytest.raises(ConnectionUnusableError, match="call deliver_now_sync"):
        asyncio.run(deliver_now_async(bus, using=connection))


PROJECTS_TESTS = """
from django.test import TestCase, TransactionTestCase
from pgbus.contrib.django import bus, publish
from pgbus.contrib.django.testing import BusTestCase
from pgbus.testing import deliver_now_sync
from tests.support.django_project.warehouse.events import ItemStored
from tests.support.django_project.warehouse.models import Arrival


class InATransaction(BusTestCase):
    def test_one(self):
        self.captured = publish(ItemStored("one"))
        self.deliver()
        self.assertEqual(Arrival.objects.count(), 4)

    def test_two(self):
        self.assertEqual(Arrival.objects.count(), 0)


class Committed(TransactionTestCase):
    def test_a_worker_hears(self):
        publish(ItemStored("two"))
        deliver_now_sync(bus)
        self.assertEqual(Arrival.objects.count(), 4)

    def test_the_bus_finds_the_database_of_the_test(self):
        self.assertEqual(Arrival.objects.count(), 0)
        bus.publish_sync(ItemStored("three"))
        deliver_now_sync(bus)
        self.assertEqual(Arrival.objects.filter(item="three").count(), 4)
"""


def manage(*arguments: str, dsn: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "tests/support/django_project/manage.py", *arguments],
        cwd=cwd, env={"PGBUS_DSN": dsn, "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_projects_test_run_has_databases_of_its_own(empty_database: str, tmp_path: Path, processes: str) -> None:
    (tmp_path / "test_project.py").write_text(PROJECTS_TESTS)
    ran = manage("test", "--parallel", processes, "--noinput", str(tmp_path), dsn=empty_database)
    assert ran.returncode == 0, ran.stderr
    assert "Ran 4 tests" in ran.stderr


# ----------------------------------------------------------------------------------------------------------- commands


def test_migrate_upgrades_the_bus_and_db_check_finds_it_so(empty_database: str) -> None:
    before = manage("pgbus", "db", "check", dsn=empty_database)
    assert before.returncode == 3, before.stderr
    upgraded = manage("pgbus", "db", "upgrade", "--settings=tests.support.django_project.settings", dsn=empty_database)
    assert upgraded.returncode == 0, upgraded.stderr
    assert manage("migrate", "--run-syncdb", dsn=empty_database).returncode == 0
    after = manage("pgbus", "db", "check", dsn=empty_database)
    assert after.returncode == 0, after.stderr


def test_the_help_names_the_command_as_it_was_called(empty_database: str) -> None:
    assert "manage.py pgbus" in manage("pgbus", "--help", dsn=empty_database).stdout


def test_call_command_runs_a_command_and_raises_if_it_fails(
    server: DatabaseServer, empty_database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from django.core.management.base import CommandError

    before = dict(os.environ)
    with in_database(empty_database):
        with pytest.raises(CommandError):
            call_command("pgbus", "status")
        assert dict(os.environ) == before  # a bus of another database is not told of this one
        call_command("pgbus", "db", "upgrade")
        call_command("pgbus", "status")
    assert "no worker" in capsys.readouterr().out.lower()
