"""Counts of bodies that ended, by minute: what charts are made of, without a look at finished tasks."""

from django.db import models

from cq.models.manager import StoredManager


class Statistic(models.Model):
    """How many bodies of a kind ended in one process in one minute; readers add the processes up.

    `outcome` is how the attempt ended. `bucket` n holds those that ran for less than 2ⁿ ms, and not for less than 2ⁿ⁻¹ ms.
    Written by the process itself, every few seconds: what it had not yet written when it was killed is missing.
    """

    minute = models.DateTimeField()
    process_id = models.UUIDField()
    queue = models.CharField(max_length=64)
    name = models.CharField(max_length=200)
    outcome = models.CharField(max_length=12)
    bucket = models.SmallIntegerField()
    count = models.IntegerField()
    run_seconds = models.FloatField()
    wait_seconds = models.FloatField()  # from when they were due until they were claimed

    objects = StoredManager["Statistic"]()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["minute", "process_id", "queue", "name", "outcome", "bucket"], name="cq_statistic_once"
            )
        ]

    def __str__(self) -> str:
        return f"{self.minute:%Y-%m-%d %H:%M} {self.name} {self.outcome} {self.count}"
