"""Plans are kept where PostgreSQL itself answers, and nowhere else."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any

import pytest
from django.contrib.auth.models import Group
from django.db import DataError, connection, connections
from django.db.backends.signals import connection_created
from django.db.models.functions import Now

from cq import database, engine, executor, task, wire
from cq.models import Task
from tests import tasks
from tests.rows.make import process, take

pytestmark = pytest.mark.django_db(transaction=True)

PREPARED = "SELECT count(*) FROM pg_prepared_statements WHERE NOT from_sql"
NAMES = "SELECT name FROM pg_prepared_statements WHERE NOT from_sql ORDER BY name"


class Pooler(threading.Thread):
    """Stands between a client and PostgreSQL, and tells the client a process id of its own making, as PgBouncer does."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.info = connection.connection.info
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]
        self.start()

    def run(self) -> None:
        with suppress(OSError), closing(self.listening):
            client, _ = self.listening.accept()
            server = reach(self.info.host, self.info.port)
            threading.Thread(target=self.pass_on, args=(client, server, False), daemon=True).start()
            self.pass_on(server, client, True)

    def pass_on(self, source: socket.socket, target: socket.socket, invents: bool) -> None:
        with suppress(OSError), closing(source), closing(target):
            while data := source.recv(65536):
                at = data.find(b"K\x00\x00\x00\x0c") if invents else -1
                if at >= 0:
                    data, invents = data[: at + 5] + b"\x00\x00\x00\x01" + data[at + 9 :], False
                target.sendall(data)


def reach(host: str, port: int) -> socket.socket:
    if not host.startswith("/"):
        return socket.create_connection((host, port))
    server = socket.socket(socket.AF_UNIX)
    server.connect(f"{host}/.s.PGSQL.{port}")
    return server


@pytest.fixture
def keeping() -> Iterator[None]:
    """Do what a worker's child does at its start."""
    connection_created.connect(database.keep_plans)
    yield
    connection_created.disconnect(database.keep_plans)


def prepared_after_some_trips() -> int:
    for _ in range(4):
        with database.round_trip() as trip:
            trip.send("SELECT count(*) FROM cq_task WHERE status = %s", "RUNNING")
    ((number,),) = database.execute(PREPARED)
    return int(number)


def test_a_worker_keeps_plans(keeping: None) -> None:
    connection.close()

    assert prepared_after_some_trips() >= 1
    assert connection.connection.prepare_threshold is None, "what the project sends is as it was"
    connection.close()


