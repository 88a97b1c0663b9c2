"""The engine's statements are planned over indexes, and a lone task costs few of them."""

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import connection, transaction
from django.utils import timezone

from cq import registry, sql
from cq.models import Task
from cq.states import Status
from tests.rows.make import process, row

pytestmark = pytest.mark.django_db

FILL = """
INSERT INTO cq_task (id, name, queue, status, args, kwargs, process_id, parent_id, previous_id, workflow_id, finished_at, run_after)
SELECT gen_random_uuid(), 'tests.tasks.adds', 'q' || n %% 5, status, '[]', '{}', CASE WHEN status = 'RUNNING' THEN %s::uuid END,
       CASE WHEN n %% 10 = 0 THEN %s::uuid END, CASE WHEN n %% 10 = 1 THEN %s::uuid END,
       CASE WHEN n %% 100 = 0 THEN %s::uuid WHEN n %% 10 = 0 THEN gen_random_uuid() END,
       CASE WHEN status IN ('SUCCESS', 'FAILURE') THEN now() END, now() + n * interval '1 s'
  FROM (SELECT n, CASE WHEN n %% 20 = 0 THEN 'QUEUED' WHEN n %% 50 = 1 THEN 'PENDING' WHEN n %% 50 = 2 THEN 'SCHEDULED'
                       WHEN n %% 500 = 3 THEN 'RUNNING' WHEN n %% 500 = 4 THEN 'RETRY' WHEN n %% 500 = 5 THEN 'WAITING'
                       WHEN n %% 50 = 6 THEN 'FAILURE' ELSE 'SUCCESS' END AS status
          FROM generate_series(1, 20000) AS n) AS s
"""

STEPS = """
INSERT INTO cq_step (task_id, kind, name, attempt, started_at)
SELECT id, 'event', 'go', 1, now() FROM cq_task WHERE status = 'SUCCESS'
"""
EVENTS = (
    "INSERT INTO cq_event (task_id, name, outcome) SELECT id, 'go', 'accepted' FROM cq_task WHERE status = 'SUCCESS'"
)


@pytest.fixture(scope="module")
def full(django_db_setup: None, django_db_blocker: Any) -> Iterator[dict[str, UUID]]:
    """Fill the table with 20,000 tasks, most of them long over, for all tests of this module; give some ids."""
    with django_db_blocker.unblock(), suppress(InterruptedError), transaction.atomic():
        found = {"process": process(), "parent": row(Status.WAITING).id, "before": row(Status.SUCCESS).id}
        with connection.cursor() as cursor:
            cursor.execute(FILL, [*found.values(), row().id])
            cursor.execute(
                "INSERT INTO cq_settlerequest (task_id) SELECT gen_random_uuid() FROM generate_series(1, 20000)"
            )
            cursor.execute(STEPS)
            cursor.execute(EVENTS)
            cursor.execute("ANALYZE cq_task, cq_settlerequest, cq_step, cq_event")
            # What they refer to is checked now, not at the end of each test.
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
            cursor.execute("SET CONSTRAINTS ALL DEFERRED")
        yield found
        raise InterruptedError


def plan(statement: str, *parameters: Any) -> str:
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN {statement}", parameters)
        return "\n".join(line for (line,) in cursor.fetchall())


def watched(name: str) -> set[str]:
    """Name the tables that a statement may not scan; whether there is any request at all, the first page tells."""
    return {"cq_task"} if name in {"PEEK", "LOOK", "BUSY"} else {"cq_task", "cq_settlerequest", "cq_step", "cq_event"}


def scanned(text: str) -> set[str]:
    return set(re.findall(r"Seq Scan on (\w+)", text))


