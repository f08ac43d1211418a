"""A backend for Django's tasks: a task is an event, each queue is a listener, and workers run it.

TASKS = {"default": {"BACKEND": "pgbus.contrib.django.tasks.PgBusBackend", "QUEUES": ["default"], "OPTIONS": {...}}}
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from django.core import checks
from django.db import transaction
from django.utils import timezone
from django.utils.module_loading import import_string

from pgbus.contrib.django.project import get_bus
from pgbus.contrib.django.publishing import publish
from pgbus.contrib.django.task_frameworks import framework
from pgbus.contrib.django.task_results import Run, find_run, run_of
from pgbus.database.adapters.django import connection_of, in_atomic
from pgbus.errors import ConfigurationError
from pgbus.handlers.contexts import Context
from pgbus.handlers.outcomes import Dead, RetryPolicy, decide
from pgbus.messages import EventMessage

_base = framework("base")
_signals = framework("signals")
_Status = _base.TaskResultStatus
_normalize_json = framework("utils" if framework().__name__ == "django_tasks" else "base").normalize_json

_WORD = re.compile(r"[A-Za-z0-9_-]+")
_OPTIONS = frozenset({"batch_size", "concurrency", "retry", "timeout", "transactional"})


_BaseTaskBackend: Any = framework("backends.base").BaseTaskBackend


class PgBusBackend(_BaseTaskBackend):
    """Tasks in the outbox of Django's own transaction; their results are read from the history.

    `OPTIONS` are those of a listener: `concurrency` (10), `timeout` in seconds (none), `retry` (a RetryPolicy, or a
    number of attempts; 10), `transactional` (False; true has a task's rows, its result and its end commit together),
    `batch_size`. Tasks run in the order in which they were enqueued: a priority is refused.
    """

    supports_defer = True
    supports_async_task = True
    supports_get_result = True
    supports_priority = False

    def __init__(self, alias: str, params: Mapping[str, Any]) -> None:
        super().__init__(alias, params)
        retry = self.options.get("retry", RetryPolicy())
        self._policy = retry if isinstance(retry, RetryPolicy) else RetryPolicy(max_attempts=retry)

    def check(self, **_: Any) -> Sequence[checks.CheckMessage]:
        """Return the faults of the entry in TASKS, as Django's check messages."""
        unknown = sorted(set(self.options) - _OPTIONS)
        odd = sorted(queue for queue in (self.alias, *self.queues) if not _WORD.fullmatch(queue))
        errors = []
        if unknown:
            hint = f"Known are {', '.join(sorted(_OPTIONS))}."
            errors.append(checks.Error(f"TASKS[{self.alias!r}] has unknown OPTIONS: {', '.join(unknown)}.", hint=hint))
        if odd:
            hint = "Use letters, digits, '-' and '_': the names are words of a topic."
            errors.append(checks.Error(f"TASKS[{self.alias!r}] cannot have the names {', '.join(odd)}.", hint=hint))
        if not self.queues:
            hint = "Name the queues: each of them is a listener."
            errors.append(checks.Error(f"TASKS[{self.alias!r}] has no QUEUES.", hint=hint))
        return errors

    # ----------------------------------------------------------------------------------------------------- enqueueing

    def enqueue(self, task: Any, args: Iterable[Any], kwargs: Mapping[str, Any]) -> Any:
        """Insert a task in the transaction of Django's connection; outside of `atomic`, in one of its own.

        A worker runs it once that has committed, and `run_after` has passed by the database's clock.
        """
        self.validate_task(task)
        given = {"args": _normalize_json(list(args)), "kwargs": _normalize_json(dict(kwargs))}
        now = timezone.now()
        message = self._publish(
            {"task": task.module_path, "enqueued_at": now.isoformat(), **given},
            topic=self.topic(task.queue_name),
            deliver_at=None if task.run_after is None else _aware(task.run_after),
        )
        run = Run(id=str(message.event_id), status=_Status.READY, enqueued_at=now, **given)
        result = self._result(task, run)
        _signals.task_enqueued.send(type(self), task_result=result)
        return result

    def get_result(self, result_id: str) -> Any:
        """Return a task's result from the log and the history; raises TaskResultDoesNotExist.

        Not before its transaction has committed, except in that transaction.
        """
        found = find_run(result_id, topics={self.topic(queue) for queue in self.queues}, results=self.results_topic)
        if found is None:
            raise framework("exceptions").TaskResultDoesNotExist(result_id)
        return self._result(self._task(found), found)

    def topic(self, queue_name: str) -> str:
        """The topic of a queue's tasks, which is the name of its listener as well."""
        return f"{self._root}.{self.alias}.{queue_name}"

    @property
    def results_topic(self) -> str:
        """The topic of what tasks return and raise."""
        return f"{self._root}-results.{self.alias}"

    @property
    def _root(self) -> str:
        service = re.sub(r"[^A-Za-z0-9_-]+", "-", get_bus().config.service_name)
        return f"{service}.django-tasks" if service else "django-tasks"

    def _publish(self, payload: object, **options: Any) -> EventMessage:
        # Outside of `atomic`, a task stands alone because its author wants it to.
        connection = connection_of(get_bus().project.database)
        if in_atomic(connection):
            return publish(payload, using=connection, **options)
        with transaction.atomic(using=connection.alias):
            return publish(payload, using=connection, **options)

    # -------------------------------------------------------------------------------------------------------- running

    def declare_listeners(self) -> None:
        """Have the bus's workers run the tasks: a listener for each queue, which begins with what is there."""
        if errors := self.check():
            raise ConfigurationError(" ".join(f"{error.msg} {error.hint}" for error in errors))
        bus = get_bus()
        for queue in sorted(self.queues):
            topic = self.topic(queue)
            bus.listener(topic, name=topic, start="beginning", **self.options)(self.execute)

    def execute(self, message: EventMessage, context: Context) -> None:
        """Run a task for a worker; an exception of the task fails the attempt."""
        run = None
        if context.attempt > 1:  # a test's transaction has no history of it
            run = find_run(str(message.event_id), topics={message.topic}, results=self.results_topic)
        run = run or run_of(message)
        run.begin(worker=get_bus().config.process_name, attempt=context.attempt, now=timezone.now())
        task = self._task(run)
        result = self._result(task, run)
        _signals.task_started.send(type(self), task_result=result)
        try:
            value = _normalize_json(self._call(task, result))
        except BaseException as error:
            self._fail(run, task, error, attempt=context.attempt)
            raise
        self._publish({"attempt": context.attempt, "return_value": value}, topic=self.results_topic, key=run.id)
        run.succeed(value, now=timezone.now())
        _signals.task_finished.send(type(self), task_result=self._result(task, run))

    def _call(self, task: Any, result: Any) -> Any:
        context = (_base.TaskContext(task_result=result),) if task.takes_context else ()
        return task.call(*context, *result.args, **result.kwargs)

    def _fail(self, run: Run, task: Any, error: BaseException, *, attempt: int) -> None:
        """Keep what was raised; `task_finished` is sent if no other attempt follows."""
        told = {
            "exception_class_path": f"{type(error).__module__}.{type(error).__qualname__}",
            "traceback": "".join(traceback.format_exception(error)),
        }
        # On the bus's own connection: the handler's transaction, if it has one, is about to be rolled back.
        get_bus().publish_sync({"attempt": attempt, "error": told}, topic=self.results_topic, key=run.id)
        run.errors.append(told)
        if isinstance(decide(error, attempt=attempt, policy=self._policy), Dead):
            run.fail(now=timezone.now())
            _signals.task_finished.send(type(self), task_result=self._result(task, run))

    # -------------------------------------------------------------------------------------------------------- results

    def _task(self, run: Run) -> Any:
        task = import_string(run.payload["task"])
        return task.using(queue_name=run.queue_name, run_after=run.deliver_at, backend=self.alias)

    def _result(self, task: Any, run: Run) -> Any:
        result = _base.TaskResult(
            task=task,
            id=run.id,
            status=_Status(run.status),
            enqueued_at=run.enqueued_at,
            started_at=run.started_at,
            finished_at=run.finished_at,
            last_attempted_at=run.last_attempted_at,
            args=run.args,
            kwargs=run.kwargs,
            backend=self.alias,
            errors=[_base.TaskError(**told) for told in run.errors],
            worker_ids=list(run.workers),
        )
        object.__setattr__(result, "_return_value", run.return_value)
        return result


def _aware(instant: Any) -> Any:
    return instant if timezone.is_aware(instant) else timezone.make_aware(instant)
