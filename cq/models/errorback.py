"""Errorbacks: calls that are kept until a task fails, and made into tasks by the transaction in which it does."""

from django.db import models

from cq.models.manager import StoredManager


class Errorback(models.Model):
    """What is to be called when a task ends in FAILURE, INCOMPLETE, LOST or EXPIRED; once, whatever is retried later.

    `spec` is the task to be. The database's trigger on the status makes it, so that no way to fail can forget it; what is kept
    too late for that, settling the task makes. No foreign key: the task may be inserted by the same statement.
    """

    task_id = models.UUIDField()
    spec = models.JSONField()
    called = models.BooleanField(default=False, db_default=False)

    objects = StoredManager["Errorback"]()

    class Meta:
        indexes = [models.Index(fields=["task_id"], name="cq_errorback_task")]

    def __str__(self) -> str:
        return f"errorback of {self.task_id}"