def statements(ids: dict[str, UUID]) -> dict[str, tuple[Any, ...]]:
    names = registry.names()
    some = [uuid4() for _ in range(100)]
    new = "[" + ",".join(f'{{"id": "{uuid4()}", "previous_id": "{ids["before"]}"}}' for _ in range(10)) + "]"
    columns = [some, [1] * 100, ["SUCCESS"] * 100, [None] * 100, [""] * 100, [None] * 100, [None] * 100]
    return {
        "CLAIM": (ids["process"], "q1", False, "q1", names, 10),
        "CLAIM_SUSPECTS": (ids["process"], "q1", False, "q1", names, 10),
        "READY_QUEUES": ([],),
        "PEEK": (),
        "LOOK": ((None, None, ["q2"], names) * 2) + (names, names, ids["process"]),
        "BUSY": (None, None, None, None, ["q2"], None, None, ["q2"], names),
        "ASK": (some, some, some),
        "ASKED": (UUID(int=0), 200),
        "SETTLE_LOCK": (some,),
        "SETTLE_TAKE": (some, some),
        "SETTLE_END": ([ids["parent"]],),
        "SETTLE_REVOKE": (some,),
        "SETTLE_RELEASE": (some, some),
        "SETTLE_AGAIN": (some,),
        "PROMOTE": (),
        "REVOKE": (some, False, "", False),
        "UNFINISHED_AFTER": (some,),
        "SUBMIT": ("[]", "unique", False, "key", uuid4()),
        "HOLDERS": (["tests.tasks.adds"] * 10, ["unique"] * 10),
        "HELD_AGAINST": (some,),
        "REPLACE": (True, True, new),
        "ENQUEUE_UNIQUE": (new,),
        "ENQUEUE_NEXT_UNIQUE": (new,),
        "EXPIRE": (),
        "KEYS": ("", 200, "", 200, 200),
        "KEYS_ASKED": (["key-1"],),
        "KEY_MAKE": (["key-1"],),
        "KEY_LOCK": (["key-1"],),
        "KEY_TAKE": (["key-1", "key-2"],),
        "ADMIT": (["key-1", "key-2"],),
        "ENTER_WORKER": (uuid4(), "host", 1, "", "null", "[]", 4, 4, 30),
        "FINISH": (*columns, None, None, None, None, f"[{','.join(['1'] * 100)}]"),
        "FINISH_LONE": ("1", some[0], 1),
        "FINISH_LONES": (some, [1] * 100, f"[{','.join(['null'] * 100)}]"),
        "FOLLOW": (some, some),
        "ASK_NEXT": (some, some),
        "FOLLOW_LONE": (some[0], some[0], some[0]),
        "ASK_NEXT_LONE": (some[0], some[0]),
        "SUSPEND": (some, [1] * 100, ["event"] * 100, ["go"] * 100, [None] * 100, [None] * 100),
        "SETTLE_RESUME": (some,),
        "STEPS": (some[0],),
        "KEEP_STEP": (some[0], 1, "step", 0.1, "1"),
        "EVENT": (some[0], "go"),
        "EVENT_PASS": (some[0], 1, "go", None),
        "EVENT_REFUSE": (some[0], 1, "", "", 1),
        "EVENT_TIME_OUT": (some[0], "go"),
        "EVENT_PERMISSION": (some[0], "go"),
        "EVENT_SEND": (some[0], "go", "1", None, "", None, "accepted", None),
        "STATE": (some[0],),
        "STILL_MINE": (some, [1] * 100),
        "ENQUEUE_NEXT": (new,),
        "ENQUEUE_MADE": (new,),
        "ENQUEUE_COMPOSED": (new, some),
        "KEEP_ERRORBACK": (some[0], "{}"),
        "SETTLE_FAIL_FAST": ([ids["parent"]],),
        "SETTLE_COMPENSATE": ([ids["parent"]],),
        "SETTLE_ERRORBACKS": (some, some),
        "MEMBERS": (ids["parent"],),
        "UNDONE": (some,),
        "ADOPT": (some, uuid4()),
        "REOPENING": (ids["parent"],) * 3,
        "LOCK_IN_ORDER": (some,),
        "FORBIDS": (ids["parent"],) * 3,
        "REOPEN": (some, ["QUEUED"] * 100),
        "RESCUE": (3, [ids["process"]]),
        "HAND_BACK": (ids["process"], some, False, timezone.now()),
        "UNKNOWN": (*(ids["process"], some) * 2, 1.0),
        "STRIKE_OFF": ([ids["process"]],),
        "OVERDUE": (names,),
        "OVERTAKEN": (ids["process"], some, [1] * 100),
        "LINGER": (ids["process"], some, [1] * 100),
        "TERMINATE_LINGERING": (some,),
        "LINGERING_LOCK": (some,),
        "LINGERING_END": ([ids["process"]], some, some),
        "UNKNOWN_NAMES": (),
        "REFUSE": (["nobody.knows"], 600),
        "PRUNE_DUE": (500,),
        "PRUNE_THESE": (some,),
        "WORKFLOWS": (some,),
        "LOCK_MEMBERS": (some,),
        "POSTPONE_PRUNE": (60, some, [None] * 100),
        "STORED_CALLS": (UUID(int=0), 200),
        "EXPLAIN": (["q2"], ids["parent"]),
        "EXPLAIN_PLACE": (ids["parent"], ids["parent"]),
        "EXPLAIN_SUBTASKS": (ids["parent"], ids["parent"], 3),
        "EXPLAIN_KEY": ("k", "k"),
        "EXPLAIN_STARTS": ("k", 60),
        "NEXT_TICK": (names, names),
        "RUNNING_TICKS": ([1, 2],),
        "LOCK_RUNS": ([1, 2],),
        "FIRED": ([1, 2], [None, None]),
        "PAUSE_FAILING": (),
        "REPEATED_CALLS": (),
    }


