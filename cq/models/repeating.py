"""Repeating tasks: what is to run, when, and what becomes of the ticks that cannot run.

`cq.schedules` decides the ticks; here is what people write. A row is saved under the lock that firing takes too, and what only
firing writes is left alone, so that an edit neither loses a tick nor fires one of the past.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import models, transaction
from django.db.models import Q
from django.db.models.functions import Now

from cq import database, notifier, registry, schedules
from cq.call import as_args
from cq.cron import BadCrontab, BadZone, check, zone_of
from cq.definition import encode
from cq.exceptions import InvalidOption, NotSerializable, TooLarge
from cq.fields import ArgumentsField, EncodedField, IntervalField
from cq.models.manager import StoredManager
from cq.models.task import Task
from cq.options import check_call_options
from cq.schedules import Run
from cq.timetable import LONGEST, SHORTEST, Tick, Timetable

if TYPE_CHECKING:
    from django.db.models import QuerySet


class Overlap(models.TextChoices):
    """What becomes of a tick while a run before it has not ended."""

    SKIP = "skip", "skip the tick"
    ALLOW = "allow", "run both"
    BUFFER_ONE = "buffer_one", "run it afterwards (one waits, further ones are skipped)"
    CANCEL_RUNNING = "cancel_running", "revoke the run before it"


class CatchUp(models.TextChoices):
    """What becomes of the ticks of a time in which no worker looked."""

    LAST = "last", "run the last of them"
    SKIP = "skip", "skip them"
    ALL = "all", "run them all, at most the last 100"


def default_timezone() -> str:
    """Return the project's time zone."""
    return settings.TIME_ZONE


