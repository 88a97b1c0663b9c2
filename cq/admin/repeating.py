"""Repeating tasks in the admin: edit them, see when they are due while typing, run now, pause and resume."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.db.models import QuerySet
from django.forms import Script
from django.http import HttpRequest, HttpResponseNotAllowed, JsonResponse
from django.http.response import HttpResponseBase
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join

from cq import schedules
from cq.admin.forms import RepeatingTaskForm
from cq.cron import doubts
from cq.exceptions import CQError
from cq.models import RepeatingTask, Task
from cq.models.repeating import timetable_of, wrong_timetable
from cq.terminal.schedules import call_of, remarks, repeating_tasks, skipped, when

if TYPE_CHECKING:  # takes no parameters at run time
    ModelAdmin = admin.ModelAdmin[RepeatingTask]
else:
    ModelAdmin = admin.ModelAdmin

_SHOWN_RUNS = 10
_SHOWN_TICKS = 5


@admin.register(RepeatingTask)
class RepeatingTaskAdmin(ModelAdmin):
    """One row for each repeating task. Those that the code owns are shown, and can be paused, but not edited."""

    form = RepeatingTaskForm
    list_display = ("name", "task", "due_when", "enabled", "last_result", "last_run", "next_tick", "skipped_ticks")
    list_filter = ("enabled", "overlap")
    search_fields = ("name", "task")
    actions = ("run_now", "pause", "resume")
    readonly_fields = (
        "call",
        "owner",
        "remarks_shown",
        "next_tick",
        "next_runs",
        "last_run",
        "skipped_ticks",
        "last_runs",
    )
    fieldsets = (
        (None, {"fields": ("name", "task", "args", "kwargs", "enabled")}),
        ("When", {"fields": ("crontab", "every", "timezone", "starts_at", "ends_at")}),
        ("Rules", {"fields": ("overlap", "catch_up", "catch_up_window", "jitter", "max_failures")}),
        ("Runs", {"fields": ("queue", "priority", "result_ttl")}),
        ("State", {"fields": readonly_fields[1:]}),
    )

    class Media:
        js = [Script("cq/admin/timetable.js", type="module")]

    def get_queryset(self, request: HttpRequest) -> QuerySet[RepeatingTask]:
        """Read each with the status of its last run."""
        return repeating_tasks().order_by("name")

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        """Tell the page where it can ask when a timetable is due."""
        form = super().get_form(request, obj, change=change, **kwargs)
        if "crontab" in form.base_fields:
            form.base_fields["crontab"].widget.attrs["data-cq-preview"] = reverse("admin:cq_repeatingtask_preview")
        return form

    def get_fieldsets(self, request: HttpRequest, obj: RepeatingTask | None = None) -> Any:
        """Show who may not edit a row what it calls, masked."""
        if obj is None or self.has_change_permission(request, obj):
            return self.fieldsets
        return ((None, {"fields": ("name", "call", "enabled")}), *self.fieldsets[1:])

    def has_change_permission(self, request: HttpRequest, obj: RepeatingTask | None = None) -> bool:
        """What the code owns is left to the code."""
        return super().has_change_permission(request, obj) and (obj is None or obj.source != "code")

    def has_delete_permission(self, request: HttpRequest, obj: RepeatingTask | None = None) -> bool:
        """The next migrate would bring it back."""
        return super().has_delete_permission(request, obj) and (obj is None or obj.source != "code")

    def has_run_permission(self, request: HttpRequest) -> bool:
        """Who may run one now?"""
        return request.user.has_perm("cq.run_repeatingtask")

    def get_urls(self) -> list[URLPattern]:
        """Add the page that is asked while somebody types."""
        preview = path("preview/", self.admin_site.admin_view(self.preview), name="cq_repeatingtask_preview")
        return [preview, *super().get_urls()]

    def preview(self, request: HttpRequest) -> HttpResponseBase:
        """Say in words when a timetable is due, and its next ticks; or what is wrong with it."""
        if request.method != "GET":
            return HttpResponseNotAllowed(["GET"])
        if not (self.has_view_or_change_permission(request) or self.has_add_permission(request)):
            raise PermissionDenied
        return JsonResponse(
            preview(request.GET.get("crontab", ""), request.GET.get("every", ""), request.GET.get("timezone", ""))
        )

    @admin.display(description="call")
    def call(self, row: RepeatingTask) -> str:
        """Show what it calls, sensitive values masked."""
        return call_of(row)

    @admin.display(description="when")
    def due_when(self, row: RepeatingTask) -> str:
        """Say when it is due."""
        return when(row)

    @admin.display(description="last result", empty_value="–")
    def last_result(self, row: RepeatingTask) -> str | None:
        """Show the status of its last run."""
        return getattr(row, "last_status", None)

    @admin.display(description="next run", ordering="next_run")
    def next_tick(self, row: RepeatingTask) -> datetime | str:
        """Show when it is due next."""
        return "paused" if not row.enabled else row.next_run or "never"

    @admin.display(description="skipped")
    def skipped_ticks(self, row: RepeatingTask) -> str:
        """Show how many ticks were skipped, by reason."""
        return skipped(row) or "–"

    @admin.display(description="owner")
    def owner(self, row: RepeatingTask) -> str:
        """Say who may change it."""
        owners = {"code": "the code (@repeat): change it there", "removed": "the code, which no longer declares it"}
        return owners.get(row.source, "this row")

    @admin.display(description="remarks")
    def remarks_shown(self, row: RepeatingTask) -> str:
        """Say what is noteworthy about it."""
        return " ".join(remarks(row)) or "–"

    @admin.display(description="next runs")
    def next_runs(self, row: RepeatingTask) -> str:
        """Show the next ticks, by the clocks of its zone and in UTC."""
        if row._state.adding or not row.enabled:
            return "–"
        lines = (
            (f"{tick.local:%a %Y-%m-%d %H:%M:%S %Z}", f"{tick:%H:%M:%S} UTC", tick.note)
            for tick in row.upcoming(_SHOWN_TICKS)
        )
        return format_html_join("", "<div>{} ({}) {}</div>", lines) or "–"

    @admin.display(description="last runs")
    def last_runs(self, row: RepeatingTask) -> str:
        """Link to its last runs."""
        if row._state.adding:
            return "–"
        return format_html_join("", "<div>{}</div>", ((_link(run),) for run in row.runs[:_SHOWN_RUNS])) or "–"

    @admin.action(description="Run now", permissions=["run"])
    def run_now(self, request: HttpRequest, rows: QuerySet[RepeatingTask]) -> None:
        """Make a task of each, whatever else runs."""
        self._each(request, rows, lambda row: f"Run now: task {row.run_now(created_by=request.user).id}")  # type: ignore[arg-type]

    @admin.action(description="Pause", permissions=["change"])
    def pause(self, request: HttpRequest, rows: QuerySet[RepeatingTask]) -> None:
        """Fire nothing until it is resumed."""
        self._each(request, rows, _pause)

    @admin.action(description="Resume", permissions=["change"])
    def resume(self, request: HttpRequest, rows: QuerySet[RepeatingTask]) -> None:
        """Go on with the next tick."""
        self._each(request, rows, _resume)

    def _each(self, request: HttpRequest, rows: QuerySet[RepeatingTask], act: Callable[[RepeatingTask], str]) -> None:
        """Do it to each, note it in the log, and say what became of it."""
        for row in rows:
            try:
                said = act(row)
            except (CQError, ValidationError) as error:
                self.message_user(request, f"“{row.name}”: {error}", messages.ERROR)
                continue
            self.log_change(request, row, said)
            self.message_user(request, f"“{row.name}”: {said}.")


def _pause(row: RepeatingTask) -> str:
    row.pause()
    return "Paused"


def _resume(row: RepeatingTask) -> str:
    row.resume()
    return "Resumed"


def _link(run: Task) -> str:
    at = run.scheduled_for or run.created_at
    kind = "" if run.scheduled_for else " (by hand)"
    url = reverse("admin:cq_task_change", args=[run.pk])
    return format_html('<a href="{}">{}</a> {}{}', url, f"{timezone.localtime(at):%Y-%m-%d %H:%M:%S}", run.status, kind)


def preview(crontab: str, every: str, zone: str) -> dict[str, Any]:
    """Say when a timetable would be due that somebody is just typing."""
    row = RepeatingTask(crontab=" ".join(crontab.split()), timezone=zone)
    if every.strip():
        try:
            row.every = forms.DurationField().clean(every)
        except ValidationError as error:
            return {"errors": {"every": " ".join(error.messages)}}
    if errors := wrong_timetable(row):
        return {"errors": errors}
    now = schedules.clock()
    table = timetable_of(row, now)
    runs = [tick.as_json() for tick in table.upcoming(_SHOWN_TICKS, now)]
    return {"words": table.words, "runs": runs, "doubts": doubts(row.crontab) if row.crontab else []}
