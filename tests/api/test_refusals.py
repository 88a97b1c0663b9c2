"""What cannot be is refused at the call, with the option, the value and what is allowed; and no row is made."""

import math
from datetime import datetime, timedelta

import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.core.exceptions import ImproperlyConfigured

import cq
from cq import enqueue, exceptions, get_task, task
from cq.exceptions import (
    DuplicateTaskName,
    InvalidArguments,
    InvalidOption,
    NotSerializable,
    TaskFinished,
    TaskNotRegistered,
    TooLarge,
)
from cq.models import Task
from tests import tasks
from tests.models import Keyed
from tests.naming import shown
from tests.tasks import adds, echoes

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def no_row():
    yield
    assert not Task.objects.exists()


CLASSES = {
    "InvalidArguments": TypeError,
    "NotSerializable": TypeError,
    "TooLarge": ValueError,
    "InvalidOption": ValueError,
    "DuplicateTaskName": ImproperlyConfigured,
    "TaskNotRegistered": LookupError,
    "UniqueConflict": ValueError,
    "TaskGone": LookupError,
    "TaskFinished": RuntimeError,
    "DuplicateSubmitError": RuntimeError,
    "NotAllowedHere": RuntimeError,
    "WaitTimeout": TimeoutError,
    "TaskTimeout": TimeoutError,
    "EventTimeout": TimeoutError,
    "TaskFailed": Exception,
}


@pytest.mark.parametrize("name", CLASSES)
def test_each_error_is_cqs_and_pythons_at_once(name):
    error = getattr(exceptions, name)

    assert error is getattr(cq, name)
    assert issubclass(error, CLASSES[name])
    assert issubclass(error, exceptions.CQError)
    assert str(error()) == error.__doc__.strip()


def test_what_cq_does_not_have_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = cq.nonsense


class Unspeakable:
    """Raises whatever it is asked for."""

    def __repr__(self):
        raise RuntimeError("no words")

    __str__ = __repr__


def nested(levels):
    value = []
    for _ in range(levels):
        value = [value]
    return value


CALLS = [
    ((), {}),
    ((1, 2, 3), {}),
    ((1,), {"c": 3}),
    ((1,), {"a": 1}),
    ((1,), {"cqt": 1}),
]


@pytest.mark.parametrize(("args", "kwargs"), CALLS)
def test_a_call_that_does_not_fit_shows_the_signature_and_what_was_given(args, kwargs):
    for refused in (
        lambda: adds.delay(*args, **kwargs),
        lambda: adds.delay_args(args, kwargs),
        lambda: enqueue(adds.name, *args, **kwargs),
        lambda: adds.using(queue="x").delay(*args, **kwargs),
    ):
        with pytest.raises(InvalidArguments, match=r"^tests\.tasks\.adds\(a, b=0\): .+; given were ") as error:
            refused()
        assert isinstance(error.value, TypeError)


def test_arguments_as_data_are_checked_as_data():
    with pytest.raises(InvalidArguments, match=r"kwargs=\[1\]: expected a dict"):
        adds.delay_args((1,), [1])
    with pytest.raises(InvalidArguments):
        adds.delay_args((1,), {1: 2})


@pytest.mark.parametrize(
    "value",
    [object(), math.nan, 1e400, "a\0b", {1: 2}, lambda: 1, "\ud800", (x for x in ()), Unspeakable(), nested(5000)],
    ids=["object", "NaN", "1e400", "NUL", "int key", "function", "surrogate", "generator", "unspeakable", "deep"],
)
def test_arguments_that_cannot_be_stored_say_where_they_are(value):
    with pytest.raises(NotSerializable, match=r"args\[1\]|args"):
        echoes.delay(1, value)
    with pytest.raises(NotSerializable, match="kwargs"):
        echoes.delay(x=value)


def test_arguments_of_ten_megabytes_are_too_large():
    for refused in (lambda: echoes.delay("x" * 10_000_000), lambda: echoes.delay(x=[0] * 5_000_000)):
        with pytest.raises(TooLarge, match=r"262,?144"):
            refused()