@pytest.mark.parametrize(("rows", "is_kept"), [(50, False), (1, True)], ids=["after much work", "while little comes"])
def test_plans_are_kept_for_a_second_or_while_little_comes(
    rows: int, is_kept: bool, keeping: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was made for a short table is not used for what has become a long one."""
    connection.close()
    prepared_after_some_trips()
    first = database.execute(NAMES)
    with database.round_trip() as trip:
        trip.send("SELECT generate_series(1, %s::int)", rows)
    prepared_after_some_trips()
    still = database.execute(NAMES)

    now = time.monotonic() + 1.01
    monkeypatch.setattr(wire.time, "monotonic", lambda: now)
    prepared_after_some_trips()
    later = database.execute(NAMES)
    connection.close()

    assert first == still
    assert len(later) == len(first), "none are piled up"
    assert (later == first) == is_kept


def test_a_plan_that_was_not_made_because_of_an_error_is_not_missed(keeping: None) -> None:
    connection.close()
    for number in (1, 1, 0, 1, 1):
        with suppress(DataError), database.round_trip() as trip:
            trip.send("SELECT 1 / %s::int", number)
            trip.send("SELECT 'behind it', %s::text", "x")
    assert database.execute("SELECT 1 FROM pg_prepared_statements WHERE statement LIKE '%%behind it%%'") == [(1,)]
    connection.close()


@task
def makes_many(cqt: Any, number: int) -> None:
    cqt.subtask_many(tasks.adds, [(n,) for n in range(number)])


def test_what_is_inserted_by_the_thousand_is_planned_for_what_is_there(keeping: None) -> None:
    connection.close()
    makes_many.delay(12_000)
    (claimed,) = take(process())

    executed = executor.execute(claimed)
    assert executed.outcome is not None
    engine.finish([executed.outcome])

    assert Task.objects.count() == 12_001
    assert database.execute("SELECT 1 FROM pg_prepared_statements WHERE statement LIKE '%%cq_task maker%%'") == []
    connection.close()


@task(atomic=False)
def discards(cqt: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute("DISCARD ALL")


def test_a_body_that_discards_plans_costs_the_next_one_nothing(keeping: None) -> None:
    connection.close()
    for number in range(6):
        made = [discards.delay(), tasks.writes_group.delay(f"{number}")]
        for claimed in take(process(), 2):
            executed = executor.execute(claimed)
            if executed.outcome is not None:
                engine.finish([executed.outcome])
        assert [task.status for task in Task.objects.filter(pk__in=[task.pk for task in made])] == [
            "SUCCESS",
            "SUCCESS",
        ]
    connection.close()


def test_other_processes_keep_none() -> None:
    connection.close()

    assert prepared_after_some_trips() == 0


def test_behind_a_pooler_a_worker_keeps_none(keeping: None, monkeypatch: pytest.MonkeyPatch) -> None:
    connection.ensure_connection()
    pooler = Pooler()
    behind: Any = connections["default"].copy()
    behind.settings_dict = {**behind.settings_dict, "HOST": "127.0.0.1", "PORT": pooler.port}
    with closing(behind):
        behind.ensure_connection()
        assert behind.connection.info.backend_pid == 1
        monkeypatch.setattr(database, "connection", lambda: behind)

        assert prepared_after_some_trips() == 0


def test_a_project_may_choose_that_none_are_kept(keeping: None, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: Any = connections["default"].copy()
    chosen.settings_dict = {
        **chosen.settings_dict,
        "OPTIONS": {**chosen.settings_dict["OPTIONS"], "prepare_threshold": None},
    }
    with closing(chosen):
        chosen.ensure_connection()
        monkeypatch.setattr(database, "connection", lambda: chosen)

        assert prepared_after_some_trips() == 0


def test_what_a_project_has_chosen_stays(keeping: None) -> None:
    chosen: Any = connections["default"].copy()
    chosen.settings_dict = {
        **chosen.settings_dict,
        "OPTIONS": {**chosen.settings_dict["OPTIONS"], "prepare_threshold": 99},
    }
    with closing(chosen):
        chosen.ensure_connection()

        assert chosen.connection.prepare_threshold == 99


def test_a_project_that_lets_psycopg_prepare_statements_has_them_for_its_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: Any = connections["default"].copy()
    chosen.settings_dict = {
        **chosen.settings_dict,
        "OPTIONS": {**chosen.settings_dict["OPTIONS"], "prepare_threshold": 2, "server_side_binding": True},
    }
    inserts = "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE 'SELECT cq_enqueue(%%'"
    with closing(chosen):
        chosen.ensure_connection()
        monkeypatch.setattr(database, "connection", lambda: chosen)
        for _ in range(5):
            tasks.adds.delay(1)
        assert database.execute(inserts) == [(1,)]


@task
def drops_plans(cqt: Any, name: str) -> None:
    Group.objects.create(name=name)
    if cqt.attempt == 1:
        connection.connection.execute("DEALLOCATE ALL")


def test_a_body_that_drops_plans_past_django_is_run_again(keeping: None) -> None:
    connection.close()
    for number in range(4):
        tasks.writes_group.delay(f"{number}")
    dropping = drops_plans.delay("dropped")
    for claimed in take(process(), 5):
        executor_outcome = executor.execute(claimed).outcome
        if executor_outcome is not None:
            engine.finish([executor_outcome])
    dropping.refresh_from_db()
    assert (dropping.status, dropping.error) == ("RETRY", 'prepared statement "cq_1" does not exist')

    Task.objects.filter(pk=dropping.pk).update(run_after=Now())
    engine.promote()
    (again,) = take(process())
    assert executor.execute(again).outcome is None

    assert [task.status for task in Task.objects.all()] == ["SUCCESS"] * 5
    connection.close()
