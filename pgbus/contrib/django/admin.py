"""The admin: events and what each listener did; dead letters to retry or discard; listeners to pause or resume."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html, format_html_join

from pgbus.contrib.django.models import Attempt, DeadLetter, Event, Listener
from pgbus.contrib.django.operating import discard_dead, retry_dead, set_state
from pgbus.telemetry.figures import counted


class ReadOnlyAdmin(admin.ModelAdmin):
    """Rows are looked at, and changed by actions alone, which need the permission to change them."""

    show_full_result_count = False  # of a log, counting is expensive

    def has_add_permission(self, request: HttpRequest) -> bool:  # noqa: ARG002 - Django's
        """Return False: rows are added by the bus only."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: object = None) -> bool:  # noqa: ARG002 - Django's
        """Return False: rows are deleted by the bus only."""
        return False

    def get_readonly_fields(self, request: HttpRequest, obj: object = None) -> list[str]:  # noqa: ARG002 - Django's
        """Return all fields, so that none can be edited."""
        return [*(field.name for field in self.opts.fields), *self.readonly_fields]

    def render_change_form(self, request: HttpRequest, context: dict[str, Any], **options: Any) -> Any:
        """Show no button that saves."""
        context.update({"show_save": False, "show_save_and_continue": False})
        return super().render_change_form(request, context, **options)


@admin.register(Event)
class EventAdmin(ReadOnlyAdmin):
    """The log, the newest first."""

    list_display = ("position", "topic", "key", "event_id", "published_at")
    search_fields = ("=event_id", "=topic", "=key")
    readonly_fields = ("attempts",)

    @admin.display(description="what each listener did")
    def attempts(self, event: Event) -> str:
        """A list of the attempts, the oldest first."""
        tried = Attempt.objects.filter(position=event.position, listener_name__isnull=False)
        lines = format_html_join(
            "", "<li>{}, {} on {}{}</li>", ((one, one.started_at, one.worker, _because(one.error)) for one in tried)
        )
        return format_html("<ul>{}</ul>", lines) if lines else "nothing yet"


@admin.register(DeadLetter)
class DeadLetterAdmin(ReadOnlyAdmin):
    """Dead letters, the newest first."""

    list_display = ("id", "listener_name", "topic", "key", "attempts", "error", "dead_at")
    list_filter = ("listener_name", "topic")
    search_fields = ("=event_id", "=key", "error")
    actions = ("retry", "discard")

    @admin.action(description="Retry: hand the events to their listeners again", permissions=["change"])
    def retry(self, request: HttpRequest, chosen: QuerySet) -> None:
        """Deliver the selected dead letters to their listeners again."""
        _tell(request, retry_dead(chosen.values_list("pk", flat=True), person=_person(request)), "will be tried again")

    @admin.action(description="Discard: remove for good", permissions=["change"])
    def discard(self, request: HttpRequest, chosen: QuerySet) -> None:
        """Delete the selected dead letters; the history keeps them."""
        _tell(request, discard_dead(chosen.values_list("pk", flat=True), person=_person(request)), "discarded")


@admin.register(Listener)
class ListenerAdmin(ReadOnlyAdmin):
    """Listeners, and how far behind each is."""

    list_display = (
        "listener_name", "state", "service", "lag_events", "lag_seconds", "in_flight", "retrying", "dead",
        "last_seen_at",
    )  # fmt: skip
    list_filter = ("state", "service")
    search_fields = ("listener_name",)
    actions = ("pause", "resume")

    @admin.action(description="Pause: keep events, deliver none", permissions=["change"])
    def pause(self, request: HttpRequest, chosen: QuerySet) -> None:
        """Stop deliveries to the selected listeners."""
        set_state(chosen.values_list("pk", flat=True), "paused", person=_person(request))

    @admin.action(description="Resume", permissions=["change"])
    def resume(self, request: HttpRequest, chosen: QuerySet) -> None:
        """Deliver to the selected listeners again."""
        set_state(chosen.values_list("pk", flat=True), "active", person=_person(request))


def _person(request: HttpRequest) -> str | None:
    return str(request.user) if request.user.is_authenticated else None


def _because(error: str | None) -> str:
    return f": {error}" if error else ""


def _tell(request: HttpRequest, count: int, what: str) -> None:
    messages.success(request, f"{counted(count, 'dead letter')} {what}.")
