"""Tasks in the admin: to be read, retried and revoked; never edited, made or deleted."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join

from cq import registry
from cq.conf import conf
from cq.exceptions import NotAllowedHere, TaskGone, UniqueConflict
from cq.models import Queue, Task
from cq.models.attempt import Attempt
from cq.moments import duration
from cq.options import route
from cq.terminal.masking import as_call, as_python
from cq.terminal.record import Record, records

if TYPE_CHECKING:  # takes no parameters at run time
    ModelAdmin = admin.ModelAdmin[Task]
else:
    ModelAdmin = admin.ModelAdmin

_SHOWN_TASKS = 100


class NameFilter(admin.SimpleListFilter):
    """By task function: those that are registered here."""

    title = "name"
    parameter_name = "name"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Offer them."""
        return [(name, name) for name in registry.names()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Task]) -> QuerySet[Task]:
        """Select by it."""
        return queryset if self.value() is None else queryset.filter(name=self.value())


class QueueFilter(admin.SimpleListFilter):
    """By queue: those that the settings, the code and the queues' own rows name. (To ask the tasks would read all of them.)"""

    title = "queue"
    parameter_name = "queue"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Offer them."""
        of_code = {route(name, registry.get(name).queue) for name in registry.names()}
        of_rows = set(Queue.objects.values_list("name", flat=True))
        return [(name, name) for name in sorted({"default", *of_code, *of_rows, *(conf().QUEUES or ())})]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Task]) -> QuerySet[Task]:
        """Select by it."""
        return queryset if self.value() is None else queryset.filter(queue=self.value())


@admin.register(Task)
class TaskAdmin(ModelAdmin):
    """One row for each task."""

    list_display = ("short_id", "name", "queue", "status", "attempt", "created_at", "finished_at")
    list_filter = ("status", QueueFilter, NameFilter)
    search_fields = ("name",)
    search_help_text = "An id, or the beginning of a name"
    ordering = ("-id",)
    show_full_result_count = False
    list_per_page = 50
    actions = ("retry", "revoke")
    fieldsets = (
        (None, {"fields": ("id", "name", "status", "reason", "queue", "priority")}),
        ("Call", {"fields": ("call", "created_by_ref", "subject_ref", "created_at", "run_after", "scheduled_for")}),
        (
            "Outcome",
            {"fields": ("started_at", "finished_at", "result_shown", "exception", "error_shown", "traceback_shown")},
        ),
        ("Attempts", {"fields": ("attempts_shown",)}),
        ("Workflow", {"fields": ("parent_shown", "previous_shown", "subtasks_shown", "successors_shown")}),
    )

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Tasks are made by calls."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Task | None = None) -> bool:
        """Tasks are moved by the engine."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Task | None = None) -> bool:
        """Whole workflows are pruned after their time."""
        return False

    def has_retry_permission(self, request: HttpRequest) -> bool:
        """Who may retry?"""
        return request.user.has_perm("cq.retry_task")

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        """Who may revoke?"""
        return request.user.has_perm("cq.revoke_task")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Task]:
        """Leave out what may be large; the page of one task reads it by itself."""
        return super().get_queryset(request).defer("args", "kwargs", "result", "traceback", "options")

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[QuerySet[Task], bool]:
        """Find an id, or names that begin so."""
        term = search_term.strip()
        if not term:
            return queryset, False
        try:
            return queryset.filter(pk=UUID(term)), False
        except ValueError:
            return queryset.filter(name__startswith=term), False

    @admin.action(description="Retry", permissions=["retry"])
    def retry(self, request: HttpRequest, tasks: QuerySet[Task]) -> None:
        """Reopen what ended otherwise than in SUCCESS."""
        self._each(request, tasks, "Retried", lambda task: task.retry())

    @admin.action(description="Revoke", permissions=["revoke"])
    def revoke(self, request: HttpRequest, tasks: QuerySet[Task]) -> None:
        """Stop what is unfinished."""
        self._each(request, tasks, "Revoked", lambda task: task.revoke())

    def _each(self, request: HttpRequest, tasks: QuerySet[Task], done: str, act: Callable[[Task], bool]) -> None:
        """Do it to each, note it in the log, and say what became of it."""
        changed = 0
        for task in tasks:
            try:
                if act(task):
                    changed += 1
                    self.log_change(request, task, done)
            except (NotAllowedHere, TaskGone, UniqueConflict) as error:
                self.message_user(request, f"{task.id}: {error}", messages.ERROR)
        self.message_user(
            request, f"{done} {changed} of {len(tasks)}.", messages.SUCCESS if changed else messages.WARNING
        )

    @admin.display(description="task", ordering="id")
    def short_id(self, task: Task) -> str:
        """Show the end of its id, where ids differ."""
        return str(task.pk)[-12:]

    @admin.display(description="call")
    def call(self, task: Task) -> str:
        """Show its arguments, masked."""
        record = _record(task)
        return f"{record.name}({as_call(record.args, record.kwargs)})"

    @admin.display(description="result")
    def result_shown(self, task: Task) -> str:
        """Show what its body returned, masked."""
        record = _record(task)
        return as_python(record.result) if record.has_result else "–"

    @admin.display(description="error")
    def error_shown(self, task: Task) -> str:
        """Show the text of the last error."""
        return task.error or "–"

    @admin.display(description="traceback")
    def traceback_shown(self, task: Task) -> str:
        """Show where it came from."""
        return format_html("<pre>{}</pre>", task.traceback) if task.traceback else "–"

    @admin.display(description="attempts")
    def attempts_shown(self, task: Task) -> str:
        """Show how each start of the body ended."""
        return format_html_join("", "<div>{}</div>", ((_attempt(one),) for one in task.attempts.all())) or "–"

    @admin.display(description="parent")
    def parent_shown(self, task: Task) -> str:
        """Link to the task above."""
        return _links(Task.objects.filter(pk__in=[task.parent_id]))

    @admin.display(description="predecessor")
    def previous_shown(self, task: Task) -> str:
        """Link to the task before."""
        return _links(Task.objects.filter(pk__in=[task.previous_id]))

    @admin.display(description="subtasks")
    def subtasks_shown(self, task: Task) -> str:
        """Link to the tasks below."""
        return _links(task.subtasks.all())

    @admin.display(description="successors")
    def successors_shown(self, task: Task) -> str:
        """Link to the tasks after."""
        return _links(task.next.all())


def _record(task: Task) -> Record:
    (record,) = records(Task.objects.filter(pk=task.pk))
    return record


def _attempt(attempt: Attempt) -> str:
    began = attempt.started_at and f"{timezone.localtime(attempt.started_at):%Y-%m-%d %H:%M:%S}"
    ran = duration(attempt.ended_at - attempt.started_at) if attempt.ended_at and attempt.started_at else ""
    said = (f"{attempt.number}.", began or "", ran, attempt.worker, attempt.outcome or "running", attempt.error or "")
    return " ".join(part for part in said if part)


def _links(tasks: QuerySet[Task]) -> str:
    """Link to tasks, the first hundred of them."""
    found = list(tasks.only("id", "name", "status")[: _SHOWN_TASKS + 1])
    linked = format_html_join(
        "",
        '<div><a href="{}">{} {}</a> {}</div>',
        (
            (reverse("admin:cq_task_change", args=[one.pk]), one.name, str(one.pk)[-12:], one.status)
            for one in found[:_SHOWN_TASKS]
        ),
    )
    more = format_html("<div>and more</div>") if len(found) > _SHOWN_TASKS else ""
    return format_html("{}{}", linked, more) if found else "–"
