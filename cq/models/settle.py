"""Settle requests: durable notes that something may have to follow from what happened to a task."""

from django.db import models
from django.db.models.functions import Now

from cq.models.manager import StoredManager


class SettleRequest(models.Model):
    """Asks for one task to be looked at; commits together with what makes the look necessary.

    No foreign key and no unique constraint, so that leaving one never waits for anybody.
    """

    task_id = models.UUIDField()
    created_at = models.DateTimeField(db_default=Now())

    objects = StoredManager["SettleRequest"]()

    class Meta:
        indexes = [models.Index(fields=["task_id"], name="cq_settle_task")]

    def __str__(self) -> str:
        return f"settle {self.task_id}"
