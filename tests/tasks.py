"""Sample task functions, named by what they do."""

import time
from typing import Any

from django.contrib.auth.models import Group

from cq import task


@task
def adds(cqt, a, b=0):
    return a + b


@task
def sums(cqt, a, b):
    return a + b


@task
def echoes(cqt, *args, **kwargs):
    return [list(args), kwargs]


@task
def returns_none(cqt):
    return None


@task(takes_task=False)
def doubles(n):
    return 2 * n


@task
def raises(cqt, message="broken"):
    raise ValueError(message)


@task(retries=2, backoff=0)
def succeeds_at(cqt, attempt):
    if cqt.attempt < attempt:
        raise ValueError(f"attempt {cqt.attempt}")
    return cqt.attempt


@task
def spawns(cqt, n):
    for i in range(n):
        cqt.subtask(adds, (i, 1))
    return n


@task
def spawns_failing(cqt, n):
    cqt.subtask_many(adds, [(i,) for i in range(n)])
    cqt.subtask(raises)
    return n


@task
def hands_on(cqt, a):
    return cqt.subtask(adds, (a, 1)).chain(sums, (10,))


@task
def returns_delayed_chain(cqt, a):
    return adds.delay(a).chain(sums, (4,))


@task
def writes_group(cqt, name):
    Group.objects.create(name=name)
    return name


@task
def writes_and_raises(cqt, name):
    Group.objects.create(name=name)
    raise ValueError(name)


@task
async def awaits(cqt, n):
    return n + 1


@task
async def async_spawns(cqt, n):
    for i in range(n):
        cqt.subtask(adds, (i,))


@task
def sleeps(cqt, seconds):
    time.sleep(seconds)
    return seconds


@task
def collects(cqt, results: Any, *more):
    return [results, *more]
