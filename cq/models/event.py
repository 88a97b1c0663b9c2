"""Events: what was sent to tasks that wait for it, or will: by whom, when, and whether it counts."""

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from cq.fields import EncodedField, InstanceField
from cq.models.manager import StoredManager
from cq.models.task import Task


class Event(models.Model):
    """One event of one task. Of each name, one counts: the first that was accepted, or that none came in time."""

    class Outcome(models.TextChoices):
        """What became of it."""

        ACCEPTED = "accepted"
        # Its sender lacked the permission that the wait asks for; `reason` says so. The wait goes on.
        REFUSED = "refused"
        # Sent by nobody: the time of the wait was over.
        TIMEOUT = "timeout"

    task = models.ForeignKey(Task, models.DO_NOTHING, related_name="events")
    name = models.CharField(max_length=200)
    payload = EncodedField(null=True)
    by = InstanceField(max_length=200, null=True)
    comment = models.TextField(default="", db_default="")
    # What the sender was found to be allowed; None: nothing was asked for when it came.
    permission = models.CharField(max_length=200, null=True)
    outcome = models.CharField(max_length=8, choices=Outcome)
    reason = models.TextField(null=True)
    created_at = models.DateTimeField(db_default=Now())

    objects = StoredManager["Event"]()

    class Meta:
        ordering = ["task", "id"]
        constraints = [
            models.UniqueConstraint(fields=["task", "name"], name="cq_event_once", condition=~Q(outcome="refused"))
        ]

    def __str__(self) -> str:
        return f"{self.name} for {self.task_id}, {self.outcome}"
