"""Successors: when they start, what they are passed, and what becomes of them when their predecessor does not succeed."""

import pytest

from cq import task
from cq.exceptions import InvalidArguments, InvalidOption, NotSerializable, TaskGone, TaskNotRegistered
from cq.models import Task
from cq.testing import drain
from tests import tasks
from tests.api.run import ended, states
from tests.tasks import adds, echoes, raises, returns_none, sums

pytestmark = pytest.mark.django_db


@task
def takes_one(cqt, only):
    return ["one", only]


@task
def takes_none(cqt):
    return ["none", cqt.previous.result]


@task
def takes_two(cqt, first, second):
    return [first, second]


@task
def defaults(cqt, first="default"):
    return first


@task
def takes_keyword(cqt, first, *, key=None):
    return [first, key]


# (successor, args, kwargs, pass_result) -> its result after a predecessor that returned 7
PASSING = [
    (takes_one, (), {}, None, ["one", 7]),
    (takes_one, ("own",), {}, None, ["one", "own"]),
    (takes_none, (), {}, None, ["none", 7]),
    (takes_two, (2,), {}, None, [7, 2]),
    (takes_two, (1, 2), {}, None, [1, 2]),
    (takes_two, (), {"second": 2}, None, [7, 2]),
    (defaults, (), {}, None, "default"),
    (defaults, (), {}, True, 7),
    (defaults, ("own",), {}, None, "own"),
    (echoes, (), {}, None, [[], {}]),
    (echoes, (1,), {"x": 2}, True, [[7, 1], {"x": 2}]),
    (echoes, (1,), {}, False, [[1], {}]),
    (takes_keyword, (), {"key": "k"}, None, [7, "k"]),
    (takes_one, ("own",), {}, False, ["one", "own"]),
    (takes_one, (), {}, True, ["one", 7]),
    (tasks.doubles, (), {}, None, 14),
    ("tests.tasks.doubles", (), {}, None, 14),
    ("tests.tasks.doubles", 4, None, None, 8),
]


@pytest.mark.parametrize(("successor", "args", "kwargs", "pass_result", "result"), PASSING)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_result_is_passed_if_the_call_does_not_bind_without_it(successor, args, kwargs, pass_result, result, when):
    first = adds.delay(7)
    if when == "after":
        ended(first)

    after = first.chain(successor, args, kwargs, pass_result=pass_result)

    assert ended(after).result == result


@pytest.mark.parametrize(
    ("successor", "args", "kwargs", "pass_result"),
    [
        (takes_two, (), {}, None),
        (takes_one, (1, 2), {}, None),
        (takes_one, (), {"key": 1}, None),
        (takes_one, (), {}, False),
        (takes_one, (1,), {}, True),
        (takes_none, (), {}, True),
        (takes_two, (), {"first": 1}, None),
    ],
)
def test_a_call_that_binds_neither_way_is_an_error_at_the_chain(successor, args, kwargs, pass_result):
    first = adds.delay(7)

    with pytest.raises(InvalidArguments, match=rf"{successor.__name__}.+; given were {len(args)} positional") as raised:
        first.chain(successor, args, kwargs, pass_result=pass_result)

    assert ("(besides what is passed first)" in str(raised.value)) == (pass_result is not False)
    assert Task.objects.count() == 1


@pytest.mark.parametrize("name", ["force_chain", "pass_result"])
@pytest.mark.parametrize("value", [1, "yes", "False"])
def test_force_chain_and_pass_result_are_true_or_false(name, value):
    with pytest.raises(InvalidOption, match=f"{name}={value!r}: expected True or False"):
        adds.delay(1).chain(takes_one, **{name: value})


