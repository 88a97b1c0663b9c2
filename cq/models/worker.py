"""Living workers: a row for each boot of a supervisor, with its lease, and one for each boot of a child process."""

import uuid

from django.db import models
from django.db.models.functions import Now

from cq.models.manager import StoredManager


class Worker(models.Model):
    """One boot of a supervisor. Its keeper renews the lease; after `lease_until` anybody may take over its tasks."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    host = models.CharField(max_length=255)
    pid = models.IntegerField()
    version = models.CharField(max_length=32)
    # None: all queues.
    queues = models.JSONField(null=True)  # an empty list would mean no queue
    names = models.JSONField(default=list)
    # Functions, and coroutines, that it runs at once.
    slots = models.IntegerField(default=0, db_default=0)
    coroutines = models.IntegerField(default=0, db_default=0)
    started_at = models.DateTimeField(db_default=Now())
    lease_until = models.DateTimeField(db_index=True)

    objects = StoredManager["Worker"]()

    def __str__(self) -> str:
        return f"{self.host}/{self.pid}"


class Process(models.Model):
    """One boot of a child process: what a running task points at.

    `ended_at` says that it is dead: it can claim nothing from then on. `started` are the tasks whose bodies had started in it
    when it died; None means that nobody could look, and all that it held count. They are charged with its death, unless its
    own supervisor stopped it. `overdue` are those whose time was over when it was killed for them.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    worker = models.ForeignKey(Worker, models.DO_NOTHING, related_name="processes", db_constraint=False)
    pid = models.IntegerField()
    started_at = models.DateTimeField(db_default=Now())
    ended_at = models.DateTimeField(null=True)
    started = models.JSONField(null=True)
    overdue = models.JSONField(null=True)
    was_stopped = models.BooleanField(default=False, db_default=False)

    objects = StoredManager["Process"]()

    class Meta:
        verbose_name_plural = "processes"

    def __str__(self) -> str:
        return f"{self.worker_id}/{self.pid}"
