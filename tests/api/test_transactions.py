"""What a body does with its transaction: completion commits with the work, or nothing of it does."""

from contextlib import suppress
from threading import Barrier

import pytest
from django.contrib.auth.models import Group, Permission, User
from django.contrib.contenttypes.models import ContentType
from django.db import DatabaseError, IntegrityError, connection, transaction
from psycopg import IsolationLevel
from psycopg.pq import TransactionStatus

from cq import database, executor, task
from cq.models import Task
from cq.testing import drain
from tests.api.run import ended, ended_in_time, states
from tests.rows import make
from tests.rows.elsewhere import elsewhere, together
from tests.tasks import adds, writes_and_raises, writes_group

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def fresh_connection(transactional_db):
    """Let no test suffer from what another has done to the connection."""
    yield
    database.mend()


def execute(sql, parameters=None):
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetchall() if cursor.description else None


def written():
    return sorted(Group.objects.values_list("name", flat=True))


def next_task_is_fine():
    """Whatever a body did, the next one finds a connection as if nothing had been."""
    after = ended(writes_group.delay("next"))
    found = ended(tells_its_connection.delay())
    assert after.status == "SUCCESS"
    assert (found.status, found.result) == ("SUCCESS", [True, "read committed", "0", "off"])
    assert not connection.in_atomic_block
    with elsewhere() as other:
        assert other(states, after, found) == ["SUCCESS", "SUCCESS"]  # and it has committed
    Group.objects.filter(name="next").delete()


@task
def tells_its_transaction(cqt):
    return {
        name.removeprefix("transaction_").replace("isolation", "isolation_level"): execute(f"SHOW {name}")[0][0]
        for name in ("transaction_isolation", "transaction_deferrable", "transaction_read_only")
    }


@task
def tells_its_connection(cqt):
    return [
        connection.in_atomic_block,
        *execute("SHOW transaction_isolation")[0],
        *execute("SHOW statement_timeout")[0],
        *execute("SHOW transaction_read_only")[0],
    ]


def test_work_and_completion_commit_together():
    done = ended(writes_group.delay("a"))

    assert (done.status, written()) == ("SUCCESS", ["a"])


def test_a_body_that_raises_leaves_nothing():
    failed = ended(writes_and_raises.delay("a"))

    assert (failed.status, written()) == ("FAILURE", [])
    next_task_is_fine()


@task
def writes_half(cqt, how):
    Group.objects.create(name="first")
    MISUSES[how]()
    Group.objects.create(name="second")


@task
def writes_then(cqt, how):
    Group.objects.create(name="first")
    MISUSES[how]()


@task
def writes_after(cqt, how):
    MISUSES[how]()
    Group.objects.create(name="second")


def swallow(do):
    def misuse():
        with suppress(DatabaseError):
            do()

    return misuse


def insert_twice():
    Group.objects.create(name="twice")
    Group.objects.create(name="twice")


MISUSES = {
    "commit": lambda: transaction.commit(),
    "rollback": lambda: transaction.rollback(),
    "connection.commit": lambda: connection.commit(),
    "connection.rollback": lambda: connection.rollback(),
    "autocommit": lambda: transaction.set_autocommit(True),
    "autocommit off": lambda: transaction.set_autocommit(False),
    "close": lambda: connection.close(),
    "raw close": lambda: connection.connection and connection.connection.close(),
    "COMMIT": lambda: execute("COMMIT"),
    "commit in lower case": lambda: execute("  commit and chain"),
    "ROLLBACK": lambda: execute("ROLLBACK"),
    "END": lambda: execute("END"),
    "ABORT": lambda: execute("ABORT"),
    "BEGIN": lambda: execute("BEGIN"),
    "COMMIT behind a comment": lambda: execute("/* hidden */ COMMIT"),
    "COMMIT behind another statement": lambda: execute("SELECT 1; COMMIT"),
    "raw commit": lambda: (connection.ensure_connection(), connection.connection.commit()),
    "raw rollback": lambda: (connection.ensure_connection(), connection.connection.rollback()),
    "raw COMMIT": lambda: (connection.ensure_connection(), connection.connection.execute("COMMIT")),
    "raw ROLLBACK": lambda: (connection.ensure_connection(), connection.connection.execute("ROLLBACK")),
    "set_rollback": lambda: transaction.set_rollback(True),
    "atomic that is never left": lambda: transaction.atomic().__enter__(),
    "swallowed error": swallow(lambda: execute("SELECT 1 / 0")),
    "swallowed duplicate": swallow(insert_twice),
    "swallowed error of a raw cursor": swallow(lambda: execute("INSERT INTO auth_group (name) VALUES (NULL)")),
    "terminated": swallow(lambda: execute("SELECT pg_terminate_backend(pg_backend_pid())")),
}
# After these, what came before has been committed: PostgreSQL cannot take it back.
COMMITS = {
    "COMMIT behind a comment",
    "COMMIT behind another statement",
    "raw commit",
    "raw COMMIT",
}


