"""Task functions that go on where an earlier run has left off, and what they were seen to do."""

from collections import Counter
from datetime import timedelta
from typing import Any

from asgiref.sync import sync_to_async
from django.contrib.auth.models import Group
from django.db.models import F
from django.db.models.functions import Now

from cq import task
from cq.models import Step, Task

# How often something was called, by name; emptied before each test.
CALLS: Counter[str] = Counter()


def call(name: str, result: Any = None) -> Any:
    """Note a call."""
    CALLS[name] += 1
    return result


def write(name: str) -> str:
    """Note a call, and leave a row."""
    CALLS[name] += 1
    return str(Group.objects.create(name=name).name)


async def acall(name: str, result: Any = None) -> Any:
    """Note a call of a coroutine."""
    CALLS[name] += 1
    return result


def let_time_pass(*tasks: Task) -> None:
    """Make all that was to come come now: what is suspended was so for a year."""
    year = timedelta(days=400)
    ids = [task.pk for task in tasks]
    Task.objects.filter(pk__in=ids, status__in=["SUSPENDED", "RETRY"]).update(run_after=F("run_after") - year)
    Step.objects.filter(task__in=ids, ended_at=None).update(until=F("until") - year, started_at=Now() - year)


@task(atomic=False, retries=3, backoff=0)
def steps_and_fails(cqt: Any, failures: int, *results: Any) -> Any:
    found = [cqt.step(f"{number}", call, f"{number}", result) for number, result in enumerate(results)]
    if cqt.attempt <= failures:
        raise ValueError("not yet")
    return found


@task(retries=3, backoff=0)
async def steps_in_coroutine(cqt: Any, failures: int) -> Any:
    found = [await cqt.astep("function", write, "function"), await cqt.astep("coroutine", acall, "coroutine", (1, 2))]
    if cqt.attempt <= failures:
        raise ValueError("not yet")
    return found


@task(retries=3, backoff=0)
def steps_atomically(cqt: Any, failures: int) -> Any:
    name = cqt.step("write", write, "atomic")
    if cqt.attempt <= failures:
        raise ValueError("not yet")
    return name


@task(atomic=False, retries=3, backoff=0)
def step_fails(cqt: Any) -> str:
    def fails_at_first() -> str:
        Group.objects.create(name=f"{call('fails')}{CALLS['fails']}")
        if CALLS["fails"] < 2:
            raise ValueError("in the step")
        return "at last"

    return str(cqt.step("fails", fails_at_first))


@task(atomic=False)
def naps(cqt: Any, seconds: float = 3600) -> Any:
    call("naps")
    cqt.subtask(naps.name, (0,)) if seconds else None
    first = cqt.step("before", call, "before", cqt.attempt)
    if seconds:
        cqt.sleep(seconds)
    return [first, cqt.attempt]


@task
async def naps_in_coroutine(cqt: Any) -> Any:
    call("naps")
    await cqt.astep("before", write, "before")
    await cqt.asleep(timedelta(hours=1))
    await cqt.asleep(3600, name="again")
    return await cqt.astep("after", acall, "after", cqt.attempt)


@task(atomic=False)
def waits(cqt: Any, name: str = "go", timeout: float | None = None, permission: str | None = None) -> Any:
    call("waits")
    return cqt.wait_event(name, timeout, permission)


@task
async def waits_in_coroutine(cqt: Any, name: str = "go", timeout: float | None = None) -> Any:
    call("waits")
    return await cqt.await_event(name, timeout=timeout)


@task(atomic=False)
def uses(cqt: Any, *verbs: str) -> Any:
    """Use verbs one after the other, each as it is written here."""
    for verb in verbs:
        _VERBS[verb](cqt)
    return "done"


@task
def uses_atomically(cqt: Any, verb: str) -> Any:
    _VERBS[verb](cqt)


@task
async def uses_in_coroutine(cqt: Any, verb: str, elsewhere: bool = False) -> Any:
    if elsewhere:
        await sync_to_async(_VERBS[verb])(cqt)
    else:
        _VERBS[verb](cqt)


def swallow(cqt: Any) -> None:
    try:
        cqt.sleep(3600)
    except BaseException:
        CALLS["swallowed"] += 1


_VERBS = {
    "step": lambda cqt: cqt.step("one", call, "one"),
    "step of a coroutine": lambda cqt: cqt.step("one", acall, "one"),
    "sleep": lambda cqt: cqt.sleep(3600),
    "named sleep": lambda cqt: cqt.sleep(0, "nap"),
    "short sleep": lambda cqt: cqt.sleep(0),
    "wait_event": lambda cqt: cqt.wait_event("go"),
    "swallow": swallow,
    "subtask": lambda cqt: cqt.subtask(naps, (0,)),
    "subtask in a step": lambda cqt: cqt.step("outer", cqt.subtask, naps, (0,)),
    "step in a step": lambda cqt: cqt.step("outer", cqt.step, "inner", call, "inner"),
    "sleep in a step": lambda cqt: cqt.step("outer", cqt.sleep, 0),
    "wait_event in a step": lambda cqt: cqt.step("outer", cqt.wait_event, "go"),
    "task in a step": lambda cqt: cqt.step("outer", uses, "step"),
}
