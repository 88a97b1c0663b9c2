"""Repeating tasks and tasks in the admin: forms, actions, permissions, and nothing that a page would obey."""

import subprocess
import sys

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse

from cq.admin.forms import PickerInput
from cq.models import RepeatingTask, Task
from cq.states import Status
from tests.processes import environment
from tests.rows import make
from tests.schedules import tasks  # noqa: F401

pytestmark = pytest.mark.django_db

FORM = {
    "name": "nightly",
    "task": "tests.tasks.adds",
    "args": "[1]",
    "kwargs": "{}",
    "crontab": "0 3 * * *",
    "timezone": "Europe/Berlin",
    "enabled": "on",
    "overlap": "skip",
    "catch_up": "last",
}
LIST = reverse("admin:cq_repeatingtask_changelist")
ADD = reverse("admin:cq_repeatingtask_add")
PREVIEW = reverse("admin:cq_repeatingtask_preview")
TASKS = reverse("admin:cq_task_changelist")
EVIL = '"><script>alert(1)</script>'


@pytest.fixture
def nightly():
    return RepeatingTask.objects.create(name="nightly", task="tests.tasks.adds", args=(1,), crontab="0 3 * * *")


def client_of(*permissions: str) -> Client:
    """Log a member of the staff in who may do just this."""
    user = User.objects.create_user(f"u{User.objects.count()}", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions, content_type__app_label="cq"))
    client = Client()
    client.force_login(user)
    return client


def change(row: RepeatingTask | Task) -> str:
    return reverse(f"admin:cq_{row._meta.model_name}_change", args=[row.pk])


def act(client: Client, action: str, *rows: RepeatingTask | Task):
    where = LIST if isinstance(rows[0], RepeatingTask) else TASKS
    return client.post(where, {"action": action, "_selected_action": [str(row.pk) for row in rows]}, follow=True)


def test_one_is_made(admin_client):
    given = {
        "args": '[{"$cq": ["date", "2026-01-02"]}]',
        "kwargs": '{"b": 3}',
        "every": "",
        "starts_at_0": "2026-01-02",
        "starts_at_1": "03:04:05",
    }
    response = admin_client.post(ADD, FORM | given)

    assert response.status_code == 302, response.context["errors"]
    row = RepeatingTask.objects.get()
    assert (str(row.args[0]), row.kwargs, row.starts_at is not None) == ("2026-01-02", {"b": 3}, True)
    assert row.next_run is not None
    assert LogEntry.objects.get().object_repr == "nightly"


def test_values_that_json_lacks_survive_an_edit(admin_client, nightly):
    RepeatingTask.objects.update(args=((1, 2),), kwargs={"b": {1, 2}})
    page = admin_client.get(change(nightly))
    initial = page.context["adminform"].form

    shown = {name: initial[name].value() for name in ("args", "kwargs")}
    admin_client.post(
        change(nightly), FORM | {name: initial.fields[name].prepare_value(value) for name, value in shown.items()}
    )

    nightly.refresh_from_db()
    assert (nightly.args, nightly.kwargs) == (((1, 2),), {"b": {1, 2}})


@pytest.mark.parametrize(
    ("given", "field", "said"),
    [
        ({"crontab": "99 * * * *"}, "crontab", "out of range"),
        ({"crontab": "0 0 30 2 *"}, "crontab", "can never occur"),
        ({"crontab": ""}, "crontab", "either a crontab or an interval"),
        ({"task": "os.system"}, "task", "not a registered task"),
        ({"args": "[1, 2, 3]"}, "args", "too many positional arguments"),
        ({"args": "[1"}, "args", "cannot be read as JSON"),
        ({"args": '{"a": 1}'}, "args", "Expected a JSON list"),
        ({"kwargs": "[1]"}, "kwargs", "Expected a JSON object"),
        ({"args": '[{"$cq": ["os.system", "x"]}]'}, "args", "is tagged"),
        ({"timezone": "Mars/Olympus"}, "timezone", "not a time zone"),
        ({"crontab": "", "every": "soon"}, "every", "Enter a valid duration"),
        ({"queue": "a b"}, "queue", "expected 1 to 64"),
    ],
)
def test_what_is_wrong_stands_beside_its_field(admin_client, given, field, said):
    page = admin_client.post(ADD, FORM | given)

    form = page.context["adminform"].form
    assert said in " ".join(form.errors[field])
    assert f'id="id_{field}_error"' in page.content.decode()
    assert not RepeatingTask.objects.exists()


def test_tasks_and_zones_can_be_picked(admin_client):
    page = admin_client.get(ADD).content.decode()

    assert '<datalist id="task-offers">' in page
    assert '<option value="tests.tasks.adds"></option>' in page
    assert '<option value="Europe/Berlin"></option>' in page