@pytest.mark.parametrize("how", MISUSES)
def test_a_body_that_misuses_its_transaction_fails_and_never_succeeds_by_halves(how):
    for func, whole in ((writes_half, ["first", "second"]), (writes_then, ["first"]), (writes_after, ["second"])):
        ended = ended_in_time(func.using(retries=0).delay(how))

        found = written()
        if func is writes_after and ended.status == "SUCCESS":  # there was nothing yet to lose
            assert found == whole, func
            assert "raw" in how or "behind" in how or how == "terminated"
        else:
            assert (ended.status, bool(ended.error)) == ("FAILURE", True), func
            assert found == [] or how in COMMITS, func
        Group.objects.all().delete()
    next_task_is_fine()


@pytest.mark.parametrize(
    "how",
    ["swallowed error", "swallowed duplicate", "set_rollback", "close", "raw rollback", "atomic that is never left"],
)
def test_a_broken_transaction_is_called_that(how):
    failed = ended(writes_then.delay(how))

    assert (failed.status, failed.exception) == ("FAILURE", "cq.exceptions.TransactionBroken")


@pytest.mark.parametrize("how", ["COMMIT", "ROLLBACK", "BEGIN", "END", "COMMIT behind a comment"])
def test_a_statement_that_would_end_the_transaction_is_refused_at_its_place(how):
    failed = ended(writes_then.delay(how))

    assert failed.exception == "cq.exceptions.NotAllowedHere"
    assert "@task(atomic=False)" in failed.error
    assert "in writes_then" in failed.traceback


create_savepoint = getattr(transaction, "savepoint_create", transaction.savepoint)  # renamed in Django 6.1


@task
def uses_savepoints(cqt):
    Group.objects.create(name="kept")
    try:
        with transaction.atomic():
            Group.objects.create(name="dropped")
            raise InterruptedError
    except InterruptedError:
        pass
    sid = create_savepoint()
    Group.objects.create(name="dropped too")
    transaction.savepoint_rollback(sid)
    with transaction.atomic():
        Group.objects.create(name="kept too")
    try:
        with transaction.atomic():
            insert_twice()
    except IntegrityError:
        pass


def test_savepoints_are_the_bodys_own():
    done = ended(uses_savepoints.delay())

    assert (done.status, done.error, written()) == ("SUCCESS", None, ["kept", "kept too"])


@task
def breaks_a_deferred_constraint(cqt):
    Group.objects.create(name="written")
    Permission.objects.create(codename="x", name="x", content_type_id=10**6)


def test_a_constraint_that_fails_at_the_commit_fails_the_task():
    failed = ended(breaks_a_deferred_constraint.delay())

    assert (failed.status, failed.exception, written()) == ("FAILURE", "django.db.utils.IntegrityError", [])
    assert [a.outcome for a in failed.attempts.all()] == ["error"]
    next_task_is_fine()


@task
def sets_session(cqt, statement):
    execute(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "SET statement_timeout = '77s'",
        "SET LOCAL statement_timeout = '77s'",
        "SET default_transaction_read_only = on",
    ],
)
def test_what_a_body_sets_for_its_session_does_not_stay(statement):
    done = ended(sets_session.delay(statement))

    assert done.status in ("SUCCESS", "FAILURE")
    next_task_is_fine()


