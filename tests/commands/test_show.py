"""`cq_show`: everything about one task."""

import re

import pytest
from django.core.management import CommandError, call_command
from django.db.models.functions import Now

from cq import engine
from cq.models import Task
from cq.testing import drain
from tests import tasks
from tests.commands import samples
from tests.rows import make

pytestmark = pytest.mark.django_db


def tree_of(said):
    """Give the lines of the tree, without durations and ids."""
    lines = said.split("\nTree\n")[1].split("\n\n")[0].splitlines()[1:]
    return [re.sub(r"  +", "  ", re.sub(r" +(\d+(\.\d+)? m?s)? +[0-9a-f]{12}$", "", line)) for line in lines]


def test_a_task_shows_its_call_its_result_and_its_times(terminal):
    task = tasks.adds.using(priority=7, queue="bulk").delay(1, b=2)
    drain()

    said = terminal("cq_show", task.id)

    assert said.startswith(f"tests.tasks.adds  SUCCESS\n  Id           {task.id}\n  Queue        bulk, priority 7\n")
    assert "  Arguments    1, b=2\n  Result       3\n" in said
    assert all(f"\n  {label}" in said for label in ("Created", "Started", "Finished", "Took"))
    assert "Tree" not in said
    assert "Traceback" not in said


def test_every_attempt_is_shown_with_its_error(terminal, read_json):
    task = tasks.succeeds_at.delay(3)
    drain()

    said = terminal("cq_show", str(task.id)[-12:])
    (record,) = read_json("cq_show", task.id)

    assert [line[:10] for line in said.splitlines() if re.match("[123]  ", line)] == [
        "1  error  ",
        "2  error  ",
        "3  success",
    ]
    assert "\n   ValueError: attempt 1\n" in said
    assert [(attempt["number"], attempt["outcome"], attempt["error"]) for attempt in record["attempts"]] == [
        (1, "error", "attempt 1"),
        (2, "error", "attempt 2"),
        (3, "success", None),
    ]


def test_a_failed_task_shows_its_traceback(terminal):
    task = tasks.raises.delay("broken")
    drain()

    said = terminal("cq_show", task.id, fits=False)

    assert "  Error        ValueError: broken\n" in said
    assert "\nTraceback\n  Traceback (most recent call last):\n    File " in said
    assert "      raise ValueError(message)\n  ValueError: broken\n" in said


def test_a_task_to_be_tried_again_shows_when(terminal):
    task = samples.tries_later.delay()
    drain()

    said = terminal("cq_show", task.id, fits=False)

    assert "RETRY" in said
    assert re.search(r"  Due          .* \(in 59 min \d+ s\)\n", said)


def test_a_running_task_shows_its_worker_and_an_open_attempt(terminal, enter):
    task = make.row(Task.Status.RUNNING, process_id=enter(), worker="web-9/4712", attempt=1)

    said = terminal("cq_show", task.id)

    assert "  Worker       web-9/4712\n" in said
    assert re.search(r"\n1  running  .* web-9/4712\n", said)


def test_a_task_whose_worker_died_shows_the_crash(terminal, enter):
    process_id = enter()
    task = make.row(Task.Status.RUNNING, process_id=process_id, attempt=1)
    engine.end_process(process_id, [task.id])
    engine.rescue()

    said = terminal("cq_show", task.id)

    assert "RETRY" in said
    assert "1  crashed" in said
    assert "The worker process died." in said


def test_a_task_shows_where_it_stands(terminal):
    top = tasks.hands_on.delay(1)
    drain()
    first, last = top.subtasks.all()

    said = terminal("cq_show", last.id)

    assert f"  Parent       {str(top.id)[-12:]} tests.tasks.hands_on SUCCESS\n" in said
    assert f"  Predecessor  {str(first.id)[-12:]} tests.tasks.adds SUCCESS\n" in said
    assert f"  Root         {str(top.id)[-12:]} tests.tasks.hands_on SUCCESS\n" in said


def test_subtasks_and_chains_are_drawn(terminal):
    top = tasks.hands_on.delay(1)
    top.chain(tasks.sums, (1,)).chain(tasks.raises)
    drain()

    assert tree_of(terminal("cq_show", top.id)) == [
        "tests.tasks.hands_on  SUCCESS",
        "├─ tests.tasks.adds  SUCCESS",
        "└→ tests.tasks.sums  SUCCESS",
        "→ tests.tasks.sums  SUCCESS",
        "→ tests.tasks.raises  FAILURE",
        "  ValueError: broken",
    ]


def test_a_successor_that_does_not_follow_the_line_above_names_its_predecessor(terminal):
    top = tasks.adds.delay(1)
    top.chain(tasks.sums, (1,))
    top.chain(tasks.sums, (2,))
    drain()

    lines = tree_of(terminal("cq_show", top.id))

    assert lines == [
        "tests.tasks.adds  SUCCESS",
        "→ tests.tasks.sums  SUCCESS",
        f"→ tests.tasks.sums (after {str(top.id)[-12:]})  SUCCESS",
    ]


