"""`cq_runworker`: its options, its start-up, when it ends, and what it leaves behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cq.models import Process, SettleRequest, Task
from tests import fault_tasks
from tests.models import Effect
from tests.processes import (
    ROOT,
    all_done,
    check_invariants,
    django,
    environment,
    is_alive,
    living,
    query,
    session,
    statuses,
    until,
)


def drained(run_worker, *arguments, **more):
    """Run a worker until it ends by itself; return how long that took."""
    began = time.monotonic()
    worker = run_worker("--drain", *arguments, **more)
    status = worker.exit()
    assert status == 0, worker.log
    assert not worker.left_behind()
    return time.monotonic() - began


class TestDrain:
    def test_it_ends_when_nothing_is_left_to_run(self, run_worker):
        for _ in range(5):
            fault_tasks.mixed.delay()

        drained(run_worker, "--processes", "2")

        check_invariants()

    def test_it_ends_at_once_when_there_is_nothing_at_all(self, run_worker):
        assert drained(run_worker) < 5

    def test_it_waits_for_what_will_be_retried_and_follows(self, run_worker):
        task = fault_tasks.flaky.using(backoff=1).delay()
        task.chain(fault_tasks.leaf)

        drained(run_worker, cq={"POLL_INTERVAL": 5})

        assert statuses() == {("fault.flaky", "SUCCESS"): 1, ("fault.leaf", "SUCCESS"): 1}
        check_invariants()

    def test_it_leaves_what_is_due_later_and_what_waits_for_a_person(self, run_worker):
        fault_tasks.leaf.using(run_after=3600).delay().chain(fault_tasks.leaf)
        fault_tasks.leaf.using(submit=False).delay()
        fault_tasks.leaf.delay()

        drained(run_worker)

        assert sorted(Task.objects.values_list("status", flat=True)) == ["PENDING", "PENDING", "SCHEDULED", "SUCCESS"]
        assert not SettleRequest.objects.exists()

    def test_it_leaves_other_queues(self, run_worker):
        mine = [fault_tasks.leaf.using(queue=queue).delay() for queue in ("a", "b")]
        other = fault_tasks.leaf.using(queue="c").delay()

        drained(run_worker, "a", "b")

        assert {Task.objects.get(pk=task.pk).status for task in mine} == {"SUCCESS"}
        assert Task.objects.get(pk=other.pk).status == "QUEUED"

    def test_it_leaves_names_that_it_does_not_know(self, run_worker):
        fault_tasks.leaf.delay()
        task = fault_tasks.leaf.delay()
        Task.objects.filter(pk=task.pk).update(name="nobody.knows")

        drained(run_worker)

        task.refresh_from_db()
        assert (task.status, Effect.objects.count()) == ("QUEUED", 1)

    def test_it_takes_over_what_a_dead_worker_held(self, run_worker, tmp_path):
        task = fault_tasks.once_until.delay(str(tmp_path / "never"))
        dying = run_worker(cq={"LEASE": 1})
        until(lambda: Task.objects.filter(status="RUNNING").exists(), what=run_worker.log)
        dying.clean_up()

        drained(run_worker, cq={"LEASE": 1})

        task.refresh_from_db()
        assert (task.status, task.attempt) == ("SUCCESS", 2)
        check_invariants()


class TestOptions:
    def test_processes_and_threads_say_how_many_bodies_run_at_once(self, run_worker):
        tasks = [fault_tasks.process_id.delay(0.6) for _ in range(6)]
        worker = run_worker("--processes", "2", "--threads", "3").ready(2)

        until(lambda: Task.objects.filter(status="RUNNING").count() == 6, what=run_worker.log)
        all_done(but=run_worker.log)
        worker.stop_in_order()

        pids = [Task.objects.get(pk=task.pk).result for task in tasks]
        assert sorted(pids.count(pid) for pid in set(pids)) == [3, 3]

    def test_named_queues_are_served_in_turns_and_no_others(self, run_worker):
        for queue in ("a", "b", "c"):
            for _ in range(30):
                fault_tasks.leaf.using(queue=queue).delay()
        worker = run_worker("a", "b", "--threads", "1")

        until(lambda: Task.objects.filter(status="SUCCESS").count() == 60, what=run_worker.log)
        worker.stop_in_order()

        assert set(Task.objects.filter(queue="c").values_list("status", flat=True)) == {"QUEUED"}
        order = list(Task.objects.filter(status="SUCCESS").order_by("started_at", "id").values_list("queue", flat=True))
        assert {"a", "b"} == set(order[:20])

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["--processes", "0"], "argument --processes: 0 is less than 1"),
            (["--threads", "-1"], "argument --threads: -1 is less than 1"),
            (["--threads", "many"], "argument --threads: invalid"),
            (["--grace", "-1"], "argument --grace: -1 is not a number of seconds from 0 on"),
            (["--grace", "nan"], "argument --grace: nan is not a number of seconds from 0 on"),
            (["--unheard-of"], "unrecognized arguments: --unheard-of"),
            (["", "x"], "queue"),
            (["mail"], "mail"),
        ],
    )
    def test_a_wrong_argument_is_named(self, transactional_db, arguments, said):
        done = django("cq_runworker", *arguments, cq={"QUEUES": {"default": {}}})

        assert done.returncode != 0
        assert said in done.stderr
        assert "Traceback" not in done.stderr

    def test_the_start_says_what_is_served(self, run_worker):
        worker = run_worker("a", "b", "--processes", "2", "--threads", "3").ready(2)
        worker.stop_in_order()

        assert "2 processes of 3 threads serve a, b queues" in worker.log


class TestTaskModules:
    def test_a_module_that_raises_is_named_at_the_start(self, transactional_db, tmp_path):
        (tmp_path / "raising_tasks.py").write_text("raise RuntimeError('not today')\n")
        path = f"{tmp_path}{os.pathsep}{ROOT}"

        done = django("cq_runworker", cq={"TASK_MODULES": ["raising_tasks"]}, PYTHONPATH=path)

        assert done.returncode == 1
        assert "The task module raising_tasks could not be imported: RuntimeError: not today" in done.stderr

    def test_a_module_that_is_missing_is_named_at_the_start(self, transactional_db):
        done = django("cq_runworker", cq={"TASK_MODULES": ["no_such.tasks"]})

        assert done.returncode == 1
        assert "no_such" in done.stderr

    def test_only_workers_need_to_import_it(self, run_worker, tmp_path):
        (tmp_path / "extra_tasks.py").write_text(
            "from cq import task\n\n@task('extra.five')\ndef five(cqt):\n    return 5\n"
        )
        query(
            "INSERT INTO cq_task (id, name, args, kwargs, status, queue, priority) "
            "VALUES (gen_random_uuid(), 'extra.five', '[]', '{}', 'QUEUED', 'default', 0)"
        )

        drained(run_worker, cq={"TASK_MODULES": ["extra_tasks"]}, PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")

        task = Task.objects.get()
        assert (task.status, task.result) == ("SUCCESS", 5)


class TestUnknownNames:
    def test_they_are_left_for_workers_that_know_them_and_refused_after_a_time(self, run_worker):
        task = fault_tasks.leaf.delay()
        parent = fault_tasks.wide.delay(0)
        Task.objects.filter(pk=task.pk).update(name="nobody.knows")
        drained(run_worker, cq={"UNKNOWN_TASK_TIMEOUT": 600})
        task.refresh_from_db()
        left = task.status

        worker = run_worker(cq={"UNKNOWN_TASK_TIMEOUT": 0.5})
        all_done(but=run_worker.log)
        worker.stop_in_order()

        task.refresh_from_db()
        assert left == "QUEUED"
        assert (task.status, task.attempt) == ("FAILURE", 0)
        assert task.exception == "cq.exceptions.TaskNotRegistered"
        assert "nobody.knows" in task.error
        assert parent

    def test_they_wait_as_long_as_any_living_worker_knows_them(self, run_worker):
        task = fault_tasks.leaf.using(queue="elsewhere").delay()
        knows = run_worker("default").ready()

        does_not = run_worker(cq={"UNKNOWN_TASK_TIMEOUT": 0, "TASK_MODULES": []}).ready()
        until(lambda: Process.objects.count() == 2)
        does_not.stop_in_order()
        knows.stop_in_order()

        task.refresh_from_db()
        assert task.status == "QUEUED"


class TestTime:
    """What is due starts on time, not at the next poll."""

    def test_a_delayed_task_starts_when_it_is_due(self, run_worker):
        worker = run_worker(cq={"POLL_INTERVAL": 20}).ready()
        tasks = [fault_tasks.leaf.using(run_after=seconds).delay() for seconds in (1.5, 0.5, 1.0, 0.75)]

        all_done(8, but=run_worker.log)
        worker.stop_in_order()

        assert max(_late(tasks)) < 0.3

    def test_a_retry_starts_when_its_backoff_is_over(self, run_worker):
        worker = run_worker(cq={"POLL_INTERVAL": 20}).ready()
        task = fault_tasks.flaky.using(backoff=1).delay()

        all_done(8, but=run_worker.log)
        worker.stop_in_order()

        assert task.attempts.count() == 2
        assert max(_late([task])) < 0.3

    def test_a_delayed_successor_starts_when_it_is_due(self, run_worker):
        worker = run_worker(cq={"POLL_INTERVAL": 20}).ready()
        task = fault_tasks.leaf.delay().chain(fault_tasks.leaf, run_after=1)

        all_done(8, but=run_worker.log)
        worker.stop_in_order()

        assert max(_late([task])) < 0.3

    def test_what_is_due_starts_on_time_without_a_layer_as_soon_as_one_poll_has_seen_it(self, run_worker):
        worker = run_worker(TEST_LAYER="none", cq={"POLL_INTERVAL": 1}).ready()
        task = fault_tasks.leaf.using(run_after=2.5).delay()

        all_done(8, but=run_worker.log)
        worker.stop_in_order()

        assert max(_late([task])) < 0.3


def _late(tasks: list[Task]) -> list[float]:
    rows = [Task.objects.get(pk=task.pk) for task in tasks]
    late = [(row.started_at - row.run_after).total_seconds() for row in rows]
    assert min(late) >= 0
    return late


class TestReload:
    @pytest.fixture
    def project(self, tmp_path):
        (tmp_path / "reloaded_tasks.py").write_text(_reloaded("first"))
        (tmp_path / "manage.py").write_text(
            "import sys\nfrom django.core.management import execute_from_command_line\n"
            "execute_from_command_line(sys.argv)\n"
        )
        return tmp_path

    @pytest.fixture(params=["manage.py", "-m django"])
    def reloading(self, transactional_db, project, request):
        program = ["manage.py"] if request.param == "manage.py" else ["-m", "django"]
        log = (project / "log").open("wb")
        started = subprocess.Popen(
            [sys.executable, *program, "cq_runworker", "--reload", "--processes", "1"],
            env=environment(
                cq={"TASK_MODULES": ["reloaded_tasks"], "LEASE": 3, "POLL_INTERVAL": 0.3},
                PYTHONPATH=f"{project}{os.pathsep}{ROOT}",
            ),
            cwd=project,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        yield started
        mine = [pid for pid in living() if session(pid) == started.pid]
        for pid in mine:
            os.kill(pid, signal.SIGKILL)
        started.wait()
        until(lambda: not any(map(is_alive, mine)))
        log.close()

    def test_a_changed_file_starts_the_worker_anew(self, reloading, project):
        log = project / "log"
        first = _enqueue("reloaded.says")
        until(lambda: Task.objects.get(pk=first).is_done, what=log.read_text)
        until(lambda: Process.objects.count() == 1)
        old = Process.objects.get().pid

        (project / "reloaded_tasks.py").write_text(_reloaded("second"))

        def is_seen() -> bool:
            """The reloader knows a file's age from its second look on."""
            _age_by_a_second(project / "reloaded_tasks.py")
            return Process.objects.filter(ended_at=None).exclude(pid=old).exists()

        until(is_seen, what=log.read_text)
        until(lambda: not is_alive(old), what=log.read_text)
        second = _enqueue("reloaded.says")
        until(lambda: Task.objects.get(pk=second).is_done, what=log.read_text)

        assert [Task.objects.get(pk=pk).result for pk in (first, second)] == ["first", "second"]

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_its_end_leaves_no_process(self, reloading, project, number):
        until(lambda: Process.objects.count() == 1, what=(project / "log").read_text)
        mine = [pid for pid in living() if session(pid) == reloading.pid]
        assert len(mine) == 5, "reloader, reloaded, supervisor, keeper, child"

        if number == signal.SIGINT:
            os.killpg(reloading.pid, number)
        else:
            reloading.send_signal(number)
        reloading.wait(10)

        until(lambda: not [pid for pid in mine if is_alive(pid)], 5, what=lambda: f"nothing left of {mine}")


def _reloaded(word: str) -> str:
    return f"from cq import task\n\n@task('reloaded.says')\ndef says(cqt):\n    return {word!r}\n"


def _age_by_a_second(path: Path) -> None:
    later = path.stat().st_mtime + 1
    os.utime(path, (later, later))


def _enqueue(name: str) -> object:
    ((task_id,),) = query(
        "INSERT INTO cq_task (id, name, args, kwargs, status, queue, priority) "
        "VALUES (gen_random_uuid(), %s, '[]', '{}', 'QUEUED', 'default', 0) RETURNING id",
        name,
    )
    return task_id