class RepeatingTask(models.Model):
    """A task function that runs again and again."""

    Overlap = Overlap
    CatchUp = CatchUp

    name = models.CharField(max_length=100, unique=True)
    task = models.CharField(max_length=200, help_text="The registered name of a task function.")
    args = ArgumentsField(default=tuple, blank=True)
    kwargs = EncodedField(default=dict, blank=True)
    # One of the two.
    crontab = models.CharField(
        max_length=200, blank=True, default="", help_text="Minute, hour, day, month, day of the week: 0 3 * * mon-fri"
    )
    every = IntervalField(
        null=True, blank=True, help_text="Or an interval, from one second on, counted from its start."
    )
    timezone = models.CharField(max_length=64, default=default_timezone)
    enabled = models.BooleanField(default=True, db_default=True)
    starts_at = models.DateTimeField(null=True, blank=True, help_text="The first tick that may be.")
    ends_at = models.DateTimeField(null=True, blank=True, help_text="The last tick that may be.")
    # None: as the task function says.
    queue = models.CharField(max_length=64, null=True, blank=True)
    priority = models.SmallIntegerField(null=True, blank=True)
    result_ttl = models.IntegerField(null=True, blank=True, help_text="Seconds that finished runs are kept.")
    overlap = models.CharField(max_length=20, choices=Overlap, default=Overlap.SKIP, db_default="skip")
    catch_up = models.CharField(max_length=10, choices=CatchUp, default=CatchUp.LAST, db_default="last")
    catch_up_window = IntervalField(null=True, blank=True, help_text="No tick older than this is caught up with.")
    jitter = IntervalField(null=True, blank=True, help_text="Runs start up to so much later, at random.")
    max_failures = models.PositiveIntegerField(null=True, blank=True, help_text="Pause after so many in a row.")

    last_run = models.DateTimeField(null=True, editable=False)
    next_run = models.DateTimeField(null=True, editable=False)
    # False: `next_run` is of an earlier timetable, and is to be worked out from now.
    planned = models.BooleanField(default=False, db_default=False, editable=False)
    # The tick that waits for the run before it.
    buffered = models.DateTimeField(null=True, editable=False)
    # How many ticks were skipped, by reason: "missed" (catch_up), "overlap", "unique", "refused".
    skipped = models.JSONField(default=dict, editable=False)
    # Why it was paused, or its last tick could not be fired.
    reason = models.TextField(null=True, editable=False)
    # "code": a `@repeat` owns it; "removed": one did.
    source = models.CharField(max_length=10, default="", db_default="", editable=False)
    # What `RepeatTask` operations have replaced, for their way back.
    replaced = EncodedField(default=list, editable=False)
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    enabled_at = models.DateTimeField(db_default=Now(), editable=False)

    objects = StoredManager["RepeatingTask"]()

    class Meta:
        base_manager_name = "objects"
        ordering = ["name"]
        permissions = [("run_repeatingtask", "Can run repeating task now")]
        constraints = [
            models.CheckConstraint(
                name="cq_repeatingtask_when",
                condition=Q(crontab="", every__isnull=False) | (~Q(crontab="") & Q(every__isnull=True)),
            )
        ]
        indexes = [models.Index(fields=["next_run"], name="cq_repeatingtask_due", condition=Q(enabled=True))]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._read: dict[str, Any] = self._fired_columns()

    def __str__(self) -> str:
        return self.name

    def save(self, *args: Any, update_fields: Iterable[str] | None = None, **kwargs: Any) -> None:
        """Check and store it; `ValidationError` names the fields.

        Takes effect at once: another timetable, or enabling it, plans the next tick from now on, and fires none of the past.
        """
        tidy(self)
        self.clean()
        with database.atomic():
            before = None if self._state.adding else locked(type(self), self.pk)
            written = plan(self, before)
            if before is None:
                super().save(*args, update_fields=update_fields, **kwargs)
            else:
                changed = {name for name, value in self._fired_columns().items() if self._read.get(name) != value}
                fields = set(update_fields) if update_fields is not None else SPECIFIED
                super().save(*args, update_fields={*fields, *changed, *written}, **kwargs)
        self._read = self._fired_columns()
        database.on_commit(lambda: notifier.wake([]))

    def _fired_columns(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in FIRED if name in self.__dict__}

    def refresh_from_db(self, *args: Any, **kwargs: Any) -> None:
        """Read the row again."""
        super().refresh_from_db(*args, **kwargs)
        self._read = self._fired_columns()

    @property
    def coalesce(self) -> bool:
        """False if runs may overlap."""
        return self.overlap != Overlap.ALLOW

    @coalesce.setter
    def coalesce(self, value: bool) -> None:
        self.overlap = Overlap.SKIP if value else Overlap.ALLOW

    @property
    def timetable(self) -> Timetable:
        """When it is due. One that is not stored yet counts from now."""
        return timetable_of(self, schedules.clock() if self._state.adding else self.created_at)

    @property
    def runs(self) -> QuerySet[Task]:
        """Its runs, by ticks and by hand, the last one first."""
        return Task.objects.filter(schedule_id=self.pk).order_by("-id")

    def clean(self) -> None:
        """Refuse what could never run; `ValidationError` names the fields."""
        super().clean()
        errors = {**wrong_timetable(self), **wrong_call(self, must_know=True)}
        if errors:
            raise ValidationError(errors)

    def upcoming(self, number: int = 5) -> list[Tick]:
        """Return the next ticks: datetimes in UTC, each with its `local` time and a `note` where clocks change."""
        now = schedules.clock()
        return self.timetable.upcoming(number, now)

    def run_now(self, created_by: models.Model | None = None) -> Task:
        """Make a task of it now, whatever else runs. It is no tick, and nothing else changes. In the caller's transaction."""
        new = schedules.task_for(
            self.task,
            self.args,
            self.kwargs,
            queue=self.queue,
            priority=self.priority,
            result_ttl=self.result_ttl,
            created_by=created_by,
        )
        if schedules.insert([Run(self.pk, new)]):
            database.on_commit(lambda: notifier.wake([new.queue]))
            return Task.objects.get(pk=new.id)
        found: Task = Task.objects.unfinished().get(name=new.name, unique_key=new.unique_key)
        found.__dict__["created"] = False
        return found

    async def arun_now(self, created_by: models.Model | None = None) -> Task:
        """Do what `run_now` does, in a coroutine."""
        return await sync_to_async(self.run_now)(created_by)

    def pause(self) -> None:
        """Fire nothing until it is resumed. What runs goes on."""
        self._switch(False, "It was paused.")

    async def apause(self) -> None:
        """Do what `pause` does, in a coroutine."""
        await sync_to_async(self.pause)()

    def resume(self) -> None:
        """Go on with the next tick; what was due in between is over."""
        self._switch(True, None)

    async def aresume(self) -> None:
        """Do what `resume` does, in a coroutine."""
        await sync_to_async(self.resume)()

    def _switch(self, enabled: bool, reason: str | None) -> None:
        with database.atomic():
            row = locked(type(self), self.pk)
            if row.enabled != enabled:
                row.enabled = enabled
                plan(row, None)
                columns = {name: getattr(row, name) for name in PLANNED}
                type(self).objects.filter(pk=self.pk).update(**columns, enabled=enabled, reason=reason)
        self.refresh_from_db()
        database.on_commit(lambda: notifier.wake([]))