@pytest.mark.parametrize("name", statements(dict.fromkeys(("process", "parent", "before"), UUID(int=0))))
def test_no_statement_reads_the_whole_table(full: dict[str, UUID], name: str) -> None:
    explained = plan(getattr(sql, name), *statements(full)[name])

    assert scanned(explained) & watched(name) == set(), explained


@pytest.mark.parametrize("statement", sql.PRUNE)
def test_no_part_of_a_prune_reads_the_whole_table(full: dict[str, UUID], statement: str) -> None:
    explained = plan(statement, [uuid4() for _ in range(100)])

    assert scanned(explained) & {"cq_task", "cq_settlerequest"} == set(), explained


OF_THEIR_OWN = [
    *("FINISH", "FINISH_OWN", "FINISH_LONE", "FINISH_LONE_OWN", "FINISH_LONES"),
    *("SUSPEND", "KEEP_STEP", "EVENT_PASS", "EVENT_REFUSE", "STILL_MINE", "OVERTAKEN"),
]


@pytest.mark.parametrize("name", OF_THEIR_OWN)
def test_whoever_ends_knows_its_rows_and_walks_no_index_of_what_runs(full: dict[str, UUID], name: str) -> None:
    """There is little in that index, and most of it is what has run since the last vacuum."""
    explained = plan(getattr(sql, name), *statements(full)[name.removesuffix("_OWN")])

    assert "cq_task_held" not in explained


def test_a_claim_walks_the_ready_index_and_does_not_sort(full: dict[str, UUID]) -> None:
    explained = plan(sql.CLAIM, *statements(full)["CLAIM"])

    assert "cq_task_ready" in explained
    assert "Sort" not in explained


def entered(task: Task) -> set[str]:
    """Name the indexes that a row is in."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT indexrelid::regclass::text, coalesce(pg_get_expr(indpred, indrelid), 'true') FROM pg_index "
            "WHERE indrelid = 'cq_task'::regclass"
        )
        found = set()
        for name, predicate in cursor.fetchall():
            cursor.execute(f"SELECT 1 FROM cq_task WHERE id = %s AND ({predicate})", [task.pk])
            if cursor.fetchone():
                found.add(name)
    return found


@pytest.mark.parametrize(
    ("status", "indexes"),
    [
        (Status.QUEUED, {"cq_task_ready"}),
        (Status.RUNNING, {"cq_task_held"}),
        (Status.SUCCESS, set()),
        (Status.FAILURE, set()),
    ],
)
def test_a_lone_task_enters_only_the_primary_ready_and_running_indexes(status: Status, indexes: set[str]) -> None:
    assert entered(row(status)) == {"cq_task_pkey"} | indexes
