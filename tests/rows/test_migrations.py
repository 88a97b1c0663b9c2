"""The migration is what the models are, and can be taken back."""

import pytest
from django.core.management import call_command
from django.db import connection

from cq.models import Attempt, Task
from tests.rows.make import row


def relations() -> set[str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT relname FROM pg_class WHERE relname LIKE 'cq\\_%%' AND relkind IN ('r', 'v', 'S')")
        return {name for (name,) in cursor.fetchall()}


@pytest.mark.django_db
def test_the_models_need_no_further_migration() -> None:
    call_command("makemigrations", "cq", check=True, dry_run=True, verbosity=0)


@pytest.mark.django_db(transaction=True)
def test_the_migration_goes_back_and_forth() -> None:
    before = relations()
    try:
        call_command("migrate", "cq", "zero", verbosity=0)
        gone = relations()
    finally:
        call_command("migrate", verbosity=0)  # the tests' own app refers to tasks, and went with them

    assert gone == set()
    assert relations() == before >= {"cq_task", "cq_attempt", "cq_settlerequest", "cq_worker", "cq_process"}


@pytest.mark.django_db
def test_the_table_leaves_room_for_new_versions_of_its_rows() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT reloptions FROM pg_class WHERE relname = 'cq_task'")
        (options,) = cursor.fetchone()

    assert "fillfactor=80" in options


@pytest.mark.django_db
def test_defaults_are_the_databases_too() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO cq_task (id, name, status, args, kwargs) "
            "VALUES (gen_random_uuid(), 'x', 'QUEUED', '[]', '{}') RETURNING id"
        )
        (task_id,) = cursor.fetchone()

    task = Task.objects.get(pk=task_id)

    assert (task.queue, task.priority, task.claims, task.attempt, task.admitted) == ("default", 0, 0, 0, True)
    assert task.created_at is not None
    assert task.run_after is not None


@pytest.mark.django_db
def test_attempts_can_only_be_read() -> None:
    task = row(attempt=1, outcome="success")
    attempt = Attempt.objects.get(task=task)

    with pytest.raises(Exception, match="cannot insert into view"):
        Attempt(id="x", task=task, number=2, worker="").save(force_insert=True)

    assert attempt.number == 1