@pytest.mark.parametrize(
    ("chain", "error"),
    [
        (lambda t: t.chain("nobody.knows"), TaskNotRegistered),
        (lambda t: t.chain(len), TaskNotRegistered),
        (lambda t: t.chain(takes_one, object()), NotSerializable),
        (lambda t: t.chain(takes_one, (), prioriti=1), InvalidOption),
        (lambda t: t.chain(takes_one, (), submit=False), InvalidOption),
        (lambda t: t.chain(takes_one, (), queue="a b"), InvalidOption),
        (lambda t: t.chain(takes_one, (), [1]), InvalidArguments),
    ],
)
def test_a_chain_that_cannot_be_leaves_no_row(chain, error):
    first = adds.delay(7)

    with pytest.raises(error):
        chain(first)

    assert Task.objects.count() == 1


def test_after_a_predecessor_without_result_it_is_none():
    assert ended(returns_none.delay().chain(takes_one)).result == ["one", None]


def test_a_chain_runs_one_after_the_other():
    last = adds.delay(1).chain(sums, (2,)).chain(sums, (3,)).chain(takes_one)

    assert ended(last).result == ["one", 6]
    assert [t.result for t in Task.objects.order_by("finished_at")] == [1, 3, 6, ["one", 6]]


def test_a_successor_knows_what_was_before_it():
    first = adds.delay(1)
    after = first.chain(takes_one, (1,))

    assert (after.previous, after.parent, after.root, after.status) == (first, None, first, "PENDING")
    assert list(first.next.all()) == [after]


def test_several_successors_of_one_all_start():
    first = adds.delay(5)
    after = [first.chain(sums, (n,)) for n in range(3)]

    drain()

    assert [ended(t).result for t in after] == [5, 6, 7]


def test_options_can_be_given_at_a_chain():
    after = adds.delay(1).chain(sums.using(queue="a", priority=1), (1,), priority=2)

    assert (after.queue, after.priority) == ("a", 2)


def test_a_successor_starts_after_the_whole_tree_of_its_predecessor():
    first = tasks.spawns.delay(3)
    after = first.chain(takes_one)

    ended(after)

    assert after.result == ["one", 3]
    assert after.started_at >= max(t.finished_at for t in first.subtasks.all())


# Ends of the predecessor


@task
def leaves_failing(cqt):
    cqt.subtask(raises)
    return "body's"


def succeeded():
    return adds.delay(7)


def failed():
    return raises.delay()


def incomplete():
    return leaves_failing.delay()


def skipped():
    return raises.delay().chain(adds, (1,))


def revoked():
    made = adds.delay(1)
    made.revoke()
    return made


def lost():
    made = adds.delay(1)
    Task.objects.filter(pk=made.pk).update(status="LOST", finished_at=made.created_at)
    return made


ENDS = [
    (succeeded, "SUCCESS", "SUCCESS", "SUCCESS", 7),
    (failed, "FAILURE", "SKIPPED", "SUCCESS", None),
    (incomplete, "INCOMPLETE", "SKIPPED", "SUCCESS", "body's"),
    (skipped, "SKIPPED", "SKIPPED", "SUCCESS", None),
    (lost, "LOST", "SKIPPED", "SUCCESS", None),
    (revoked, "REVOKED", "SKIPPED", "SKIPPED", None),
]


@pytest.mark.parametrize(("make", "end", "plain", "forced", "result"), ENDS, ids=lambda v: getattr(v, "__name__", None))
def test_chaining_onto_a_finished_task_resolves_at_once(make, end, plain, forced, result):
    first = ended(make())

    after = first.chain(takes_one)
    always = first.chain(takes_one, force_chain=True)

    assert first.status == end
    assert after.status == (plain if plain == "SKIPPED" else "QUEUED")
    assert after.is_done is (plain == "SKIPPED")
    assert (after.reason is not None) is (plain == "SKIPPED")
    drain()
    assert states(after, always) == [plain, forced]
    if forced == "SUCCESS":
        assert Task.objects.get(pk=always.pk).result == ["one", result]


@pytest.mark.parametrize(
    ("make", "end", "plain", "forced", "result"), ENDS[:4], ids=lambda v: getattr(v, "__name__", None)
)
def test_a_successor_made_before_the_end_follows_the_same_rules(make, end, plain, forced, result):
    first = make()
    after = first.chain(takes_one)
    always = first.chain(takes_one, force_chain=True)

    drain()

    assert states(first, after, always) == [end, plain, forced]
    assert Task.objects.get(pk=always.pk).result == ["one", result]


