"""Attempts: each start of a task's body, and how it ended.

The last attempt lives on the task's row; it becomes a `PastAttempt` when another will follow. `Attempt` is a view over both.
"""

from django.db import models

from cq.models.manager import StoredManager
from cq.models.task import Task


class Outcome(models.TextChoices):
    """How a body ended."""

    SUCCESS = "success"
    ERROR = "error"
    TIMEOUT = "timeout"
    CRASHED = "crashed"
    INTERRUPTED = "interrupted"
    REVOKED = "revoked"


class PastAttempt(models.Model):
    """An attempt that was followed, or will be, by another."""

    task = models.ForeignKey(Task, models.DO_NOTHING, related_name="+")
    number = models.IntegerField()
    started_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)
    worker = models.CharField(max_length=300, default="")
    outcome = models.CharField(max_length=12, choices=Outcome)
    error = models.TextField(null=True)  # None: there was none
    exception = models.CharField(max_length=200, null=True)
    traceback = models.TextField(null=True)

    objects = StoredManager["PastAttempt"]()

    class Meta:
        ordering = ["task", "number"]
        constraints = [models.UniqueConstraint(fields=["task", "number"], name="cq_pastattempt_once")]

    def __str__(self) -> str:
        return f"{self.task_id} #{self.number}"


class Attempt(models.Model):
    """One start of a task's body, past or last. Read-only."""

    id = models.CharField(primary_key=True, max_length=50)
    task = models.ForeignKey(Task, models.DO_NOTHING, related_name="attempts", db_constraint=False)
    number = models.IntegerField()
    started_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)
    worker = models.CharField(max_length=300)
    outcome = models.CharField(max_length=12, choices=Outcome, null=True)  # None: it is running
    error = models.TextField(null=True)
    exception = models.CharField(max_length=200, null=True)
    traceback = models.TextField(null=True)

    objects = StoredManager["Attempt"]()

    class Meta:
        managed = False
        db_table = "cq_attempt"
        ordering = ["task", "number"]

    def __str__(self) -> str:
        return f"{self.task_id} #{self.number}"
