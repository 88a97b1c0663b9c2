"""Queues that somebody has paused or resumed at run time; all others are as `CQ["QUEUES"]` says."""

from django.db import models
from django.db.models.functions import Now

from cq.models.manager import StoredManager


class Queue(models.Model):
    """What was said of a queue last: from a paused one nothing is claimed. What runs already goes on."""

    name = models.CharField(max_length=64, primary_key=True)
    paused = models.BooleanField(default=False, db_default=False)
    changed_at = models.DateTimeField(db_default=Now())

    objects = StoredManager["Queue"]()

    def __str__(self) -> str:
        return f"{self.name} ({'paused' if self.paused else 'served'})"