def test_a_reference_that_is_too_long_to_be_stored_is_refused():
    """A key of text may be of any length; the column that names the instance is not."""
    keyed = Keyed(key="k" * 300)

    for option in ("created_by", "subject"):
        with pytest.raises(InvalidOption, match=rf"{option}=.*together take 312 characters; 200 can be stored"):
            adds.using(**{option: keyed})
    assert adds.using(subject=Keyed(key="k" * 188)).options["subject"] == f"tests.keyed:{'k' * 188}"


def test_a_queryset_is_refused_with_a_hint():
    with pytest.raises(NotSerializable, match=r"(?i)queryset.*list|pk"):
        echoes.delay(User.objects.all())


def test_an_unsaved_instance_is_refused():
    with pytest.raises(NotSerializable, match="unsaved"):
        echoes.delay(User(username="x"))


def test_arguments_beyond_the_limit_are_too_large(settings):
    settings.CQ = {"MAX_ARGS_SIZE": 100}

    with pytest.raises(TooLarge, match="100"):
        echoes.delay("x" * 101)
    with pytest.raises(TooLarge, match=r'kwargs\["y"\]'):
        echoes.delay("x" * 60, y="y" * 60)


OPTIONS = {
    "queue": (["", "a b", "x" * 65, "ä", 5, None, "a/b"], r"queue=.*1 to 64 letters"),
    "priority": ([101, -101, 1.5, "5", None, True, math.nan], r"priority=.*whole number from -100 to 100"),
    "run_after": (
        [datetime(2026, 1, 1), "5", True, math.nan, math.inf, 1e12, timedelta.max, [1]],
        r"run_after=.*(time zone|seconds|expected)",
    ),
    "retries": ([-1, 1.5, "3", None, True, 1001], r"retries=.*whole number from 0"),
    "backoff": (["often", -1, [], None, True, [1, -1], math.nan, lambda a, e: 1], r"backoff=.*expected"),
    "created_by": (["ann", 5, User(username="x"), User, AnonymousUser()], r"created_by=.*saved model instance"),
    "subject": (["ann", 5, User(username="x")], r"subject=.*saved model instance"),
    "submit": ([1, "no", None], r"submit=.*True or False"),
    "timeout": ([0, -1, "5", True, math.nan, math.inf, timedelta(0), timedelta(days=367), [1]], r"timeout=.*above 0"),
    "result_ttl": ([-1, "5", True, math.nan, math.inf, timedelta(seconds=-1), 1e12, ...], r"result_ttl=.*from 0"),
    "expires": ([0, -1, "5", True, math.nan, math.inf, timedelta(0), timedelta.max], r"expires=.*above 0"),
    "unique_key": (
        ["", "x" * 201, "a\nb", "a\0b", 5, None, True, b"k", lambda *a: "k"],
        r"unique_key=.*(printable|a text)",
    ),
    "key": (["", "x" * 201, "a\nb", 5, None, True, lambda *a: "k"], r"key=.*(printable characters|a text)"),
    "limit": ([0, -1, 1.5, "3", True, 1_000_001, math.nan], r"limit=.*whole number from 1"),
    "rate": ([0, 5, "5", "0/m", "-1/m", "5/y", "5/ m", "1.5/s", "5/m ", b"5/m", True, "99999999/s"], r'rate=.*"10/m"'),
    "on_lost": (["ignore", "", None, True, 1], r"on_lost=.*'retry' or 'fail'"),
    "replace": (
        [(), [], "args", ("queue",), ("args", "queue"), None, True, {"args"}, ("args", 5)],
        r"replace=.*'args', 'run_after'",
    ),
}


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [(name, value, message) for name, (values, message) in OPTIONS.items() for value in values],
    ids=shown,
)
def test_a_value_that_is_not_allowed_is_named_with_what_is(option, value, message):
    for refused in (
        lambda: adds.using(**{option: value}),
        lambda: adds.delay_args((1,), **{option: value}),
        lambda: adds.delay_many([(1,)], **{option: value}),
    ):
        with pytest.raises(InvalidOption, match=message):
            refused()


