"""Old and new workers side by side, as in a rolling deploy: the tables have more than the old ones know, and so have the tasks."""

import shutil
from collections import Counter
from collections.abc import Iterator

import pytest

from cq.models import Task, Worker
from tests import control_tasks, fault_tasks
from tests.acceptance.test_failpoints import MIXED
from tests.processes import ROOT, all_done, check_invariants, query, statuses, until

pytestmark = [pytest.mark.chaos, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def later_migration(transactional_db: None) -> Iterator[object]:
    """Give what a later version's migration may do while its predecessor works: new columns in every table, with and without a value."""
    tables = [name for (name,) in query("SELECT relname FROM pg_class WHERE relkind = 'r' AND relname LIKE 'cq\\_%%'")]

    def migrate() -> None:
        for table in tables:
            query(f"ALTER TABLE {table} ADD COLUMN later_null text, ADD COLUMN later_value int NOT NULL DEFAULT 7")

    yield migrate
    for table in tables:
        query(f"ALTER TABLE {table} DROP COLUMN IF EXISTS later_null, DROP COLUMN IF EXISTS later_value")


def test_an_old_and_a_new_version_work_side_by_side_on_what_the_new_ones_migration_has_made(
    run_worker, tmp_path, later_migration
):
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "cq", tmp_path / "old" / "cq", ignore=ignored)
    with (tmp_path / "old" / "cq" / "__init__.py").open("a") as file:
        file.write('\n__version__ = "old"\n')
    # Where it begins counts more than the path.
    elsewhere = {"PYTHONPATH": f"{tmp_path / 'old'}:{ROOT}", "cwd": tmp_path / "old"}
    old = run_worker("--processes", "2", cq={"LEASE": 30, "POLL_INTERVAL": 1}, **elsewhere).ready(2)
    for _ in range(3):
        fault_tasks.mixed.delay()
    until(lambda: Task.objects.filter(status="SUCCESS").count() > 10, what=run_worker.log)

    later_migration()
    for _ in range(3):
        fault_tasks.mixed.delay()
    modules = ["tests.fault_tasks", "tests.control_tasks"]
    new = run_worker(cq={"LEASE": 30, "POLL_INTERVAL": 1, "TASK_MODULES": modules}).ready()
    until(lambda: Worker.objects.count() == 2)
    assert Worker.objects.filter(version="old").count() == 1
    for _ in range(3):
        fault_tasks.mixed.delay()
    only_new = control_tasks.limited.delay(str(tmp_path), "known to new ones", 0)
    keyed = fault_tasks.leaf.delay_many([()] * 10, key="k", limit=1)
    all_done(but=run_worker.log)

    mixed = Task.objects.exclude(pk__in=[only_new.pk, *(task.pk for task in keyed)])
    assert statuses(mixed) == sum([MIXED] * 9, Counter())
    assert {Task.objects.get(pk=task.pk).status for task in [only_new, *keyed]} == {"SUCCESS"}
    workers = Counter(Task.objects.exclude(worker="").values_list("worker", flat=True))
    assert len(workers) == 3, "all of their processes took part"
    assert "ERROR" not in old.log + new.log
    assert "unavailable" not in old.log + new.log
    old.stop_in_order()
    new.stop_in_order()
    check_invariants()