# What makes a timetable; what is planned from it; what only firing writes.
TIMETABLE = ("crontab", "every", "timezone", "starts_at", "ends_at", "enabled")
PLANNED = ("next_run", "planned", "buffered", "enabled_at")
FIRED = ("last_run", "next_run", "planned", "buffered", "skipped", "reason", "enabled_at", "replaced", "source")
SPECIFIED = {
    *("name", "task", "args", "kwargs", "queue", "priority", "result_ttl", "overlap", "catch_up", "catch_up_window"),
    *("jitter", "max_failures", *TIMETABLE),
}


def locked(model: type[models.Model], pk: Any) -> Any:
    """Lock a row against firing, and read it."""
    return model._base_manager.using(database.alias()).select_for_update(no_key=True).get(pk=pk)


def tidy(row: Any) -> None:
    """Bring what was given into the types of the columns; `ValidationError` names the fields. Works with historical models too."""
    row.args = as_args(row.args)
    row.crontab = " ".join(str(row.crontab or "").split(" ")).strip()
    if isinstance(row.result_ttl, timedelta):
        row.result_ttl = int(row.result_ttl.total_seconds())
    row.queue = row.queue or None
    row.clean_fields(exclude={"args", "kwargs", *FIRED})


def wrong_timetable(row: Any) -> dict[str, str]:
    """Say by field what is wrong about when a repeating task is due."""
    errors = {}
    if bool(row.crontab) == (row.every is not None):
        errors["crontab"] = "Give either a crontab or an interval (every)."
    elif row.crontab:
        errors |= _wrong("crontab", check, row.crontab)
    elif not SHORTEST <= row.every <= LONGEST:
        errors["every"] = f"{row.every}: expected an interval from one second to a hundred years."
    errors |= _wrong("timezone", zone_of, row.timezone)
    errors |= _naive(row)
    if not errors and row.starts_at and row.ends_at and row.ends_at < row.starts_at:
        errors["ends_at"] = "It would end before it starts."
    for name in ("jitter", "catch_up_window"):
        if (value := getattr(row, name)) is not None and not timedelta(0) <= value <= LONGEST:
            errors[name] = f"{value}: expected an interval from zero to a hundred years."
    if row.max_failures == 0:
        errors["max_failures"] = "Expected 1 or more, or nothing for any number."
    return errors


def _naive(row: Any) -> dict[str, str]:
    found = [name for name in ("starts_at", "ends_at") if (at := getattr(row, name)) and at.utcoffset() is None]
    return dict.fromkeys(found, "Expected a moment with a time zone (django.utils.timezone).")


def _wrong(name: str, check: Callable[[Any], object], value: Any) -> dict[str, str]:
    try:
        check(value)
    except (BadCrontab, BadZone, InvalidOption) as error:
        return {name: str(error)}
    return {}


