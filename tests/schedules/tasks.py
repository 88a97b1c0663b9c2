"""Task functions with what a user may write beside them: keys of any kind, and a signature that changes."""

from django.contrib.auth.models import Group
from django.db import connection

from cq import task


def breaks_the_transaction(n):
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1/0")


def writes_and_fails(n):
    Group.objects.create(name="by a key")
    raise ValueError("no key for that")


@task("schedules.unique", unique="args")
def unique(cqt, n):
    return n


@task("schedules.breaks", key=breaks_the_transaction, limit=1)
def breaks(cqt, n):
    return n


@task("schedules.writes", unique=writes_and_fails)
def writes(cqt, n):
    return n


@task("schedules.keyed", key=lambda n: f"n{n}", limit=1)
def keyed(cqt, n):
    return n


@task("schedules.tells")
def tells(cqt):
    return [cqt.scheduled_for.isoformat(), cqt.attempt]