def test_the_list_shows_what_matters(admin_client, nightly):
    make.row(Status.INCOMPLETE, schedule_id=nightly.pk)
    RepeatingTask.objects.update(skipped={"overlap": 3})

    page = admin_client.get(LIST).content.decode()

    for text in ("nightly", "at 03:00", "INCOMPLETE", "3 overlap"):
        assert text in page


def test_a_row_shows_its_next_and_its_last_runs(admin_client, nightly):
    run = nightly.run_now()

    page = admin_client.get(change(nightly)).content.decode()

    assert page.count("UTC)") == 5
    assert change(run) in page
    assert "(by hand)" in page


def test_it_runs_pauses_and_resumes(admin_client, nightly):
    page = act(admin_client, "run_now", nightly)
    run = Task.objects.get()
    assert f"“nightly”: Run now: task {run.id}." in page.content.decode()
    assert (run.schedule_id, run.created_by_ref) == (nightly.pk, f"auth.user:{User.objects.get().pk}")

    act(admin_client, "pause", nightly)
    nightly.refresh_from_db()
    assert not nightly.enabled
    act(admin_client, "resume", nightly)
    nightly.refresh_from_db()
    assert nightly.enabled

    assert list(LogEntry.objects.order_by("pk").values_list("change_message", flat=True)) == [
        f"Run now: task {run.id}",
        "Paused",
        "Resumed",
    ]


def test_what_cannot_run_here_says_why(admin_client, nightly):
    RepeatingTask.objects.update(task="nobody.knows")

    page = act(admin_client, "run_now", nightly).content.decode()

    assert "is not registered" in page
    assert not LogEntry.objects.exists()


@pytest.mark.parametrize(
    ("permissions", "may"),
    [
        ((), set()),
        (("view_repeatingtask",), {"see"}),
        (("view_repeatingtask", "run_repeatingtask"), {"see", "run_now"}),
        (("change_repeatingtask",), {"see", "pause", "edit"}),
    ],
)
def test_everybody_may_do_what_is_permitted_and_no_more(nightly, permissions, may):
    client = client_of(*permissions)

    assert (client.get(LIST).status_code == 200) == ("see" in may)
    assert (client.get(PREVIEW, {"crontab": "* * * * *", "timezone": "UTC"}).status_code == 200) == ("see" in may)
    act(client, "run_now", nightly)
    assert Task.objects.exists() == ("run_now" in may)
    act(client, "pause", nightly)
    nightly.refresh_from_db()
    assert nightly.enabled == ("pause" not in may)
    client.post(change(nightly), FORM | {"name": "renamed"})
    nightly.refresh_from_db()
    assert (nightly.name == "renamed") == ("edit" in may)


def test_what_the_code_owns_is_shown_and_not_edited(admin_client, nightly):
    RepeatingTask.objects.update(source="code")

    page = admin_client.get(change(nightly)).content.decode()
    assert "the code (@repeat): change it there" in page
    assert 'name="crontab"' not in page
    admin_client.post(change(nightly), FORM | {"crontab": "* * * * *"})
    nightly.refresh_from_db()
    assert nightly.crontab == "0 3 * * *"
    assert (
        admin_client.post(reverse("admin:cq_repeatingtask_delete", args=[nightly.pk]), {"post": "yes"}).status_code
        == 403
    )
    act(admin_client, "pause", nightly)
    nightly.refresh_from_db()
    assert not nightly.enabled


@pytest.mark.parametrize("source", ["", "code"])
def test_who_may_not_edit_it_sees_no_secrets(admin_client, nightly, source):
    RepeatingTask.objects.update(source=source, kwargs={"password": "hunter2"})
    client = admin_client if source else client_of("view_repeatingtask")

    page = client.get(change(nightly)).content.decode()

    assert "hunter2" not in page
    assert "tests.tasks.adds(1, password=&#x27;********&#x27;)" in page


def test_the_preview_says_it_in_words_with_the_next_five_runs(admin_client):
    said = admin_client.get(PREVIEW, {"crontab": "30 2 * * mon", "every": "", "timezone": "Europe/Berlin"}).json()

    assert said["words"] == "at 02:30 on Monday"
    assert len(said["runs"]) == 5
    assert set(said["runs"][0]) == {"utc", "local", "note"}
    assert admin_client.get(PREVIEW, {"every": "90", "timezone": "UTC"}).json()["words"] == "every 90 seconds"
    assert admin_client.get(PREVIEW, {"crontab": "59/15 * * * *", "timezone": "UTC"}).json()["doubts"]


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"crontab": "99 * * * *"}, "crontab"),
        ({"timezone": "Mars"}, "timezone"),
        ({"crontab": "", "every": "x"}, "every"),
        ({"crontab": ""}, "crontab"),
    ],
)
def test_the_preview_says_what_is_wrong(admin_client, given, field):
    said = admin_client.get(PREVIEW, {"crontab": "* * * * *", "timezone": "UTC"} | given).json()

    assert set(said["errors"]) == {field}


