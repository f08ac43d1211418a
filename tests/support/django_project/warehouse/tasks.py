try:
    from django.tasks import task
except ImportError:
    from django_tasks import task

from tests.support.django_project.warehouse.models import Arrival


@task
def add(a: int, b: int) -> int:
    return a + b


@task(queue_name="emails", takes_context=True)
def whoami(context: object) -> list[object]:
    return [context.task_result.id, context.attempt]  # type: ignore[attr-defined]


@task
async def note_arrival(item: str) -> None:
    await Arrival.objects.acreate(item=item, listener="task")


@task
def fail(times: int) -> None:
    raise ValueError(f"this task fails {times} times")


@task(takes_context=True)
def fail_once(context: object) -> str:
    if context.attempt == 1:  # type: ignore[attr-defined]
        raise ConnectionError("not yet")
    return "at last"


@task(backend="transactional")
def store_and_fail(item: str, fails: bool) -> str:
    Arrival.objects.create(item=item, listener="task")
    if fails:
        raise ValueError("after the write")
    return item
