"""PostgreSQL restarts, hangs, ends connections and holds locks, while workers go on by themselves."""

import json
import os
import random
import re
import select
import signal
import socket
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
from django.contrib.auth.models import Group
from django.db import connection, transaction
from django.db.models import Sum

from cq.models import Task, Worker
from tests import fault_tasks
from tests.acceptance.test_failpoints import MIXED
from tests.models import Effect
from tests.processes import (
    all_done,
    check_invariants,
    database_url,
    query,
    signal_all,
    statuses,
    unfinished,
    until,
)

pytestmark = pytest.mark.chaos


def running(*tasks: Task) -> bool:
    return Task.objects.filter(pk__in=[task.pk for task in tasks], status="RUNNING").count() == len(tasks)


def done(*tasks: Task) -> bool:
    return not unfinished().filter(pk__in=[task.pk for task in tasks]).exists()


@pytest.fixture
def postgres(services):
    """The test's own connection does not survive what is done to the server."""
    connection.close()
    yield services.postgres
    connection.close()


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_workers_outlive_a_restart_of_postgresql(run_worker, postgres, tmp_path, mode):
    worker = run_worker("--processes", "2", cq={"LEASE": 10}).ready(2)
    interrupted = fault_tasks.once_until.delay(str(tmp_path / "go"))
    loose = fault_tasks.until_loose.delay(str(tmp_path / "go"))
    run_worker.await_body(interrupted, loose)
    for _ in range(10):
        fault_tasks.mixed.delay()
    until(lambda: Task.objects.filter(status="SUCCESS").exists(), what=run_worker.log)
    before = set(worker.descendants())
    connection.close()

    postgres.restart(mode)
    (tmp_path / "go").touch()
    all_done(30, but=run_worker.log)
    after = set(worker.descendants())
    worker.stop_in_order()

    assert before == after, "no process ended"
    interrupted.refresh_from_db()
    outcomes = [attempt.outcome for attempt in interrupted.attempts.all()]
    assert (interrupted.status, outcomes[0], outcomes[-1]) == ("SUCCESS", "interrupted", "success"), (
        interrupted.traceback
    )
    assert interrupted.retries == 0
    mixed = statuses(Task.objects.exclude(pk__in=[interrupted.pk, loose.pk]))
    assert mixed == Counter({key: 10 * number for key, number in MIXED.items()})
    assert Task.objects.aggregate(n=Sum("crashes"))["n"] == 0
    check_invariants()


def test_workers_outlive_the_end_of_any_of_their_connections(run_worker):
    seed = random.randrange(10**6)
    chance = random.Random(seed)
    workflows = 25
    for _ in range(workflows):
        fault_tasks.mixed.delay()
    workers = [run_worker("--threads", "2", cq={"LEASE": 10}) for _ in range(2)]
    ended = 0
    deadline = time.monotonic() + 8

    while unfinished().exists() and time.monotonic() < deadline:
        pids = [pid for (pid,) in query("SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'cq:%%'")]
        if pids:
            query("SELECT pg_terminate_backend(%s)", chance.choice(pids))
            ended += 1
        pause = time.monotonic() + chance.uniform(0.02, 0.1)
        until(lambda pause=pause: time.monotonic() > pause)
    all_done(30, but=lambda: f"seed {seed}\n{run_worker.log()}")
    for worker in workers:
        worker.stop_in_order()

    failed = Task.objects.filter(status="FAILURE").exclude(name="fault.fails")
    assert [(one.name, one.attempt, one.traceback) for one in failed] == []
    assert ended > 10, seed
    assert statuses() == Counter({key: workflows * number for key, number in MIXED.items()}), seed
    assert Task.objects.aggregate(n=Sum("crashes"))["n"] == 0
    check_invariants()


def test_no_task_is_tried_again_for_connections_that_were_lost_before_it(run_worker):
    worker = run_worker("--processes", "2").ready(2)
    for _ in range(40):
        fault_tasks.leaf.delay(0.01)
    all_done(but=run_worker.log)

    ended = query("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name LIKE 'cq:%%'")
    back = time.monotonic() + 0.2
    until(lambda: time.monotonic() > back)
    for _ in range(40):
        fault_tasks.leaf.delay(0.01)
    all_done(but=run_worker.log)
    worker.stop_in_order()

    assert len(ended) > 6, "keeper, engines, and the threads of bodies"
    assert set(Task.objects.values_list("attempt", flat=True)) == {1}
    check_invariants()


