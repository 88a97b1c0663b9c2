"""The form of a repeating task in a real browser: what is typed is explained at once, and what is wrong stands beside its field."""

import os
from pathlib import Path

import pytest

from cq.models import RepeatingTask, Task
from tests.browser import Browser, browser
from tests.schedules import tasks  # noqa: F401

__all__ = ["browser"]

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.django_db(transaction=True)]

SAVE = "input[name=_save]"


@pytest.fixture
def page(browser: Browser, live_server, admin_user, tmp_path) -> Browser:
    """Log in, and open the form."""
    browser.folder = Path(os.environ.get("TEST_PICTURES", tmp_path))
    browser.open(f"{live_server.url}/admin/login/?next=/admin/cq/repeatingtask/add/")
    browser.type("#id_username", "admin")
    browser.type("#id_password", "password")
    browser.click("input[type=submit]")
    browser.find("#id_crontab")
    return browser


def shown(page: Browser, text: str) -> None:
    page.reads("#cq-preview", text)


def fill(page: Browser, **fields: str) -> None:
    for name, text in fields.items():
        page.type(f"#id_{name}", text)


def test_the_form_explains_refuses_and_saves(page, live_server):
    fill(page, name="nightly", crontab="0 3 * * mon-fri", timezone="Europe/Berlin")
    shown(page, "at 03:00 on Monday to Friday")
    assert page.text("#cq-preview").count("UTC)") == 5
    page.save_picture(page.folder / "words.png")
    fill(page, crontab="99 * * * *")
    shown(page, "out of range")
    fill(page, crontab="<img src=x onerror=alert(1)>")
    shown(page, "<img src=x onerror=alert(1)>")
    assert page.run("return document.querySelectorAll('#cq-preview img').length") == 0
    fill(page, crontab="59/15 * * * *")
    shown(page, "59 alone")

    fill(page, crontab="99 * * * *", task="os.system")
    page.click(SAVE)
    page.reads("#id_crontab_error", "out of range")
    page.reads("#id_task_error", "not a registered task")
    page.save_picture(page.folder / "errors.png")
    fill(page, crontab="0 3 * * *", task="tests.tasks.adds", args="[1, 2, 3]")
    page.click(SAVE)
    page.reads("#id_args_error", "too many positional arguments")
    assert not RepeatingTask.objects.exists()
    fill(page, args="[1]")
    page.click(SAVE)

    page.reads("ul.messagelist", "nightly")
    row = RepeatingTask.objects.get()
    assert (row.crontab, row.args, row.timezone) == ("0 3 * * *", (1,), "Europe/Berlin")
    page.click("input.action-select")
    page.click("select[name=action] option[value=run_now]")
    page.click("button[name=index]")
    page.reads("ul.messagelist", "Run now: task")
    page.save_picture(page.folder / "list.png")
    page.open(f"{live_server.url}/admin/cq/task/{Task.objects.get().pk}/change/")
    page.reads("#content", "tests.tasks.adds(1)")
    page.save_picture(page.folder / "task.png")
    assert page.errors() == []