@task(atomic=False)
def leaves_open(cqt, how):
    Group.objects.create(name="first")
    if how == "BEGIN":
        execute("BEGIN")
    elif how == "autocommit":
        transaction.set_autocommit(False)
    else:
        transaction.atomic().__enter__()
    Group.objects.create(name="second")


@pytest.mark.parametrize("how", ["BEGIN", "autocommit", "atomic"])
def test_a_body_that_leaves_a_transaction_open_fails(how):
    failed = ended(leaves_open.delay(how))

    assert (failed.status, failed.exception) == ("FAILURE", "cq.exceptions.TransactionBroken")
    assert written() == ["first"]
    Group.objects.all().delete()
    next_task_is_fine()


@task(atomic=False)
def commits_as_it_goes(cqt):
    Group.objects.create(name="first")
    with transaction.atomic():
        Group.objects.create(name="second")
    raise ValueError


def test_a_body_that_is_not_atomic_keeps_what_it_wrote():
    failed = ended(commits_as_it_goes.delay())

    assert (failed.status, written()) == ("FAILURE", ["first", "second"])


# Hooks

said: list[str] = []


@pytest.fixture(autouse=True)
def nothing_said():
    said.clear()


@task(retries=1, backoff=0)
def has_hooks(cqt, how="succeeds"):
    if how == "writes":
        Group.objects.create(name="written")
    transaction.on_commit(lambda: said.append(f"first {how}"))
    if how == "raises":
        raise ValueError
    if how == "revoked":
        with elsewhere() as person:
            assert person(lambda: Task.objects.get(pk=cqt.id).revoke())
    transaction.on_commit(lambda: said.append(cqt.row.status))


@pytest.mark.parametrize("how", ["succeeds", "writes"])
def test_hooks_of_a_body_run_once_after_its_commit(how):
    done = ended(has_hooks.delay(how))

    assert (done.status, said) == ("SUCCESS", [f"first {how}", "SUCCESS"])


def test_hooks_of_a_body_that_raises_do_not_run():
    assert ended(has_hooks.delay("raises")).status == "FAILURE"
    assert said == []


def test_hooks_of_a_body_that_was_revoked_do_not_run():
    assert ended(has_hooks.delay("revoked")).status == "REVOKED"
    assert said == []


@task(retries=3, backoff=0)
def has_a_hook_that_raises(cqt, writes):
    if writes:
        Group.objects.create(name="written")
    cqt.subtask(adds, (1,))
    transaction.on_commit(_raise)


def _raise():
    said.append("hook")
    raise ValueError("in a hook")


@pytest.mark.parametrize("writes", [True, False])
def test_a_hook_that_raises_changes_nothing_any_more(writes):
    done = ended(has_a_hook_that_raises.delay(writes))

    assert (done.status, done.attempt, done.subtasks.count()) == ("SUCCESS", 1, 1)
    assert said == ["hook"]
    assert written() == ["written"] * writes
    next_task_is_fine()


# Conflicts


@task
def conflicts(cqt, state, times):
    Group.objects.create(name=f"attempt {cqt.attempt}")
    if cqt.row.transients < times:
        execute(f"DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{state}'; END $$")
    return cqt.attempt


@pytest.mark.parametrize("state", ["40001", "40P01"])
def test_a_conflict_runs_the_body_again_without_charging_retries(state):
    done = ended_in_time(conflicts.delay(state, 3))

    assert (done.status, done.result, done.retries, done.transients) == ("SUCCESS", 4, 0, 3)
    assert written() == ["attempt 4"]
    assert [a.outcome for a in done.attempts.all()] == ["error"] * 3 + ["success"]


@pytest.mark.parametrize("state", ["40001", "40P01"])
def test_conflicts_are_run_again_up_to_five_times(state):
    assert ended_in_time(conflicts.delay(state, 5)).status == "SUCCESS"
    failed = ended_in_time(conflicts.delay(state, 6))

    assert (failed.status, failed.attempt, failed.retries, failed.transients) == ("FAILURE", 6, 0, 5)


def test_after_five_conflicts_the_next_one_is_charged():
    done = ended_in_time(conflicts.using(retries=2, backoff=0).delay("40001", 99))

    assert (done.status, done.attempt, done.retries, done.transients) == ("FAILURE", 8, 2, 5)


