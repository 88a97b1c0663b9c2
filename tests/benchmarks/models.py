"""The row that the "row" body writes."""

from django.db import models


class Row(models.Model):
    """What an ordinary task would leave behind: a number, a text, a time."""

    number = models.BigIntegerField()
    text = models.CharField(max_length=100)
    made_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"{self.number}"
