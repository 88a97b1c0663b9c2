"""Task functions that only these tests need."""

from cq import task
from tests import tasks


@task
def logs_in(cqt, user, password):
    return {"user": user, "Token": password}


@task
def branches(cqt, depth):
    if depth:
        cqt.subtask(branches, (depth - 1,))


@task
def fails_now_and_then(cqt, n, every):
    cqt.subtask_many(tasks.adds, [(i,) for i in range(n - n // every)])
    cqt.subtask_many(tasks.raises, [()] * (n // every))


@task(retries=3, backoff=3600)
def tries_later(cqt):
    raise ValueError("not yet")
