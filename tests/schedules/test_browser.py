"""The form of a repeating task in a real browser: what is typed is explained at once, and what is wrong stands beside its field."""

import os
from pathlib import Path

import pytest

from cq.models import RepeatingTask, Task
from tests.browser import Browser, browser
from tests.processes import until
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
    until(
        lambda: text in page.text("#cq-preview"),
        10,
        what=lambda: f"{text!r} in {page.text('#cq-preview')!r}, {page.errors()}",
    )


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
    assert "out of range" in page.text("#id_crontab_error")
    assert "not a registered task" in page.text("#id_task_error")
    page.save_picture(page.folder / "errors.png")
    fill(page, crontab="0 3 * * *", task="tests.tasks.adds", args="[1, 2, 3]")
    page.click(SAVE)
    assert "too many positional arguments" in page.text("#id_args_error")
    assert not RepeatingTask.objects.exists()
    fill(page, args="[1]")
    page.click(SAVE)

    assert "nightly" in page.text("ul.messagelist")
    row = RepeatingTask.objects.get()
    assert (row.crontab, row.args, row.timezone) == ("0 3 * * *", (1,), "Europe/Berlin")
    page.click("input.action-select")
    page.click("select[name=action] option[value=run_now]")
    page.click("button[name=index]")
    assert "Run now: task" in page.text("ul.messagelist")
    page.save_picture(page.folder / "list.png")
    page.open(f"{live_server.url}/admin/cq/task/{Task.objects.get().pk}/change/")
    assert "tests.tasks.adds(1)" in page.text("#content")
    page.save_picture(page.folder / "task.png")
    assert page.errors() == []