@pytest.mark.parametrize("option", ["name", "takes_task", "atomic", "retry_exceptions", "unique"])
def test_what_is_code_belongs_to_the_decorator(option):
    with pytest.raises(InvalidOption, match=rf"{option}= belongs to the decorator"):
        adds.using(**{option: None})


@pytest.mark.parametrize("option", ["prioriti", "eta", "countdown", "args", "force_chain", "pass_result"])
def test_an_option_that_there_is_not_is_refused_with_those_that_there_are(option):
    for refused in (lambda: adds.using(**{option: 1}), lambda: adds.delay_many([(1,)], **{option: 1})):
        with pytest.raises(InvalidOption, match=rf"{option}= is not an option here; there are .*priority.*queue"):
            refused()


def test_a_queue_that_is_not_in_the_setting_is_refused_with_those_that_are(settings):
    settings.CQ = {"QUEUES": {"mail": {}, "bulk": {}}}

    for refused in (lambda: adds.delay(1), lambda: adds.using(queue="malk"), lambda: tasks.spawns.delay(1)):
        with pytest.raises(InvalidOption, match=r"is not in CQ\['QUEUES'\], which has \['bulk', 'mail'\]"):
            refused()


def test_a_route_to_a_queue_that_is_not_in_the_setting_is_refused(settings):
    settings.CQ = {"QUEUES": {"default": {}}, "ROUTES": {"tests.*": "gone"}}

    with pytest.raises(InvalidOption, match="'gone'"):
        adds.delay(1)


@pytest.mark.parametrize("name", ["nobody.knows", "", None, 5, [], "os.system", "tests.tasks"])
def test_a_name_that_is_not_registered_says_where_was_looked(name):
    for refused in (lambda: enqueue(name, 1), lambda: get_task(name)):
        with pytest.raises(TaskNotRegistered, match=r"not registered. Is its module imported\?.*tasks\.py"):
            refused()


@pytest.mark.parametrize("other", [len, lambda: 1, object(), None, 5, tasks, Task])
def test_what_is_not_a_task_function_cannot_be_chained(other):
    stranger = Task(id=User().pk or None)

    with pytest.raises(TaskNotRegistered, match=r"is not a task|not registered"):
        stranger.chain(other)


def test_subtasks_are_not_made_from_outside():
    with pytest.raises(RuntimeError, match=r"cqt\.subtask") as error:
        Task().subtask(adds, (1,))

    assert isinstance(error.value, (TaskFinished, exceptions.NotAllowedHere))


# Decoration


def at_top(**namespace):
    """Return a function as it would be at the top level of a module."""

    def function(cqt, *args):
        return args

    function.__qualname__ = function.__name__ = namespace.get("name", "at_top_level")
    return function


async def coroutine_key(*args):
    return "k"


DECORATED = {
    "takes_task": ([1, None, "yes"], r"takes_task=.*True or False"),
    "atomic": ([1, "yes"], r"atomic=.*True or False"),
    "queue": (["a b", 5, None], r"queue="),
    "priority": ([101, "5", None], r"priority="),
    "retries": ([-1, None, "3"], r"retries="),
    "retry_exceptions": (["ValueError", [5], int, lambda: True], r"retry_exceptions"),
    "backoff": (["often", -1, [], None, lambda: 1], r"backoff="),
    "timeout": ([0, "5", True, math.nan], r"timeout=.*above 0"),
    "result_ttl": ([-1, "5", True, math.inf], r"result_ttl=.*from 0"),
    "expires": ([0, "5", True, timedelta.max], r"expires=.*above 0"),
    "unique": (["arguments", "", 5, True, int, coroutine_key], r"unique=.*\"?'args'"),
    "key": (["text", 5, True, int, coroutine_key], r"key=.*function of the arguments"),
    "limit": ([0, 1.5, "3", True], r"limit=.*whole number from 1"),
    "rate": ([5, "5", "0/m", "5/y"], r'rate=.*"10/m"'),
    "on_lost": (["ignore", None, True], r"on_lost=.*'retry' or 'fail'"),
}


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [(name, value, message) for name, (values, message) in DECORATED.items() for value in values],
    ids=shown,
)
def test_an_option_of_the_decorator_is_checked_there(option, value, message):
    with pytest.raises(InvalidOption, match=message):
        task(**{option: value})(at_top())


