"""Steps: what a task's body has behind it, run after run. Steps whose result is kept, sleeps, and waits for events."""

from django.db import models

from cq.fields import EncodedField
from cq.models.manager import StoredManager
from cq.models.task import Task
from cq.suspension import EVENT, SLEEP, STEP


class Step(models.Model):
    """One thing that a body has done, or is suspended for, and that no later run of it does again.

    A step is there once it has returned. A sleep and a wait are there from when they were first reached: a sleep is over at `until`,
    a wait when it has `ended_at`, and it fails if no event has come `until` then (None: it waits for as long as it takes).
    """

    class Kind(models.TextChoices):
        """What it is."""

        STEP = STEP
        SLEEP = SLEEP
        EVENT = EVENT

    task = models.ForeignKey(Task, models.DO_NOTHING, related_name="steps", db_index=False)
    kind = models.CharField(max_length=5, choices=Kind)
    name = models.CharField(max_length=200)
    attempt = models.IntegerField()
    started_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)
    until = models.DateTimeField(null=True)
    result = EncodedField(null=True)  # what a step returned; what a wait got is the event's payload
    permission = models.CharField(max_length=200, null=True)  # None: whoever can reach the task may send the event

    objects = StoredManager["Step"]()

    class Meta:
        ordering = ["task", "id"]
        constraints = [models.UniqueConstraint(fields=["task", "kind", "name"], name="cq_step_once")]

    def __str__(self) -> str:
        return f"{self.kind} {self.name} of {self.task_id}"
