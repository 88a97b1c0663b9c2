"""What the sample tasks leave behind, to count how often their effects came about."""

from django.db import models

from cq.models import Task


class Effect(models.Model):
    """One effect of one attempt at one task."""

    task_id = models.UUIDField()
    attempt = models.IntegerField()
    name = models.CharField(max_length=100, default="")

    class Meta:
        indexes = [models.Index(fields=["task_id"], name="tests_effect_task")]

    def __str__(self) -> str:
        return f"{self.name} {self.task_id} #{self.attempt}"


class Refers(models.Model):
    """A row of a project that refers to tasks, in every way in which Django lets it."""

    cascades = models.ForeignKey(Task, models.CASCADE, null=True, related_name="+")
    is_set_null = models.ForeignKey(Task, models.SET_NULL, null=True, related_name="+")
    protects = models.ForeignKey(Task, models.PROTECT, null=True, related_name="+")
    does_nothing = models.ForeignKey(Task, models.DO_NOTHING, null=True, related_name="+")

    def __str__(self) -> str:
        return f"{self.pk}"


class Keyed(models.Model):
    """A row whose key may be longer than a reference can be."""

    key = models.CharField(primary_key=True, max_length=500)

    def __str__(self) -> str:
        return self.key
