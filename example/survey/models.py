"""What a survey has found. The tasks write these rows; a task's rows are there if and only if it has succeeded."""

from dataclasses import fields
from typing import Any

from django.db import models

from example.survey.counts import Counts


class Counted(models.Model):
    """The columns of `Counts`."""

    modules = models.IntegerField(default=0)
    unparsed = models.IntegerField(default=0)
    lines = models.IntegerField(default=0)
    functions = models.IntegerField(default=0)
    classes = models.IntegerField(default=0)
    branches = models.IntegerField(default=0)
    longest = models.IntegerField(default=0)
    longest_name = models.TextField(default="")

    class Meta:
        abstract = True

    @property
    def counts(self) -> Counts:
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(Counts)}
        return Counts(**values)


class Survey(models.Model):
    """One survey of a code base, and of the package that was planted beside it."""

    path = models.TextField()
    with_tests = models.BooleanField()
    planted = models.TextField()
    report = models.TextField(default="")

    def __str__(self) -> str:
        return self.path


class Package(Counted):
    """A folder with modules in it; its counts are the sums over them."""

    survey = models.ForeignKey(Survey, models.CASCADE, related_name="packages")
    name = models.TextField()

    def __str__(self) -> str:
        return self.name

    @property
    def title(self) -> str:
        return "(top level)" if self.name == "." else self.name


class Module(Counted):
    """A module that was counted."""

    package = models.ForeignKey(Package, models.CASCADE, related_name="contents")
    path = models.TextField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["package", "path"], name="survey_module_once")]

    def __str__(self) -> str:
        return self.path