def test_an_unknown_option_of_the_decorator_is_refused_with_those_that_there_are():
    with pytest.raises(InvalidOption, match=r"max_retries= is not an option of @task; there are name, queue"):
        task(max_retries=3)(at_top())


@pytest.mark.parametrize("name", ["", "x" * 201, "a\nb"])
def test_a_name_has_1_to_200_printable_characters(name):
    for refused in (lambda: task(name)(at_top()), lambda: task(name=name)(at_top())):
        with pytest.raises(InvalidOption, match="1 to 200 printable characters"):
            refused()


class Klass:
    def method(self):
        pass

    @classmethod
    def class_method(cls):
        pass

    @staticmethod
    def static_method():
        pass


def generator(cqt):
    yield 1


async def async_generator(cqt):
    yield 1


async def coroutine(cqt):
    pass


def no_parameter():
    pass


def only_keywords(*, a):
    pass


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda cqt: 1, "lambda"),
        (Klass.method, "method"),
        (Klass().method, "top level"),
        (Klass.class_method, "top level"),
        (Klass.static_method, "method"),
        (Klass, "top level"),
        (len, "top level"),
        (generator, "generator"),
        (async_generator, "generator"),
        (no_parameter, r"takes no positional parameter.*takes_task=False"),
        (only_keywords, "takes no positional parameter"),
        (5, "cannot be a task"),
        (adds, "task function already"),
    ],
)
def test_what_cannot_be_a_task_is_refused_with_the_way_out(function, message):
    with pytest.raises(InvalidOption, match=message):
        task(function)
    with pytest.raises(InvalidOption, match=message):
        task(queue="x")(function)


def test_a_nested_function_cannot_be_a_task():
    with pytest.raises(InvalidOption, match="inside a function"):

        @task
        def nested(cqt):
            pass


def test_an_atomic_coroutine_is_refused_with_the_reason():
    with pytest.raises(InvalidOption, match=r"atomic=True.*transactions do not work in async code"):
        task(atomic=True)(coroutine)


def test_two_functions_of_one_name_are_refused_with_both_places():
    with pytest.raises(DuplicateTaskName, match=r"'tests\.tasks\.adds'.*tests\.tasks\.adds, line \d+ and .*Give one"):
        task("tests.tasks.adds")(at_top())


def test_the_same_function_may_be_registered_again():
    function = at_top(name="again")

    assert task("tests.again")(function).name == task("tests.again")(function).name


# Keys that functions make of the arguments


def gives(value, *more):
    return value


def breaks(value, *more):
    raise LookupError(value)


@task("refusals.keyed", key=gives)
def is_keyed(cqt, value):
    pass


@task("refusals.unique", unique=gives)
def is_unique(cqt, value):
    pass


@task("refusals.breaks", key=breaks)
def breaks_by_key(cqt, value):
    pass


@task("refusals.breaks_unique", unique=breaks)
def breaks_by_unique(cqt, value):
    pass


@pytest.mark.parametrize("value", [None, 5, "", "x" * 201, "a\nb", ["k"], True], ids=shown)
@pytest.mark.parametrize(("function", "option"), [(is_keyed, "key"), (is_unique, "unique")])
def test_a_function_that_gives_no_text_is_refused_at_the_call(function, option, value):
    for refused in (
        lambda: function.delay(value),
        lambda: function.delay_many([("fine",), (value,)]),
        lambda: enqueue(function.name, value),
    ):
        with pytest.raises(InvalidOption, match=rf"^{option}=.*: expected 1 to 200 printable characters"):
            refused()


@pytest.mark.parametrize("function", [breaks_by_key, breaks_by_unique])
def test_what_a_function_raises_comes_out_as_it_is(function):
    for refused in (lambda: function.delay("x"), lambda: function.delay_many([("x",)])):
        with pytest.raises(LookupError, match="x") as error:
            refused()
        assert type(error.value) is LookupError


@pytest.mark.parametrize("function", [is_keyed, is_unique, breaks_by_key])
def test_arguments_are_bound_before_a_function_is_asked(function):
    with pytest.raises(InvalidArguments):
        function.delay()
