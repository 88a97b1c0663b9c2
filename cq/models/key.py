"""Keys: what `limit`, `rate` and fairness are counted by. Rows are counted, never counters kept."""

from django.db import models
from django.db.models.functions import Now

from cq.models.manager import StoredManager


class Key(models.Model):
    """One key that has tasks: whoever decides which of them are admitted has this row locked."""

    name = models.CharField(max_length=200, primary_key=True)
    # When its rate lets the next one start; None: no sooner than something of it ends.
    look_at = models.DateTimeField(null=True)

    objects = StoredManager["Key"]()

    class Meta:
        indexes = [
            models.Index(fields=["look_at"], name="cq_key_look_at", condition=models.Q(look_at__isnull=False)),
        ]

    def __str__(self) -> str:
        return self.name


class KeyRequest(models.Model):
    """Asks for one key to be looked at: one of its tasks became QUEUED, or gave a place back. Commits together with that.

    Left by a trigger on the task's status, so that no way from one status to another can forget it.
    """

    key = models.CharField(max_length=200)
    created_at = models.DateTimeField(db_default=Now())

    objects = StoredManager["KeyRequest"]()

    class Meta:
        indexes = [models.Index(fields=["key"], name="cq_keyrequest_key")]

    def __str__(self) -> str:
        return f"settle {self.key}"


class Lingering(models.Model):
    """A body that may still run in a process although its task has moved on: it was revoked, or its time was over.

    It keeps its place under a limit, and its task is not admitted again before it is gone. Whoever finds it gone deletes the row.
    """

    task_id = models.UUIDField()
    process_id = models.UUIDField()
    key = models.CharField(max_length=200, null=True)  # None: it has none
    # It is to be interrupted, and killed with its process if that does not help.
    terminate = models.BooleanField(default=False, db_default=False)
    since = models.DateTimeField(db_default=Now())

    objects = StoredManager["Lingering"]()

    class Meta:
        indexes = [
            models.Index(fields=["task_id"], name="cq_lingering_task"),
            models.Index(fields=["process_id"], name="cq_lingering_process"),
            models.Index(fields=["key"], name="cq_lingering_key", condition=models.Q(key__isnull=False)),
        ]

    def __str__(self) -> str:
        return f"{self.task_id} in {self.process_id}"