def wrong_call(row: Any, *, must_know: bool) -> dict[str, str]:
    """Say by field what is wrong about the call; whether it fits is known only where the task function is."""
    errors: dict[str, str] = {}
    for name in ("queue", "priority", "result_ttl"):
        if (value := getattr(row, name)) is not None:
            errors |= _wrong(name, check_call_options, {name: value})
    if not isinstance(row.kwargs, Mapping):
        return {**errors, "kwargs": "Expected keyword arguments: a dict."}
    definition = registry.find(row.task)
    try:
        encode(row.args, row.kwargs)
        if definition is not None:
            definition.bind(row.args, row.kwargs)
    except (NotSerializable, TooLarge, TypeError) as error:
        errors["args"] = str(error)
    if definition is None and must_know:
        errors["task"] = (
            f"{row.task!r} is not a registered task. Is its module imported? Installed apps are searched for tasks.py."
        )
    return errors


def timetable_of(row: Any, created_at: datetime) -> Timetable:
    """Return when a row is due."""
    anchor = row.starts_at or created_at
    return Timetable(row.crontab, row.every, row.timezone, anchor, row.starts_at, row.ends_at)


def plan(row: Any, before: Any) -> tuple[str, ...]:
    """Plan the next tick of a row from now on, unless it keeps its timetable; return the columns that this writes."""
    if before is not None and all(getattr(row, name) == getattr(before, name) for name in TIMETABLE):
        return ()
    now = schedules.clock()
    if not isinstance(row.created_at, datetime):
        row.created_at = now
    was_given = before is None and row._state.adding and row.next_run is not None
    if not was_given:
        row.next_run = timetable_of(row, row.created_at).first(now) if row.enabled else None
    row.planned = row.enabled
    row.buffered = None
    if before is None or not before.enabled:
        row.enabled_at = now
    return PLANNED


def schedule_task(
    model: Any,
    crontab: str | None,
    task: Any,
    args: Any = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    name: str | None = None,
    using: str | None = None,
    **options: Any,
) -> Any:
    """Store a repeating task, or change the one of this name; return it. For data migrations, and for code.

    `model` may be the historical one. The name defaults to the task's. With `crontab` None, give `every`. The other options are the
    fields of `RepeatingTask`. The task function need not be known here. `ValidationError` names the fields.
    """
    called = getattr(task, "name", task)
    given = {"crontab": crontab or "", "task": called, "args": args, "kwargs": dict(kwargs or {}), **options}
    return upsert(model, name or called, given, using=using or database.alias())


def upsert(model: Any, name: str, values: Mapping[str, Any], *, using: str, keep: bool = False) -> Any:
    """Store a repeating task under a name, with exactly these values; with `keep`, what it replaces is kept with it."""
    given = {"crontab": "", **values}
    if (coalesce := given.pop("coalesce", None)) is not None:
        given.setdefault("overlap", Overlap.SKIP.value if coalesce else Overlap.ALLOW.value)
    unknown = given.keys() - SPECIFIED - {"source"}
    if unknown:
        raise InvalidOption(
            f"{sorted(unknown)[0]}= is not a field of a repeating task; there are {', '.join(sorted(SPECIFIED))}."
        )
    row = model(name=name, **given)
    tidy(row)
    errors = {**wrong_timetable(row), **wrong_call(row, must_know=False)}
    if errors:
        raise ValidationError(errors)
    with transaction.atomic(using=using):
        rows = model._base_manager.using(using)
        before = rows.select_for_update(no_key=True).filter(name=name).first()
        if before is None:
            plan(row, None)
            rows.bulk_create([row])  # not save(), which historical models have not, and which wants to know the task
            return row
        row.pk, row.created_at, row.next_run = before.pk, before.created_at, before.next_run
        row._state.adding = False
        columns = SPECIFIED | {"source", *plan(row, before)}
        written = {column: getattr(row, column) for column in columns}
        if keep:
            kept = {column: getattr(before, column) for column in sorted(SPECIFIED - {"name"} | {"source"})}
            written["replaced"] = [*before.replaced, kept]
        rows.filter(pk=before.pk).update(**written)
        return rows.get(pk=before.pk)
