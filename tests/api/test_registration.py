"""Which functions are tasks: those of the modules that are imported at start-up, and nothing else."""

import sys

import pytest
from django.core.exceptions import ImproperlyConfigured

from cq import apps, registry
from cq.models import Task
from cq.testing import drain


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Give a function that makes a package with these modules, importable for this test."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(name, **modules):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "__init__.py").touch()
        for module, source in modules.items():
            (folder / f"{module}.py").write_text(source)
        return name

    yield make
    for name in [name for name in sys.modules if name.startswith("made_here")]:
        del sys.modules[name]
    for name in [name for name in registry._functions if name.startswith("made_here")]:
        del registry._functions[name]


ONE_TASK = "from cq import task\n@task\ndef one(cqt): pass\n"


def test_the_tasks_of_a_module_are_registered_by_their_dotted_names(package):
    apps.import_if_there(f"{package('made_here', tasks=ONE_TASK)}.tasks")

    assert registry.get("made_here.tasks.one").name == "made_here.tasks.one"
    assert "made_here.tasks.one" in registry.names()


def test_an_app_without_such_a_module_is_fine(package):
    apps.import_if_there(f"{package('made_here_empty')}.tasks")


@pytest.mark.parametrize(
    "source", ["1 / 0", "import there_is_no_such_module", "from cq import nonsense", "def broken(:", "raise ValueError"]
)
def test_a_module_that_raises_is_named(package, source):
    name = f"{package('made_here_broken', handlers=source)}.handlers"

    with pytest.raises(ImproperlyConfigured, match=r"made_here_broken\.handlers could not be imported: \w+"):
        apps.import_if_there(name)


def test_an_invalid_task_in_a_module_is_an_error_that_names_both(package):
    package("made_here_invalid", tasks="from cq import task\n@task\ndef one(): pass\n")

    with pytest.raises(
        ImproperlyConfigured, match=r"made_here_invalid\.tasks .*InvalidOption: one takes no positional"
    ):
        apps.import_if_there("made_here_invalid.tasks")


def test_two_tasks_of_one_name_are_an_error_that_names_both_places(package):
    package("made_here_twice", tasks=ONE_TASK, handlers=ONE_TASK.replace("@task", "@task('made_here_twice.tasks.one')"))
    apps.import_if_there("made_here_twice.tasks")

    with pytest.raises(
        ImproperlyConfigured, match=r"made_here_twice\.handlers .*DuplicateTaskName.*tasks\.one, line 2"
    ):
        apps.import_if_there("made_here_twice.handlers")


def test_a_module_that_is_imported_anew_registers_the_same_tasks(package):
    apps.import_if_there(f"{package('made_here_again', tasks=ONE_TASK)}.tasks")
    del sys.modules["made_here_again.tasks"]

    apps.import_if_there("made_here_again.tasks")

    assert registry.names().count("made_here_again.tasks.one") == 1


@pytest.mark.django_db
@pytest.mark.parametrize("name", ["os.system", "builtins.eval", "made_here_canary.tasks.one", "tests.tasks"])
def test_a_row_with_another_name_imports_and_runs_nothing(package, name):
    package("made_here_canary", tasks="raise SystemExit('imported')")
    made = Task.objects.create(name=name, args=("echo",), status="QUEUED")

    assert drain() == 0

    made.refresh_from_db()
    assert made.status == "QUEUED"
    assert "made_here_canary.tasks" not in sys.modules