def test_the_preview_changes_nothing_and_is_only_asked(admin_client, client):
    assert admin_client.post(PREVIEW).status_code == 405
    assert client.get(PREVIEW).status_code == 302


def test_nothing_changes_without_a_token_or_by_a_link(admin_user, nightly):
    client = Client(enforce_csrf_checks=True)
    client.force_login(admin_user)

    assert act(client, "pause", nightly).status_code == 403
    client.get(LIST, {"action": "pause", "_selected_action": nightly.pk})

    nightly.refresh_from_db()
    assert nightly.enabled


def test_whatever_a_row_says_is_text(admin_client, nightly):
    run = make.row(
        Status.FAILURE,
        name=EVIL,
        args=(EVIL,),
        schedule_id=nightly.pk,
        error=EVIL,
        traceback=EVIL,
        reason=EVIL,
        queue="x",
        worker=EVIL,
        attempt=1,
        outcome="error",
    )
    make.row(Status.SUCCESS, parent_id=run.pk, name=EVIL, result=EVIL)
    make.row(Status.SKIPPED, previous_id=run.pk, name=EVIL)
    RepeatingTask.objects.update(
        name=EVIL, task=EVIL, reason=EVIL, skipped={EVIL: 1}, args=(EVIL,), crontab="0 3 * * *", queue=EVIL
    )

    pages = [LIST, change(nightly), TASKS, change(run), *map(change, run.subtasks.all())]

    for page in pages:
        assert "<script>alert" not in admin_client.get(page).content.decode(), page
    act(admin_client, "run_now", nightly)
    assert admin_client.get(PREVIEW, {"crontab": EVIL}).headers["Content-Type"] == "application/json"


def test_what_is_offered_is_text():
    assert "<script>" not in PickerInput(lambda: [EVIL]).render(EVIL, EVIL)


def test_tasks_are_read_only(admin_client):
    task = make.row(
        Status.FAILURE,
        error="broken",
        exception="builtins.ValueError",
        traceback="Traceback …",
        attempt=1,
        outcome="error",
        kwargs={"password": "hunter2"},
    )
    make.row(Status.SUCCESS, parent_id=task.pk)
    make.row(Status.SKIPPED, previous_id=task.pk)

    page = admin_client.get(change(task)).content.decode()

    for text in (
        "FAILURE",
        "broken",
        "builtins.ValueError",
        "Traceback …",
        "password=",
        "********",
        "SKIPPED",
        "error",
    ):
        assert text in page
    assert "hunter2" not in page
    assert 'name="_save"' not in page
    assert admin_client.post(change(task), {"status": "SUCCESS"}).status_code == 403
    assert admin_client.get(reverse("admin:cq_task_add")).status_code == 403
    assert admin_client.post(reverse("admin:cq_task_delete", args=[task.pk]), {"post": "yes"}).status_code == 403
    assert make.status(task) == Status.FAILURE


def test_tasks_are_found_by_status_name_queue_and_id(admin_client):
    wanted = make.row(Status.FAILURE, queue="default")
    others = [
        make.row(Status.SUCCESS),
        make.row(Status.FAILURE, name="tests.tasks.sums"),
        make.row(Status.FAILURE, queue="other"),
    ]

    def found(**query):
        return set(admin_client.get(TASKS, query).context["cl"].queryset.values_list("pk", flat=True))

    assert found(status__exact="FAILURE", name="tests.tasks.adds", queue="default") == {wanted.pk}
    assert found(q=str(wanted.pk)) == {wanted.pk}
    assert found(q="tests.tasks.su") == {others[1].pk}
    assert len(found()) == 4


def test_tasks_are_retried_and_revoked_by_who_may():
    failed, queued = make.row(Status.FAILURE), make.row(Status.QUEUED)
    viewer, mender, stopper = (
        client_of("view_task"),
        client_of("view_task", "retry_task"),
        client_of("view_task", "revoke_task"),
    )

    for client in (viewer, stopper):
        act(client, "retry", failed)
    for client in (viewer, mender):
        act(client, "revoke", queued)
    assert make.statuses(failed, queued) == [Status.FAILURE, Status.QUEUED]

    assert "Retried 1 of 1." in act(mender, "retry", failed).content.decode()
    assert "Revoked 1 of 1." in act(stopper, "revoke", queued).content.decode()
    assert make.statuses(failed, queued) == [Status.QUEUED, Status.REVOKED]
    assert list(LogEntry.objects.order_by("pk").values_list("change_message", flat=True)) == ["Retried", "Revoked"]
    assert "Revoked 0 of 1." in act(stopper, "revoke", queued).content.decode()


def test_the_admin_is_left_out_where_it_is_not_installed():
    code = "import django, sys; django.setup(); import cq.models, cq.declared; print([m for m in sys.modules if 'admin' in m])"

    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True, timeout=60
    )

    assert done.stdout.strip() == "[]"
