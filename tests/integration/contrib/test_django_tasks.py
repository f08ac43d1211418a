"""The backend for Django's tasks: enqueueing in transactions, running by workers, results from the history."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import transaction
from django.test import override_settings
from django.utils import timezone

from pgbus.contrib.django import bus
from pgbus.contrib.django.models import DeadLetter, Event, Published
from pgbus.contrib.django.operating import retry_dead
from pgbus.contrib.django.task_frameworks import framework
from pgbus.contrib.django.tasks import PgBusBackend
from pgbus.testing import deliver_now_sync
from tests.support.django_project.warehouse import tasks
from tests.support.django_project.warehouse.models import Arrival

pytestmark = pytest.mark.usefixtures("django_database")

signals = framework("signals")
TaskResultDoesNotExist = framework("exceptions").TaskResultDoesNotExist


def work() -> None:
    deliver_now_sync(bus, raise_errors=False)


def test_a_task_is_enqueued_if_and_only_if_its_transaction_commits() -> None:
    with transaction.atomic():
        kept = tasks.add.enqueue(1, 2)
        assert tasks.add.get_result(kept.id) == kept  # within it
    with transaction.atomic():
        gone = tasks.add.enqueue(3, 4)
        transaction.set_rollback(True)
    alone = tasks.add.enqueue(5, 6)
    work()
    assert tasks.add.get_result(kept.id).return_value == 3
    assert tasks.add.get_result(alone.id).return_value == 11
    with pytest.raises(TaskResultDoesNotExist):
        tasks.add.get_result(gone.id)
    with pytest.raises(TaskResultDoesNotExist):
        tasks.add.get_result("not an id")


def test_a_result_tells_of_a_task_from_its_enqueueing_to_its_end() -> None:
    result = tasks.add.enqueue(1, b=2)
    assert (result.status, result.is_finished, result.attempts) == ("READY", False, 0)
    assert (result.args, result.kwargs) == ([1], {"b": 2})
    assert Published.objects.get().topic == "warehouse.django-tasks.default.default"
    work()
    result.refresh()
    assert (result.status, result.return_value, result.attempts) == ("SUCCESSFUL", 3, 1)
    assert result.enqueued_at <= result.started_at == result.last_attempted_at <= result.finished_at
    assert result.worker_ids == [bus.config.process_name]


def test_an_async_task_and_one_with_a_context_run() -> None:
    tasks.note_arrival.enqueue("bolt")
    asked = tasks.whoami.enqueue()
    work()
    assert [(arrival.item, arrival.listener) for arrival in Arrival.objects.all()] == [("bolt", "task")]
    assert tasks.whoami.get_result(asked.id).return_value == [asked.id, 1]


def test_run_after_is_when_the_event_is_due() -> None:
    later = timezone.now() + timedelta(hours=1)
    result = tasks.add.using(run_after=later).enqueue(1, 2)
    work()
    assert Published.objects.get().deliver_at == later
    found = tasks.add.get_result(result.id)
    assert (found.status, found.task.run_after) == ("READY", later)


def test_a_task_that_fails_is_tried_again_and_then_failed_with_every_error() -> None:
    result = tasks.fail.enqueue(2)
    work()
    result.refresh()
    assert (result.status, result.attempts, len(result.errors)) == ("FAILED", 2, 2)
    assert result.errors[0].exception_class is ValueError
    assert "this task fails 2 times" in result.errors[1].traceback
    with pytest.raises(ValueError, match="Task failed"):
        _ = result.return_value
    assert DeadLetter.objects.get().event_id.hex == result.id.replace("-", "")


def test_a_task_may_fail_once_and_then_succeed() -> None:
    result = tasks.fail_once.enqueue()
    work()
    result.refresh()
    assert (result.status, result.return_value, result.attempts) == ("SUCCESSFUL", "at last", 2)
    assert [error.exception_class for error in result.errors] == [ConnectionError]


def test_a_failed_task_that_is_put_back_is_ready_and_runs() -> None:
    result = tasks.fail.enqueue(1)
    work()
    assert retry_dead(DeadLetter.objects.values_list("pk", flat=True)) == 1
    result.refresh()
    assert result.status == "READY"
    work()
    result.refresh()
    assert result.status == "FAILED"


def test_a_transactional_task_leaves_no_rows_when_it_fails() -> None:
    failed = tasks.store_and_fail.enqueue("gone", fails=True)
    stored = tasks.store_and_fail.enqueue("kept", fails=False)
    work()
    assert [arrival.item for arrival in Arrival.objects.all()] == ["kept"]
    failed.refresh()
    stored.refresh()
    assert (failed.status, len(failed.errors)) == ("FAILED", 1)
    assert (stored.status, stored.return_value) == ("SUCCESSFUL", "kept")


def test_the_frameworks_signals_are_sent() -> None:
    heard: list[tuple[str, type, str, str]] = []

    def listen(name: str) -> Any:
        def receive(sender: type, task_result: Any, **_: object) -> None:
            heard.append((name, sender, task_result.id, task_result.status))

        getattr(signals, name).connect(receive, weak=False)
        return receive

    names = ("task_enqueued", "task_started", "task_finished")
    receivers = {name: listen(name) for name in names}
    try:
        result = tasks.fail.enqueue(2)
        work()
    finally:
        for name, receive in receivers.items():
            getattr(signals, name).disconnect(receive)
    assert heard == [
        ("task_enqueued", PgBusBackend, result.id, "READY"),
        ("task_started", PgBusBackend, result.id, "RUNNING"),
        ("task_started", PgBusBackend, result.id, "RUNNING"),
        ("task_finished", PgBusBackend, result.id, "FAILED"),
    ]


def test_what_a_task_returned_stays_in_the_log() -> None:
    result = tasks.add.enqueue(1, 2)
    work()
    stored = Event.objects.get(key=result.id)
    assert (stored.topic, stored.payload) == (
        "warehouse.django-tasks-results.default",
        {"attempt": 1, "return_value": 3},
    )


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"OPTIONS": {"ordered": True}}, "unknown OPTIONS: ordered"),
        ({"QUEUES": ["a queue"]}, "cannot have the names a queue"),
        ({"QUEUES": []}, "has no QUEUES"),
    ],
)
def test_entries_of_tasks_that_cannot_be_are_told_by_the_check(entry: dict[str, Any], message: str) -> None:
    [error] = PgBusBackend("default", entry).check()
    assert message in error.msg


def test_a_priority_is_refused() -> None:
    with pytest.raises(framework("exceptions").TaskException, match="priority"):
        tasks.add.using(priority=1)


def test_a_backend_of_someone_else_is_not_made_by_the_app() -> None:
    from pgbus.contrib.django.task_frameworks import declare_task_listeners

    with override_settings(TASKS={"default": {"BACKEND": "no.such.Backend"}}):
        declare_task_listeners()
        with pytest.raises(ImproperlyConfigured):
            _ = framework().task_backends["default"]