def test_workers_outlive_a_postgresql_that_hangs(run_worker, postgres):
    worker = run_worker("--processes", "2", cq={"LEASE": 10}).ready(2)
    for _ in range(10):
        fault_tasks.mixed.delay()
    until(lambda: Task.objects.filter(status="SUCCESS").exists(), what=run_worker.log)
    servers = [pid for (pid,) in query("SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'cq:%%'")]
    connection.close()

    signal_all([postgres.pid, *servers], signal.SIGSTOP)
    hangs = time.monotonic()
    until(lambda: time.monotonic() > hangs + 2)
    signal_all([postgres.pid, *servers], signal.SIGCONT)
    all_done(but=run_worker.log)
    worker.stop_in_order()

    assert statuses() == Counter({key: 10 * number for key, number in MIXED.items()})
    assert Task.objects.aggregate(n=Sum("crashes"))["n"] == 0
    check_invariants()


def test_postgresql_away_for_longer_than_the_lease_charges_nobody(run_worker, postgres, tmp_path):
    worker = run_worker("--processes", "1", cq={"LEASE": 1.5}).ready()
    task = fault_tasks.once_until.delay(str(tmp_path / "never"))
    run_worker.await_body(task)
    connection.close()

    postgres.stop()
    until(lambda: "starts anew" in worker.log, what=run_worker.log)
    postgres.start()
    all_done(but=run_worker.log)
    worker.stop_in_order()

    task.refresh_from_db()
    assert (task.status, task.attempt, task.crashes) == ("SUCCESS", 2, 0)
    check_invariants()


def test_a_worker_that_starts_without_postgresql_waits_for_it(run_worker, postgres):
    task = fault_tasks.leaf.delay()
    connection.close()
    postgres.stop()
    worker = run_worker(database_is_away=True)
    until(lambda: "database unavailable" in worker.log, what=run_worker.log)

    postgres.start()
    all_done(but=run_worker.log)
    worker.stop_in_order()

    task.refresh_from_db()
    assert task.status == "SUCCESS"
    check_invariants()


def _lines(worker, name: str) -> list[str]:
    return [line for line in worker.log.splitlines() if f" {name} " in line]


