"""Rows are read where they are written: from `CQ["DATABASE"]`, whatever the project's router says of reads."""

from typing import TypeVar

from django.db import models
from django.db.models import QuerySet

from cq import database

_Row = TypeVar("_Row", bound=models.Model, covariant=True)


class StoredManager(models.Manager[_Row]):
    """The rows in CQ's own database: a replica may lag behind what a task has just done."""

    def get_queryset(self) -> QuerySet[_Row]:
        return super().get_queryset().using(database.alias())