def test_other_database_errors_are_failures():
    failed = ended(conflicts.delay("22012", 1))

    assert (failed.status, failed.attempt, failed.transients) == ("FAILURE", 1, 0)


@task(atomic=False)
def conflicts_plainly(cqt):
    if cqt.attempt == 1:
        execute("DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '40001'; END $$")


def test_a_conflict_in_a_body_that_is_not_atomic_is_run_again_too():
    done = ended_in_time(conflicts_plainly.delay())

    assert (done.status, done.transients) == ("SUCCESS", 1)


MEETING = Barrier(2)


@task
def locks_two(cqt, first, second):
    User.objects.select_for_update().get(username=first)
    if cqt.attempt == 1:
        MEETING.wait(10)
    User.objects.select_for_update().get(username=second)
    Group.objects.create(name=f"{first}{second}")


def test_a_deadlock_of_two_bodies_ends_in_two_successes():
    User.objects.bulk_create([User(username=name) for name in "ab"])
    execute("ALTER ROLE CURRENT_USER SET deadlock_timeout = '50ms'")
    try:
        made = [locks_two.delay("a", "b"), locks_two.delay("b", "a")]

        together(lambda: drain(1), lambda: drain(1))
        for one in made:
            ended_in_time(one)
    finally:
        execute("ALTER ROLE CURRENT_USER RESET deadlock_timeout")

    assert states(*made) == ["SUCCESS"] * 2
    assert written() == ["ab", "ba"]
    assert sorted(Task.objects.values_list("transients", "retries")) == [(0, 0), (1, 0)]


@task
def loses_its_connection(cqt):
    Group.objects.create(name=f"attempt {cqt.attempt}")
    if cqt.attempt == 1:
        execute("SELECT pg_terminate_backend(pg_backend_pid())")


def test_a_body_whose_connection_is_cut_is_run_again():
    done = ended_in_time(loses_its_connection.delay())

    assert (done.status, done.transients, done.retries, written()) == ("SUCCESS", 1, 0, ["attempt 2"])
    assert [a.outcome for a in done.attempts.all()] == ["interrupted", "success"]


@pytest.mark.parametrize(
    ("func", "args"), [(loses_its_connection, ()), (conflicts, ("40001", 1)), (conflicts, ("57P01", 1))]
)
def test_what_may_start_only_once_is_not_run_again_for_the_databases_sake(func, args):
    failed = ended(func.using(on_lost="fail").delay(*args))

    assert (failed.status, failed.attempt, failed.transients, written()) == ("FAILURE", 1, 0, [])


@task
def reads_content_types(cqt):
    return ContentType.objects.count() >= 0


def test_a_body_without_writes_is_fine_too():
    assert ended(reads_content_types.delay()).result is True


def first_of_two_statements():
    execute("INSERT INTO auth_group (name) VALUES ('a'); SELECT 1")
    return len(written())


def first_of_many():
    with connection.cursor() as cursor:
        cursor.executemany("INSERT INTO auth_group (name) VALUES (%s)", [["a"], ["b"], ["c"]])
        return cursor.rowcount


def first_of_an_iterator():
    return [group.name for group in Group.objects.order_by("name").iterator(chunk_size=2)]


def first_of_a_savepoint():
    with suppress(IntegrityError), transaction.atomic():
        Group.objects.create(name="there")
    with transaction.atomic():
        Group.objects.create(name="b")
    return written()


def first_has_a_result():
    return [list(row) for row in execute("SELECT %s::int, 'x;y'", [7])]


def first_has_another_before_it():
    """As packages do that set something for the triggers of one statement."""

    def sets(execute, sql, params, many, context):
        return execute("SELECT set_config('bench.sets', 'x', true); " + sql, params, many, context)

    with connection.execute_wrapper(sets):
        Group.objects.filter(name="there").update(name="set")
    return execute("SELECT current_setting('bench.sets')")[0][0]


def first_says_how_many():
    return Group.objects.update(name="renamed")