def test_a_postgresql_that_is_read_only_for_a_while_only_delays(run_worker, tmp_path):
    """As after a failover to a standby that is not yet promoted."""
    worker = run_worker("--threads", "3", cq={"LEASE": 30}).ready()
    pids = worker.descendants()
    ending = fault_tasks.ends_when_told.delay(str(tmp_path / "go"))
    lasting = fault_tasks.ends_when_told.delay(str(tmp_path / "later"))
    run_worker.await_body(ending, lasting)
    name = connection.ops.quote_name(connection.settings_dict["NAME"])
    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'cq:%%'"

    query(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    try:
        query(cut)
        (tmp_path / "go-1").touch()
        until(
            lambda: any(" cq.worker " in line and "read-only" in line for line in worker.log.splitlines()),
            what=lambda: worker.log,
        )
    finally:
        query(f"ALTER DATABASE {name} RESET default_transaction_read_only")
        query(cut)
    for _ in range(3):
        fault_tasks.mixed.delay()
    (tmp_path / "later-1").touch()
    all_done(but=run_worker.log)
    same = worker.descendants() == pids
    worker.stop_in_order()

    assert same, worker.log
    rows = [Task.objects.get(pk=task.pk) for task in (ending, lasting)]
    assert [(row.status, row.attempt, row.error) for row in rows] == [("SUCCESS", 1, None)] * 2
    assert Task.objects.aggregate(n=Sum("crashes"))["n"] == 0
    check_invariants()


def test_a_lock_on_one_task_row_holds_up_no_other_task(run_worker):
    worker = run_worker("--threads", "2", cq={"LEASE": 30}).ready()
    held = fault_tasks.leaf.using(run_after=0.3).delay()

    def latency() -> float:
        began = time.monotonic()
        tasks = [fault_tasks.leaf.delay() for _ in range(30)]
        until(lambda: done(*tasks), what=run_worker.log)
        return time.monotonic() - began

    usual = latency()
    with psycopg.connect(database_url()) as outsider:
        outsider.execute("SELECT 1 FROM cq_task WHERE id = %s FOR UPDATE", [held.pk])
        began = time.monotonic()
        during = []
        while time.monotonic() < began + 2.5:
            during.append(latency())
        assert not done(held)
    until(lambda: done(held), 1.5, what="it goes on")
    worker.stop_in_order()

    assert min(during) < 3 * usual + 0.2
    check_invariants()


@pytest.mark.parametrize("body", ["once_until", "ends_when_told"])
def test_a_lock_on_a_running_tasks_row_holds_up_only_that_ones_end(run_worker, tmp_path, body):
    """Whether the body ends its own transaction, or its outcome is written with others."""
    worker = run_worker("--threads", "2", cq={"LEASE": 30}).ready()
    held = getattr(fault_tasks, body).delay(str(tmp_path / "go"))
    run_worker.await_body(held)

    with psycopg.connect(database_url()) as outsider:
        outsider.execute("SELECT 1 FROM cq_task WHERE id = %s FOR UPDATE", [held.pk])
        (tmp_path / "go").touch()
        (tmp_path / "go-1").touch()
        others = [fault_tasks.dry.delay() for _ in range(50)] + [fault_tasks.leaf.delay() for _ in range(10)]
        until(lambda: done(*others), 5, what=run_worker.log)
        assert running(held)
    until(lambda: done(held), 1.5, what="it goes on")
    worker.stop_in_order()

    check_invariants()


def test_two_tasks_that_deadlock_both_succeed_and_no_retry_is_charged(run_worker, tmp_path):
    run_worker.expects_deadlocks = True
    Group.objects.bulk_create([Group(name="a"), Group(name="b")])
    tasks = [fault_tasks.locks.delay(*names, str(tmp_path)) for names in (("a", "b"), ("b", "a"))]
    worker = run_worker("--threads", "2", cq={"LEASE": 30})

    all_done(but=run_worker.log)
    worker.stop_in_order()

    rows = [Task.objects.get(pk=task.pk) for task in tasks]
    assert [row.status for row in rows] == ["SUCCESS"] * 2
    assert [row.retries + row.crashes for row in rows] == [0, 0]
    assert sum(row.transients for row in rows) >= 1
    check_invariants()


@pytest.mark.parametrize("name", ["conflicts_in_coroutine", "conflicts_loose"])
def test_a_database_error_that_is_not_the_connections_is_a_failure(run_worker, name):
    task = getattr(fault_tasks, name).delay()
    worker = run_worker()

    all_done(but=run_worker.log)
    worker.stop_in_order()

    task.refresh_from_db()
    assert (task.status, task.attempt, task.exception) == ("FAILURE", 1, "django.db.utils.IntegrityError")


def test_a_body_whose_connection_is_ended_runs_again_without_a_charge(run_worker):
    task = fault_tasks.loses_connection.delay()
    worker = run_worker()

    all_done(but=run_worker.log)
    worker.stop_in_order()

    task.refresh_from_db()
    assert (task.status, task.attempt, task.retries, task.crashes) == ("SUCCESS", 2, 0, 0)
    check_invariants()


# A statement whose plan is kept goes over the wire once, with a name, and then by its name.
PARSE = re.compile(rb"P.{4}(_pg3_\d+)\x00([^\x00]*)", re.DOTALL)
BIND = re.compile(rb"B.{4}\x00(_pg3_\d+)\x00", re.DOTALL)


class Proxy:
    """Stands before PostgreSQL on a socket of its own, and can cut a connection between a COMMIT and its answer."""

    def __init__(self, folder: Path, marker: bytes) -> None:
        own = connection.settings_dict
        self.server = f"{own['HOST']}/.s.PGSQL.{own['PORT'] or 5432}"
        self.folder = folder
        self.marker = marker
        self.armed = threading.Event()
        self.cut = 0
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(folder / ".s.PGSQL.5432"))
        self.listener.listen(50)
        self.threads: list[threading.Thread] = []
        self.carried: list[socket.socket] = []
        self._start(self._accept)

    @property
    def url(self) -> str:
        return database_url().partition("?host=")[0] + f"?host={str(self.folder).replace('/', '%2F')}"

    def close(self) -> None:
        for one in (self.listener, *self.carried):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for thread in self.threads:
            thread.join(5)

    def _start(self, target, *args) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self.threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            self.carried.append(client)
            self._start(self._carry, client)

    def _carry(self, client: socket.socket) -> None:
        """Carry bytes both ways; when the marker was seen in a transaction, let its COMMIT through and cut at the answer."""
        seen = b""
        texts: dict[bytes, bytes] = {}
        cuts = False
        with client, socket.socket(socket.AF_UNIX) as server, suppress(OSError):
            server.connect(self.server)
            while True:
                ready, _, _ = select.select([client, server], [], [])
                for source in ready:
                    data = source.recv(65536)
                    if not data:
                        return
                    if source is server:
                        if cuts:
                            self.cut += 1
                            return
                        client.sendall(data)
                        continue
                    server.sendall(data)
                    seen += data
                    texts.update(PARSE.findall(data))
                    seen += b"".join(texts.get(name, b"") for name in BIND.findall(data))
                    if b"COMMIT" in seen:
                        is_it, seen = self.marker in seen, b""
                        if is_it and self.armed.is_set():
                            self.armed.clear()
                            cuts = True


