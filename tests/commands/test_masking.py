"""What `CQ["SENSITIVE_KEYS"]` names is masked wherever a command shows it."""

import json

import pytest

from cq.models import Task
from cq.terminal.masking import MASK, masked, read
from cq.testing import drain
from tests import tasks
from tests.commands import samples

SECRET = "hunter2"


@pytest.mark.parametrize(
    "value",
    [
        {"password": SECRET},
        {"Password": SECRET},
        {"API-Key": SECRET},
        [{"a": [{"token": [SECRET]}]}],
        {"secret": {"deep": {"er": SECRET}}},
        {"$cq": ["dict", [["password", SECRET], ["$cq", 1]]]},
        {"$cq": ["tuple", [{"cookie": SECRET}]]},
        {"$cq": ["no such word", {"password": SECRET}]},
    ],
)
def test_a_sensitive_key_is_masked_at_any_depth(value):
    shown = json.dumps(masked(value))

    assert SECRET not in shown
    assert MASK in shown


def test_other_keys_stay():
    value = {"passwords_tried": 3, "$cq": 1, "x": ["password", "token"]}

    assert masked(value) == value


def test_the_setting_says_what_is_sensitive(settings):
    settings.CQ = {"SENSITIVE_KEYS": ["pin"]}

    assert masked({"PIN": 1, "password": 2}) == {"PIN": MASK, "password": 2}


def test_what_python_refuses_to_read_is_a_sentence():
    assert read("[" * 100_000) == "<unreadable: RecursionError>"
    assert read("9" * 5000) == "9" * 5000


@pytest.mark.django_db
@pytest.mark.parametrize(
    "command", [("cq_list",), ("cq_list", "--json"), ("cq_show",), ("cq_show", "--json"), ("cq_status",)]
)
def test_no_command_shows_a_secret(terminal, command):
    given = [
        tasks.echoes.delay(
            {"Token": SECRET}, password=SECRET, nested=[{"API_KEY": SECRET, "$cq": {"session": SECRET}}]
        ),
        samples.logs_in.delay("bob", SECRET),
        samples.logs_in.delay("bob", password=SECRET),
    ]
    drain()
    name, *options = command

    said = terminal(name, *([] if name == "cq_status" else [task.id for task in given]), *options, fits=False)

    assert Task.objects.filter(status=Task.Status.SUCCESS).count() == 3
    assert SECRET not in said
    assert MASK in said or name != "cq_show"