FIRST = {
    first_of_two_statements: 2,
    first_of_many: 3,
    first_of_an_iterator: ["there"],
    first_of_a_savepoint: ["b", "there"],
    first_has_a_result: [[7, "x;y"]],
    first_has_another_before_it: "x",
    first_says_how_many: 1,
}


@task
def begins_with(cqt, name):
    return next(first for first in FIRST if first.__name__ == name)()


@pytest.mark.parametrize("first", FIRST)
def test_a_bodys_first_statement_may_be_of_any_kind(first):
    """It is sent together with the mark of its transaction, where it can be."""
    Group.objects.create(name="there")

    done = ended(begins_with.delay(first.__name__))

    assert (done.status, done.error, done.result) == ("SUCCESS", None, FIRST[first])
    next_task_is_fine()


@task
def fails_at_first(cqt):
    with suppress(IntegrityError):
        Group.objects.create(name="there")


@pytest.mark.parametrize("catches", [True, False])
def test_an_error_in_the_first_statement_is_what_it_would_be_elsewhere(catches):
    Group.objects.create(name="there")

    failed = ended(fails_at_first.delay() if catches else writes_group.delay("there"))

    expected = "cq.exceptions.TransactionBroken" if catches else "django.db.utils.IntegrityError"
    assert (failed.status, failed.exception) == ("FAILURE", expected)
    next_task_is_fine()


def test_a_body_that_writes_takes_no_more_round_trips_than_a_transaction(monkeypatch):
    """One for the begin and the mark, one for its statement, one for the completion and the commit."""
    trips, commits = [], []
    commit = connection._commit

    def counted(send):
        return lambda *args, **kwargs: (trips.append(1), send(*args, **kwargs))[1]

    task = writes_group.delay("a")
    (claimed,) = make.take(make.process())
    for name in ("begin", "round_trip"):
        monkeypatch.setattr(database, name, counted(getattr(database, name)))
    monkeypatch.setattr(
        connection, "_commit", lambda: (commits.append(connection.connection.info.transaction_status), commit())
    )

    executor.execute(claimed)

    assert make.status(task) == "SUCCESS"
    assert len(trips) == 2
    assert commits == [TransactionStatus.IDLE], "Django finds nothing left to commit"


@pytest.mark.parametrize(
    ("attribute", "value", "session"),
    [
        ("isolation_level", IsolationLevel.SERIALIZABLE, None),
        ("deferrable", True, None),
        ("deferrable", False, "SET default_transaction_deferrable = on"),
        ("read_only", False, "SET default_transaction_read_only = on"),
    ],
)
def test_a_bodys_transaction_begins_as_the_project_has_told_the_driver(attribute, value, session):
    task = tells_its_transaction.delay()
    (claimed,) = make.take(make.process())
    if session:
        execute(session)
    setattr(connection.connection, attribute, value)

    executor.execute(claimed)

    task.refresh_from_db()
    told = {"isolation_level": "read committed", "deferrable": "off", "read_only": "off"}
    wanted = {IsolationLevel.SERIALIZABLE: "serializable", True: "on", False: "off"}[value]
    assert (task.status, task.result) == ("SUCCESS", told | {attribute: wanted})


def test_a_body_that_only_reads_fails_where_it_may_only_read():
    tells_its_transaction.delay()
    (claimed,) = make.take(make.process())
    connection.connection.read_only = True

    executed = executor.execute(claimed)

    assert "read-only transaction" in executed.outcome.error


@pytest.fixture
def refuses_at_commit(transactional_db):
    """Let a project's own check at the commit fail with the kind of error that a fence has."""
    execute("""
        CREATE FUNCTION refuses_at_commit() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RETURN jsonb_build_object(NEW.name::int, 1); END $$;
        CREATE CONSTRAINT TRIGGER refuses_at_commit AFTER INSERT ON auth_group DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION refuses_at_commit()
    """)
    yield
    execute("DROP FUNCTION refuses_at_commit CASCADE")


def test_a_projects_own_error_at_the_commit_is_the_bodys_failure(refuses_at_commit):
    failed = ended(writes_group.delay("no number"))

    assert (failed.status, failed.exception, written()) == ("FAILURE", "django.db.utils.DataError", [])
    assert "no number" in failed.error
    Group.objects.all().delete()