def test_a_skip_goes_down_the_chain_to_the_first_forced_one():
    first = raises.delay()
    second = first.chain(adds, (1,))
    third = second.chain(adds, (1,), force_chain=True)
    fourth = third.chain(takes_one)

    drain()

    assert states(first, second, third, fourth) == ["FAILURE", "SKIPPED", "SUCCESS", "SUCCESS"]


def test_chaining_onto_a_task_that_is_gone_says_so():
    first = adds.delay(1)
    Task.objects.all().delete()

    with pytest.raises(TaskGone, match=f"Task {first.id} is no longer stored"):
        first.chain(takes_one)

    assert not Task.objects.exists()


# Subtasks


@task
def chains_a_subtask(cqt):
    cqt.subtask(adds, (1,)).chain(sums, (2,)).chain(takes_one)


def test_a_successor_of_a_subtask_is_a_subtask_of_the_same_parent():
    parent = ended(chains_a_subtask.delay())

    assert [t.result for t in parent.subtasks.all()] == [1, 3, ["one", 3]]
    assert parent.status == "SUCCESS"
    assert {t.root for t in parent.subtasks.all()} == {parent}


@task
def chains_a_failing_subtask(cqt):
    cqt.subtask(raises).chain(adds, (1,)).chain(adds, (1,), force_chain=True)


def test_a_skipped_subtask_makes_its_parent_incomplete():
    parent = ended(chains_a_failing_subtask.delay())

    assert [t.status for t in parent.subtasks.all()] == ["FAILURE", "SKIPPED", "SUCCESS"]
    assert parent.status == "INCOMPLETE"


def test_a_parent_waits_for_what_was_chained_onto_its_subtask_from_outside():
    parent = tasks.spawns.delay(1)
    drain(max_tasks=1)
    (child,) = parent.subtasks.all()

    after = child.chain(raises)

    assert after.parent == parent
    assert ended(parent).status == "INCOMPLETE"


@task
def adds_siblings(cqt, n):
    if n:
        cqt.parent.subtask(adds_siblings, (n - 1,)).chain(adds, (n,))
    return n


@task
def has_a_growing_family(cqt):
    cqt.subtask(adds_siblings, (3,))


def test_a_subtask_may_add_siblings_and_their_parent_waits_for_all():
    parent = ended(has_a_growing_family.delay())

    assert parent.status == "SUCCESS"
    assert sorted(t.result for t in parent.subtasks.filter(name=adds_siblings.name)) == [0, 1, 2, 3]
    assert sorted(t.result for t in parent.subtasks.filter(name=adds.name)) == [1, 2, 3]
    assert set(parent.subtasks.values_list("depth", flat=True)) == {1}


@task
def has_no_parent(cqt):
    return cqt.parent is None


def test_a_root_has_no_parent():
    assert ended(has_no_parent.delay()).result is True


@task
def follows_itself(cqt, n):
    if n:
        cqt.chain(follows_itself, (n - 1,))
        cqt.subtask(adds, (n,))
    return n


def test_a_body_may_chain_onto_its_own_task():
    first = ended(follows_itself.delay(2))

    second = first.next.get()
    third = second.next.get()
    assert states(first, second, third) == ["SUCCESS"] * 3
    assert (second.parent, third.parent, third.root) == (None, None, first)


@task
def looks_around(cqt):
    return [
        cqt.previous.result,
        str(cqt.root.id),
        str(cqt.parent.id),
        cqt.parent.name,
        list(cqt.args),
        cqt.kwargs,
        cqt.idempotency_key == str(cqt.id),
        cqt.queue,
        cqt.scheduled_for,
        cqt.row.status,
        cqt.status,
    ]


@task
def has_a_look(cqt):
    return cqt.subtask(adds, (5,)).chain(looks_around)


def test_a_body_knows_its_place():
    parent = ended(has_a_look.delay())

    assert parent.result == [
        5,
        str(parent.id),
        str(parent.id),
        has_a_look.name,
        [],
        {},
        True,
        "default",
        None,
        "RUNNING",
        "RUNNING",
    ]