def test_deep_trees_are_cut_and_what_is_below_is_counted(terminal):
    top = samples.branches.delay(6)
    drain()

    assert tree_of(terminal("cq_show", top.id, "--tree", 1))[-1] == "  └─ … 1 below: 1 SUCCESS"
    assert len(tree_of(terminal("cq_show", top.id))) == 5
    assert len(tree_of(terminal("cq_show", top.id, "--tree", 5))) == 7
    assert tree_of(terminal("cq_show", top.id, "--all"))[-1].strip().startswith("└─ tests.commands.samples.branches")
    assert "--tree DEPTH shows more" in terminal("cq_show", top.id)
    assert "--tree DEPTH shows more" not in terminal("cq_show", top.id, "--all")


def test_the_deepest_tree_fits_the_terminal(terminal):
    top = samples.branches.delay(60)
    drain()

    said = terminal("cq_show", top.id, "--all")

    assert len(tree_of(said)) == 61


def test_of_thousands_of_subtasks_the_failed_are_shown_and_the_rest_counted(
    terminal, read_json, django_assert_max_num_queries
):
    top = samples.fails_now_and_then.delay(2000, 200)
    drain(max_tasks=1)
    Task.objects.filter(name="tests.tasks.adds").update(status=Task.Status.SUCCESS, finished_at=Now())
    drain()

    with django_assert_max_num_queries(16):
        said = terminal("cq_show", top.id)
    lines = tree_of(said)
    (record,) = read_json("cq_show", top.id)
    (whole,) = read_json("cq_show", top.id, "--all")

    assert sum("tests.tasks.raises  FAILURE" in line for line in lines) == 10
    assert sum("tests.tasks.adds  SUCCESS" in line for line in lines) == 40
    assert lines[-1] == "└─ … and 1,950 more: 1,950 SUCCESS"
    assert (len(record["subtasks"]), record["more_subtasks"]) == (50, {"SUCCESS": 1950})
    assert (len(whole["subtasks"]), whole["more_subtasks"]) == (2000, {})


def test_a_long_chain_is_cut_and_the_rest_counted(terminal):
    top = last = tasks.adds.delay(1)
    for _ in range(60):
        last = last.chain(tasks.sums, (1,))
    drain()

    assert tree_of(terminal("cq_show", top.id))[-1] == "→ … and 10 more: 10 SUCCESS"
    assert len(tree_of(terminal("cq_show", top.id, "--all"))) == 61


def test_rows_that_form_a_ring_are_not_drawn_for_ever(terminal):
    first, second = tasks.adds.delay(1), tasks.adds.delay(2)
    Task.objects.filter(id=first.id).update(parent=second, previous=second)
    Task.objects.filter(id=second.id).update(parent=first, previous=first)

    assert len(tree_of(terminal("cq_show", first.id, "--all"))) < 10


def test_several_tasks_are_shown_one_after_the_other(terminal, read_json):
    made = tasks.adds.delay_many([(1,), (2,)])

    assert terminal("cq_show", *(task.id for task in made)).count("tests.tasks.adds  QUEUED") == 2
    assert [record["id"] for record in read_json("cq_show", *(task.id for task in made))] == [
        str(task.id) for task in made
    ]


def test_a_result_counts_no_more_when_the_task_was_revoked(terminal, read_json):
    task = tasks.spawns.delay(2)
    drain(max_tasks=1)
    before = read_json("cq_show", task.id)[0]["result"]
    task.revoke()

    assert (before, read_json("cq_show", task.id)[0]["result"]) == (2, None)
    assert "Result" not in terminal("cq_show", task.id)


def test_a_huge_argument_is_cut(terminal, read_json):
    task = tasks.adds.delay("x" * 100_000)

    said = terminal("cq_show", task.id)

    assert len(said) < 5000
    assert "and 98,002 more characters" in " ".join(said.split())
    assert read_json("cq_show", task.id)[0]["args"] == ["x" * 100_000]


@pytest.mark.parametrize("depth", ["-1", "deep", "99999", "²"])
def test_a_wrong_depth_is_an_error(depth):
    task = tasks.adds.delay(1)

    with pytest.raises(CommandError, match=r"is no depth\. Expected a whole number from 0 to 9999"):
        call_command("cq_show", str(task.id), f"--tree={depth}")


def test_an_unknown_id_is_an_error():
    with pytest.raises(CommandError, match="No task 'deadbeef' is stored"):
        call_command("cq_show", "deadbeef")


def test_a_task_that_does_not_run_says_why(terminal, read_json, enter):
    enter(queues=["mail"])
    task = tasks.adds.delay(1)

    said = terminal("cq_show", task.id)

    assert "\nWhy it is not running\n  No living worker serves its queue default.\n" in said
    assert read_json("cq_show", task.id)[0]["explain"] == ["No living worker serves its queue default."]


def test_of_one_that_has_ended_nothing_is_explained(terminal, read_json):
    task = tasks.adds.delay(1)
    drain()

    assert "Why it is not running" not in terminal("cq_show", task.id)
    assert read_json("cq_show", task.id)[0]["explain"] == []