@pytest.fixture
def proxied(tmp_path_factory):
    """Give a function that makes a proxy, in a folder whose path is short enough."""
    made: list[Proxy] = []

    def make(marker: bytes) -> Proxy:
        made.append(Proxy(tmp_path_factory.mktemp("p"), marker))
        return made[-1]

    yield make
    for proxy in made:
        proxy.close()


@pytest.mark.parametrize(
    ("marker", "body"),
    [
        (b"SET status = 'RUNNING'", "leaf"),
        (b"SET status = 'RUNNING'", "dry"),
        (b"tests_effect", "leaf"),
        (b"outcome = 'success'", "dry"),
        (b"DELETE FROM cq_settlerequest", "mixed"),
    ],
    ids=["claim", "claim of one without effects", "body", "batch", "settle"],
)  # fmt: skip
def test_a_commit_whose_answer_is_lost_leaves_nothing_behind(run_worker, proxied, marker, body):
    proxy = proxied(marker)
    worker = run_worker("--threads", "2", cq={"LEASE": 30}, DATABASE_URL=proxy.url).ready()
    proxy.armed.set()
    with transaction.atomic():  # so that they are found together, and end together
        for _ in range(5):
            getattr(fault_tasks, body).delay()

    until(lambda: proxy.cut == 1, what=run_worker.log)
    all_done(8, but=run_worker.log)
    worker.stop_in_order()

    assert Task.objects.aggregate(n=Sum("crashes"))["n"] == 0
    check_invariants()


def test_a_stopped_keeper_ends_in_a_new_beginning_before_others_take_over(run_worker, tmp_path):
    worker = run_worker("--processes", "1", cq={"LEASE": 1.5}).ready()
    task = fault_tasks.once_until.delay(str(tmp_path / "never"))
    run_worker.await_body(task)
    old = Worker.objects.get()
    keeper = worker.keeper()

    os.kill(keeper, signal.SIGSTOP)
    all_done(but=run_worker.log)
    worker.stop_in_order()

    task.refresh_from_db()
    assert (task.status, task.attempt, task.crashes) == ("SUCCESS", 2, 0)
    assert not Worker.objects.filter(pk=old.pk).exists() or Worker.objects.get(pk=old.pk).lease_until
    check_invariants(left=False)


def test_on_commit_hooks_take_effect_once(run_worker):
    tasks = [fault_tasks.notes_on_commit.delay() for _ in range(5)]
    with transaction.atomic():
        tasks.append(fault_tasks.notes_on_commit.delay())
    # One thread: another could commit while the process dies, and Django runs hooks after the commit.
    worker = run_worker("--threads", "1", CQ_FAILPOINTS="finish.swapped=kill:once")

    all_done(but=run_worker.log)
    worker.stop_in_order()

    assert Effect.objects.count() == len(tasks)
    assert set(Effect.objects.values_list("task_id", flat=True)) == {task.pk for task in tasks}


def test_bodies_are_ended_with_plans_that_are_kept(run_worker):
    for _ in range(10):
        fault_tasks.leaf.delay()
    last = fault_tasks.counts_plans.using(priority=-1).delay()
    worker = run_worker("--threads", "1")
    all_done(but=run_worker.log)
    worker.stop_in_order()

    last.refresh_from_db()
    assert last.result >= 1
    check_invariants()


@pytest.fixture
def bound_by_the_server():
    """Connect as a project does that has chosen Django's server-side binding, with prepared statements."""
    before = connection.settings_dict["OPTIONS"]
    connection.close()
    connection.settings_dict["OPTIONS"] = {**before, **BOUND_BY_THE_SERVER}
    yield
    connection.close()
    connection.settings_dict["OPTIONS"] = before


BOUND_BY_THE_SERVER = {"server_side_binding": True, "prepare_threshold": 2}


def test_server_side_binding_and_prepared_statements_change_nothing(run_worker, bound_by_the_server):
    for _ in range(4):
        fault_tasks.mixed.delay()
    fault_tasks.dry.delay_many([(n,) for n in range(5)])
    chain = fault_tasks.adds.delay(1)
    for _ in range(5):
        chain = chain.chain(fault_tasks.adds)
    held = [fault_tasks.dry.using(submit=False, run_after=0.1, backoff=[1]).delay() for _ in range(3)]
    for task in held:
        task.submit(7)
    revoked = [fault_tasks.dry.using(run_after=3600).delay() for _ in range(3)]
    assert all(task.revoke() for task in revoked)
    worker = run_worker("--threads", "2", TEST_OPTIONS=json.dumps(BOUND_BY_THE_SERVER))

    assert chain.get(20) == 7
    assert [task.get(20) for task in held] == [7, 7, 7]
    all_done(but=run_worker.log)
    worker.stop_in_order()

    assert statuses(Task.objects.filter(name="fault.fails")) == {("fault.fails", "FAILURE"): 8}
    check_invariants()