# What is kept in memory until the body ends


@task(retries=1, backoff=0)
def makes_and_raises_once(cqt):
    cqt.subtask(adds, (cqt.attempt,)).chain(sums, (1,))
    cqt.chain(takes_one)
    if cqt.attempt == 1:
        raise ValueError


@task(atomic=False, retries=1, backoff=0)
def makes_and_raises_once_plainly(cqt):
    cqt.subtask(adds, (cqt.attempt,)).chain(sums, (1,))
    cqt.chain(takes_one)
    if cqt.attempt == 1:
        raise ValueError


@pytest.mark.parametrize("func", [makes_and_raises_once, makes_and_raises_once_plainly])
def test_a_body_that_raises_leaves_no_subtasks_and_no_successors(func):
    parent = func.delay()
    drain(max_tasks=1)
    assert Task.objects.count() == 1

    ended(parent)

    assert parent.status == "SUCCESS"
    assert [t.result for t in parent.subtasks.all()] == [2, 3]
    assert parent.next.count() == 1


@task
def makes_many(cqt, n):
    return [t.args[0] for t in cqt.subtask_many(takes_one, [*range(n), ("tuple",)], queue="many")]


def test_subtask_many_makes_one_of_each():
    parent = ended(makes_many.delay(3))

    assert parent.result == [0, 1, 2, "tuple"]
    assert [t.args for t in parent.subtasks.all()] == [(0,), (1,), (2,), ("tuple",)]
    assert {t.queue for t in parent.subtasks.all()} == {"many"}


@task
def makes_what_cannot_be(cqt, what):
    func, args, options = {
        "name": ("nobody.knows", (), {}),
        "args": (adds, (1, 2, 3), {}),
        "value": (echoes, (object(),), {}),
        "option": (adds, (1,), {"prioriti": 1}),
        "submit": (adds, (1,), {"submit": False}),
    }[what]
    try:
        cqt.subtask(func, args, **options)
    except (LookupError, TypeError, ValueError) as error:
        return type(error).__name__


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("name", "TaskNotRegistered"),
        ("args", "InvalidArguments"),
        ("value", "NotSerializable"),
        ("option", "InvalidOption"),
        ("submit", "InvalidOption"),
    ],
)
def test_a_subtask_that_cannot_be_is_an_error_in_the_body(what, error):
    parent = ended(makes_what_cannot_be.delay(what))

    assert (parent.status, parent.result) == ("SUCCESS", error)
    assert not parent.subtasks.exists()


@task
def nests(cqt):
    cqt.subtask(nests)


def test_subtasks_go_as_deep_as_the_setting_allows(settings):
    settings.CQ = {"MAX_DEPTH": 3}
    root = ended(nests.delay())

    assert root.status == "INCOMPLETE"
    deepest = Task.objects.get(status="FAILURE")
    assert deepest.depth == 3
    assert "CQ['MAX_DEPTH'] allows 3" in deepest.error


@task
def fans_out(cqt, n):
    cqt.subtask_many(adds, range(n))


def test_a_body_makes_as_many_as_the_setting_allows(settings):
    settings.CQ = {"MAX_FANOUT": 5}

    assert ended(fans_out.delay(5)).status == "SUCCESS"
    too_many = ended(fans_out.delay(6))
    assert (too_many.status, too_many.exception) == ("FAILURE", "cq.exceptions.TooLarge")
    assert "CQ['MAX_FANOUT'] allows" in too_many.error


kept = []


@task
def keeps_what_it_made(cqt):
    kept[:] = [cqt, cqt.subtask(adds, (1,))]


def test_nothing_can_be_added_when_the_body_has_ended():
    ended(keeps_what_it_made.delay())
    cqt, child = kept

    for add in (lambda: cqt.subtask(adds, (1,)), lambda: cqt.chain(adds, (1,)), lambda: child.chain(adds, (1,))):
        with pytest.raises(RuntimeError, match="has ended"):
            add()
