"""What the sample tasks leave behind, to count how often their effects came about."""

from django.db import models


class Effect(models.Model):
    """One effect of one attempt at one task."""

    task_id = models.UUIDField()
    attempt = models.IntegerField()
    name = models.CharField(max_length=100, default="")

    class Meta:
        indexes = [models.Index(fields=["task_id"], name="tests_effect_task")]

    def __str__(self) -> str:
        return f"{self.name} {self.task_id} #{self.attempt}"
