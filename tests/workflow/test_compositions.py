"""Signatures, chains, groups and chords: what they become, what they hand on, and how they end."""

from __future__ import annotations

import time
from typing import Any
from uuid import UUID

import pytest
from django.db import connection, transaction

from cq import FailedMember, Signature, chain, chord, engine, group, preflight, prune, settle, task
from cq.exceptions import InvalidArguments, InvalidOption, NotAllowedHere, TooLarge, UniqueConflict
from cq.models import Errorback, SettleRequest, Task
from cq.testing import drain
from tests.api.run import ended, states
from tests.rows.elsewhere import elsewhere, together
from tests.tasks import adds, collects, doubles, echoes, raises, returns_none, spawns, spawns_failing, sums

pytestmark = pytest.mark.django_db

five = adds.s(2, 3)


def query(statement: str) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchall()


@task(unique="args")
def unique_one(cqt: Any, number: int) -> int:
    return number


@task
def pairs(cqt: Any, before: Any, word: Any) -> list[Any]:
    return [before, word]


@task
def makes_group(cqt: Any, *numbers: int) -> Task:
    return cqt.subtask(group(adds.s(number) for number in numbers))


@task
def makes_nested_groups_of_nothing(cqt: Any) -> Task:
    return cqt.subtask(group(group([]), group(group([]))))


@task
def makes_a_chain_of_nothing(cqt: Any) -> Task:
    return cqt.subtask(chain(group([]), collects.s()))


@task
def makes_chord(cqt: Any, *numbers: int) -> Task:
    return cqt.subtask(chord([adds.s(number) for number in numbers], collects.s("sum")))


@task
def delays_group(cqt: Any, *numbers: int) -> Task:
    return group(adds.s(number) for number in numbers).delay()


@task
def delays_chord(cqt: Any, *numbers: int) -> Task:
    return chord([chain(adds.s(number), sums.s(10)) for number in numbers], collects.s()).delay()


@task
async def makes_group_in_a_coroutine(cqt: Any, *numbers: int) -> Task:
    return cqt.subtask(group(adds.s(number) for number in numbers))


def test_a_signature_is_a_call_that_is_not_made_yet() -> None:
    signature = adds.using(priority=3).s(1, b=2).using(queue="q")

    assert isinstance(signature, Signature)
    assert not Task.objects.exists()
    made = signature.delay()
    assert (made.args, made.kwargs, made.priority, made.queue, made.status) == ((1,), {"b": 2}, 3, "q", "QUEUED")
    assert ended(made).result == 3


def test_a_chain_gives_its_last_task_and_hands_results_on() -> None:
    last = chain(five, sums.s(10), doubles.s(), pairs.s(0)).delay()

    assert (last.name, last.root.name, last.status) == (pairs.name, adds.name, "PENDING")
    assert ended(last).result == [30, 0]
    assert last.root.next.get().result == 15


def test_all_of_a_chain_is_revoked_through_its_root() -> None:
    last = chain(five, sums.s(10), group(sums.s(1), sums.s(2))).delay()

    last.root.revoke()
    drain()

    assert set(Task.objects.values_list("status", flat=True)) == {"REVOKED"}
    assert Task.objects.count() == 5


def test_a_group_waits_for_its_members_and_its_result_is_theirs_in_order() -> None:
    whole = group(adds.s(n) for n in (5, 3, 9)).delay()

    assert (whole.status, whole.name) == ("WAITING", "cq.group")
    assert whole.result == [None, None, None]
    assert ended(whole).result == [5, 3, 9]
    assert whole.get() == [5, 3, 9]
    assert (whole.status, whole.attempt, whole.claims) == ("SUCCESS", 0, 0)
    assert Task.objects.filter(result=[5, 3, 9]).count() == 0


def test_a_group_takes_signatures_one_by_one_too() -> None:
    assert ended(group(five, adds.s(1)).delay()).result == [5, 1]
    assert ended(group(five).delay()).result == [5]
    assert ended(group([five]).delay()).result == [5]


@pytest.mark.parametrize("part", [group([]), group(), group(x for x in ())])
def test_a_group_of_nothing_succeeds_at_once(part: Signature) -> None:
    whole = part.delay()

    assert (whole.status, whole.result, whole.get()) == ("SUCCESS", [], [])
    assert whole.finished_at is not None


def test_a_group_of_nothing_hands_on_an_empty_list() -> None:
    nested = group(group([]), group(group([]))).delay()
    behind = chain(five, group([]), collects.s()).delay()
    first = chord([], collects.s("none")).delay()
    later = chain(group(five), group([]), group([]), collects.s()).delay()
    third = chain(five, sums.s(1), group([]), collects.s()).delay()
    own = makes_a_chain_of_nothing.delay()
    made = makes_group.delay()
    below = chain(makes_nested_groups_of_nothing.s(), collects.s()).delay()

    drain()

    results = [
        (nested, [[], [[]]]),
        (behind, [[]]),
        (first, [[], "none"]),
        (third, [[]]),
        (own, [[]]),
        (later, [[]]),
        (made, []),
        (below, [[[], [[]]]]),
    ]
    for whole, result in results:
        whole.refresh_from_db()
        assert (whole.status, whole.result) == ("SUCCESS", result)


def test_a_chord_gives_the_list_to_its_callback_first() -> None:
    assert ended(chord([adds.s(1), adds.s(2)], collects.s("more")).delay()).result == [[1, 2], "more"]
    assert ended(chord(group(adds.s(n) for n in range(3)), echoes.s(a=1)).delay()).result == [[[0, 1, 2]], {"a": 1}]


def test_a_callback_that_is_told_so_gets_no_list() -> None:
    whole = chord([adds.s(1)], echoes.s(7).using(pass_result=False)).delay()

    assert ended(whole).result == [[7], {}]


def test_a_callback_may_be_a_composition() -> None:
    whole = chord([adds.s(1), adds.s(2)], group(echoes.s(), chain(collects.s(), pairs.s(3)))).delay()

    assert ended(whole).result == [[[[1, 2]], {}], [[[1, 2]], 3]]


def test_a_group_in_a_chain_gets_the_result_before_it_member_by_member() -> None:
    whole = chain(five, group(sums.s(1), adds.s(100), sums.s(2)), collects.s()).delay()

    assert ended(whole).result == [[6, 100, 7]]


def test_a_group_behind_a_group_gets_its_list() -> None:
    whole = chain(group(adds.s(1), adds.s(2)), group(pairs.s("a"), pairs.s("b"))).delay()

    assert ended(whole).result == [[[1, 2], "a"], [[1, 2], "b"]]


def test_compositions_nest_to_any_depth() -> None:
    deep = chain(
        group(chain(adds.s(1), sums.s(1)), chord([adds.s(3), group(adds.s(4), adds.s(5))], collects.s("inner"))),
        chord(group(collects.s(), group(chain(pairs.s("x"), pairs.s("y")))), collects.s("outer")),
    ).delay()

    first = [2, [[3, [4, 5]], "inner"]]
    assert ended(deep).result == [[[first], [[[first, "x"], "y"]]], "outer"]
    assert not SettleRequest.objects.exists()
    assert set(Task.objects.values_list("status", flat=True)) == {"SUCCESS"}


def test_a_member_may_have_subtasks_and_counts_with_them() -> None:
    whole = group(spawns.s(2), makes_group.s(1, 2), makes_chord.s(3)).delay()

    assert ended(whole).result == [2, [1, 2], [[3], "sum"]]


@pytest.mark.parametrize(
    ("function", "result"),
    [(makes_group, [4, 5]), (makes_group_in_a_coroutine, [4, 5]), (makes_chord, [[4, 5], "sum"])],
)
def test_a_body_may_hand_on_to_a_composition(function: Any, result: Any) -> None:
    parent = function.delay(4, 5)

    last = parent.chain(collects)

    assert ended(parent).result == result
    assert ended(last).result == [result]
    assert {made.root for made in Task.objects.all()} == {parent}
    assert not Task.objects.filter(name="cq.group").exclude(parent=parent).exists()


@pytest.mark.parametrize(("function", "result"), [(delays_group, [4, 5]), (delays_chord, [[14, 15]])])
def test_a_composition_that_a_body_delays_and_returns_becomes_its_own(function: Any, result: Any) -> None:
    above = chain(group(function.s(4, 5)), collects.s()).delay()

    assert ended(above).result == [[result]]
    parent = Task.objects.get(name=function.name)
    assert {made.root for made in Task.objects.all()} == {above.root}
    assert Task.objects.get(name="cq.group", parent=parent).depth == 2
    assert set(Task.objects.filter(name=adds.name).values_list("depth", flat=True)) == {3}


def test_the_result_of_a_group_is_not_limited(settings: Any) -> None:
    settings.CQ = {"MAX_RESULT_SIZE": 100}
    whole = chord([echoes.s("x" * 60) for _ in range(20)], collects.using(retries=0).s()).delay()

    drain()

    header = whole.previous
    assert (header.status, len(header.result)) == ("SUCCESS", 20)
    whole.refresh_from_db()
    assert whole.exception == "cq.exceptions.TooLarge"


def test_a_groups_result_is_one_query(django_assert_num_queries: Any) -> None:
    ended(group(group(adds.s(n), adds.s(-n)) for n in range(20)).delay())
    whole = Task.objects.get(parent=None)

    with django_assert_num_queries(1):
        assert whole.result == [[n, -n] for n in range(20)]
        assert whole.result[3] == [3, -3]


def test_a_failed_member_makes_the_group_incomplete_and_skips_the_callback() -> None:
    last = chain(chord([adds.s(1), raises.s(), chain(raises.s(), adds.s(2))], collects.s()), collects.s()).delay()

    drain()

    header = Task.objects.get(name="cq.group")
    assert header.status == "INCOMPLETE"
    assert states(last, last.previous) == ["SKIPPED", "SKIPPED"]
    one, two, three = header.result
    assert (one, two.status, two.error, three.status) == (1, "FAILURE", "broken", "SKIPPED")


def test_a_forced_callback_finds_the_failed_members_in_its_list() -> None:
    failing = group(adds.s(1), raises.s("no luck"), group(adds.s(2), spawns_failing.s(1)))
    whole = chord(failing, echoes.s().using(force_chain=True)).delay()

    ((members,), _) = ended(whole).result

    bad = Task.objects.get(name=raises.name, error="no luck")
    inner = Task.objects.get(name="cq.group", status="INCOMPLETE", parent__name="cq.group")
    assert members == [
        1,
        FailedMember(bad.id, "FAILURE", "no luck"),
        FailedMember(inner.id, "INCOMPLETE", "Not all of its subtasks succeeded."),
    ]
    assert isinstance(members[1].task_id, UUID)


def test_what_comes_after_a_failed_task_is_skipped_group_and_members_alike() -> None:
    last = chain(raises.s(), group(adds.s(1), chain(adds.s(2), adds.s(3)), group(adds.s(4))), collects.s()).delay()

    drain()

    assert set(Task.objects.exclude(name=raises.name).values_list("status", flat=True)) == {"SKIPPED"}
    assert not SettleRequest.objects.exists()
    assert last.root.retry()
    assert set(Task.objects.exclude(name=raises.name).values_list("status", flat=True)) == {"PENDING"}


@pytest.mark.parametrize("between", [[], [adds.s(0)], [adds.s(0), adds.s(0)], [group(adds.s(0))]])
def test_a_skipped_group_ends_after_what_is_forced_below_it(between: list[Signature]) -> None:
    members = group(adds.s(1), chain(adds.s(2), adds.s(3).using(force_chain=True)))
    whole = chain(raises.s(), *between, members, adds.s(4)).delay()
    skipped = whole.previous

    drain(max_tasks=1)
    settle.settle_all()
    assert states(skipped, whole) == ["PENDING", "PENDING"]
    settled = settle.settle_all()
    assert not settled.moved
    assert not SettleRequest.objects.exists()
    drain()

    assert states(skipped, whole) == ["SKIPPED", "SKIPPED"]
    assert [member.status for member in skipped.subtasks.order_by("id")] == ["SKIPPED", "SKIPPED", "SUCCESS"]
    skipped.refresh_from_db()
    assert skipped.finished_at > skipped.subtasks.order_by("-finished_at").first().finished_at


def test_a_group_behind_another_that_is_skipped_is_skipped_with_its_members() -> None:
    last = chain(raises.s(), adds.s(1), group(adds.s(2), group(adds.s(3))), group(adds.s(4)), adds.s(5)).delay()

    drain()

    assert set(Task.objects.exclude(name=raises.name).values_list("status", flat=True)) == {"SKIPPED"}
    assert last.root.next.get().status == "SKIPPED"
    assert not SettleRequest.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_a_group_that_somebody_has_locked_is_released_or_skipped_by_a_later_look() -> None:
    fine, failing = (chain(first, group(adds.s(1))).delay() for first in (adds.s(0), raises.s()))
    with elsewhere() as other:
        other.open()
        other(lambda: list(Task.objects.select_for_update().filter(name="cq.group")))

        drain()
        assert states(fine, failing) == ["PENDING", "PENDING"]
        other.rollback()
    drain()

    assert states(fine, failing) == ["SUCCESS", "SKIPPED"]


@pytest.mark.django_db(transaction=True)
def test_a_group_that_somebody_has_locked_is_revoked_by_a_later_look() -> None:
    last = chain(adds.s(0), group(adds.s(1), chain(adds.s(2), adds.s(3))), adds.s(4)).delay()
    with elsewhere() as other:
        other.open()
        other(lambda: list(Task.objects.select_for_update().filter(name="cq.group")))

        last.root.revoke()
        settle.settle_all()
        assert states(last.previous) == ["PENDING"]
        other.rollback()
    settle.settle_all()

    assert set(Task.objects.values_list("status", flat=True)) == {"REVOKED"}


def test_a_forced_group_runs_after_a_failure() -> None:
    last = chain(
        raises.s(), group(returns_none.s(), group(returns_none.s())).using(force_chain=True), collects.s()
    ).delay()

    assert ended(last).result == [[None, [None]]]


def test_a_skipped_group_gives_a_forced_callback_its_skipped_members() -> None:
    last = chain(raises.s(), group(adds.s(1), adds.s(2)), echoes.s().using(force_chain=True, pass_result=True)).delay()

    ((members,), _) = ended(last).result

    assert [member.status for member in members] == ["SKIPPED", "SKIPPED"]


def test_a_group_is_reopened_and_ends_again() -> None:
    whole = chord([adds.s(1), raises.s()], collects.s()).delay()
    drain()
    header, failed = Task.objects.get(name="cq.group"), Task.objects.get(name=raises.name)

    assert failed.retry()

    assert states(header, failed, whole) == ["WAITING", "QUEUED", "PENDING"]
    Task.objects.filter(pk=failed.pk).update(name=returns_none.name, args=())
    assert ended(whole).result == [[1, None]]


@pytest.mark.parametrize("inner", [group(adds.s(1)), chain(adds.s(1), group(sums.s(2)))])
def test_a_revoked_group_is_reopened(inner: Signature) -> None:
    whole = group(inner, adds.s(9)).delay()
    whole.revoke()
    drain()
    assert set(Task.objects.values_list("status", flat=True)) == {"REVOKED"}

    assert whole.retry()

    assert ended(whole).status == "SUCCESS"


def test_options_are_for_all_of_a_composition_and_its_parts_count_more() -> None:
    whole = chain(group(adds.s(1), adds.using(queue="own").s(2)), collects.s().using(priority=9)).using(
        queue="all", priority=1
    )

    last = whole.delay()

    rows = {(row.name, row.args): (row.queue, row.priority) for row in Task.objects.exclude(name="cq.group")}
    assert rows == {
        (adds.name, (1,)): ("all", 1),
        (adds.name, (2,)): ("own", 1),
        (collects.name, ()): ("all", 9),
    }
    assert last.previous.status == "WAITING"


def test_what_is_said_of_the_beginning_is_for_what_comes_first() -> None:
    chain(group(adds.s(1), chain(adds.s(2), adds.s(3))), adds.s(4)).using(run_after=60).delay()

    rows = dict(Task.objects.exclude(name="cq.group").values_list("args", "status"))
    assert rows == {(1,): "SCHEDULED", (2,): "SCHEDULED", (3,): "PENDING", (4,): "PENDING"}


@pytest.mark.parametrize(
    ("build", "error", "says"),
    [
        (lambda: chain(), InvalidArguments, "at least one signature"),
        (lambda: chain(adds), InvalidArguments, r"expected signatures: f\.s"),
        (lambda: group([adds.s(1), 2]), InvalidArguments, "found 2"),
        (lambda: group(7), InvalidArguments, "found 7"),
        (lambda: chord([adds.s(1)], adds), InvalidArguments, "expected signatures"),
        (lambda: adds.s(1).using(submit=False), InvalidOption, "stand alone"),
        (lambda: adds.s(1).using(colour="red"), InvalidOption, "colour= is not an option"),
        (lambda: adds.s(1).using(force_chain=1), InvalidOption, "expected True or False"),
        (lambda: group(adds.s(1)).using(unique_key="k"), InvalidOption, "for a single task"),
        (lambda: chain(adds.s(), sums.s(1)), InvalidArguments, "missing a required argument: 'a'"),
        (lambda: chain(adds.s(1), sums.s()), InvalidArguments, "missing a required argument: 'b'"),
        (lambda: chord([adds.s(1)], returns_none.s()), InvalidArguments, "too many positional"),
        (lambda: adds.s(1).using(pass_result=True), InvalidOption, "nothing comes before"),
        (lambda: chain(five, group(adds.s(1).using(force_chain=True))), InvalidOption, "Say it of the group"),
        (lambda: chain(five, group(group(adds.s(1)).using(force_chain=True))), InvalidOption, "Say it of the group"),
        (lambda: adds.s(1).on_error(chain(echoes.s())), InvalidArguments, "signature of a task function"),
        (lambda: adds.s(1).on_error(echoes), InvalidArguments, "signature of a task function"),
        (lambda: adds.s(1).on_error(returns_none.s()), InvalidArguments, "too many positional"),
        (lambda: adds.s(1).on_error(echoes.s().on_error(echoes.s())), InvalidArguments, "no errorbacks"),
    ],
)
def test_what_cannot_be_composed_is_refused_with_no_row(build: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        build().delay()

    assert not Task.objects.exists()


def test_where_a_function_is_expected_a_signature_is_refused_with_the_way_to_do_it() -> None:
    made = adds.delay(1)

    with pytest.raises(InvalidOption, match="which is not taken here: pass the function and its arguments"):
        made.chain(adds.s(1))


def test_a_composition_keeps_to_the_limits(settings: Any) -> None:
    settings.CQ = {"MAX_FANOUT": 5, "MAX_DEPTH": 2}

    with pytest.raises(TooLarge, match="6 tasks at once"):
        group(adds.s(n) for n in range(5)).delay()
    with pytest.raises(TooLarge, match="3 levels deep in its groups"):
        group(group(group(adds.s(1)))).delay()


def test_a_composition_is_rolled_back_with_the_transaction_around_it() -> None:
    with transaction.atomic():
        chord([adds.s(1).on_error(echoes.s())], collects.s()).delay()
        transaction.set_rollback(True)

    assert not Task.objects.exists()
    assert not SettleRequest.objects.exists()


def test_the_members_of_a_group_are_inserted_a_thousand_in_a_statement(django_assert_max_num_queries: Any) -> None:
    with django_assert_max_num_queries(6):
        whole = group(adds.s(n) for n in range(2500)).delay()

    assert whole.subtasks.count() == 2500


def test_a_signature_alone_finds_the_unfinished_one_as_its_function_does() -> None:
    held = unique_one.delay(1)

    found = [unique_one.s(1).delay(), adds.using(unique_key="k").s(1).delay(), adds.s(2).using(unique_key="k").delay()]

    assert [task.created for task in found] == [False, True, False]
    assert [task.id for task in found] == [held.id, found[1].id, found[1].id]
    ended(held)
    assert unique_one.s(1).delay().created


def test_errorbacks_of_a_signature_alone_are_called_for_the_one_that_is_found() -> None:
    held = raises.using(unique_key="k").delay()

    found = raises.s().using(unique_key="k").on_error(echoes.s("told")).delay()

    assert found.id == held.id
    ended(held)
    assert [args[2] for args in Task.objects.filter(name=echoes.name).values_list("args", flat=True)] == ["told"]


@task
def returns_found(cqt: Any, number: int) -> Task:
    return unique_one.s(number).delay()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("is_found", [True, False])
def test_a_body_may_return_what_its_signature_made_and_not_what_it_found(is_found: bool) -> None:
    held = unique_one.using(run_after=60).delay(1 if is_found else 2)

    returning = returns_found.delay(1)
    drain()

    returning.refresh_from_db()
    held.refresh_from_db()
    assert (returning.status, returning.result) == (("FAILURE", None) if is_found else ("SUCCESS", 1))
    assert held.parent_id is None


@pytest.mark.django_db(transaction=True)
def test_signatures_that_are_delayed_at_once_find_each_other() -> None:
    for number in range(10):
        found = together(*[lambda number=number: unique_one.s(number).delay()] * 4)

        assert len({task.id for task in found}) == 1
        assert sorted(task.created for task in found) == [False] * 3 + [True]


def test_a_unique_key_that_is_taken_refuses_the_whole() -> None:
    held = unique_one.delay(1)

    with pytest.raises(UniqueConflict) as refused:
        group(adds.s(1), chain(adds.s(2), unique_one.s(1))).delay()
    with pytest.raises(UniqueConflict):
        group(unique_one.s(2), unique_one.s(2)).delay()

    assert refused.value.task == held
    assert Task.objects.count() == 1
    assert chain(unique_one.s(2), adds.s(1)).delay().previous.unique_key is not None


@pytest.mark.django_db(transaction=True)
def test_a_unique_key_that_is_taken_meanwhile_refuses_the_whole() -> None:
    with elsewhere() as other:
        other.open()
        other(unique_one.delay, 1)
        refused = group(adds.s(1), unique_one.s(1))

        with elsewhere() as caller:
            calling = caller.begin(refused.delay)
            until_somebody_waits()
            other.commit()
            with pytest.raises(UniqueConflict):
                calling.result(20)

    assert Task.objects.count() == 1


def until_somebody_waits() -> None:
    deadline = time.monotonic() + 20
    while not query("SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"):
        assert time.monotonic() < deadline


def test_keys_and_limits_hold_for_members() -> None:
    whole = group(adds.using(key="k", limit=1).s(n) for n in range(3)).delay()

    drain(max_tasks=1)
    assert Task.objects.filter(key="k", key_limit=1).count() == 3
    assert ended(whole).result == [0, 1, 2]


def test_a_group_says_what_it_waits_for() -> None:
    last = chain(adds.s(1), group(adds.s(2))).delay()

    (before,) = last.explain()
    whole, member = group(adds.s(1)).delay().explain()

    assert before.startswith("It waits for its predecessor tests.tasks.adds")
    assert whole == "It is a group; it waits for 1 subtask:"
    assert member.startswith("tests.tasks.adds")


def test_nobody_binds_a_group_to_code_before_a_deploy() -> None:
    chain(adds.s(1), group(adds.s(2))).delay()

    found = preflight.preflight()

    assert (found.calls, found.failed) == (2, 0)


def test_a_workflow_is_removed_with_its_groups_and_errorbacks() -> None:
    whole = chord([adds.s(1).on_error(echoes.s())], collects.s()).on_error(echoes.s()).using(result_ttl=0).delay()
    ended(whole)
    assert Errorback.objects.count() == 3

    prune.prune()

    assert not Task.objects.exists()
    assert not Errorback.objects.exists()


def test_the_root_alone_says_how_long_a_composition_is_kept() -> None:
    chain(group(adds.s(1)).using(result_ttl=60), adds.s(2)).delay()

    assert [row.result_ttl for row in Task.objects.all()] == [60, None, None]


def test_a_group_can_have_no_name_of_a_function() -> None:
    with pytest.raises(InvalidOption, match="is the name of groups"):
        task("cq.group")(lambda_like)


def lambda_like(cqt: Any) -> None: ...


def test_nobody_claims_a_group() -> None:
    from tests.rows import make

    Task.objects.create(name="cq.group", status="QUEUED")

    assert make.take(make.process(), 5) == []
    assert engine.ready_queues() == ["default"]


@pytest.mark.django_db(transaction=True)
def test_async_twins_do_the_same() -> None:
    from asgiref.sync import async_to_sync

    made = async_to_sync(group(adds.s(1)).adelay)()

    assert ended(made).result == [1]


def test_serial_runs_a_composition_at_once(settings: Any) -> None:
    settings.CQ = {"SERIAL": True}

    assert chord([adds.s(1), adds.s(2)], collects.s()).delay().result == [[1, 2]]


def test_a_group_in_a_transaction_of_a_body_is_refused_to_wait_for() -> None:
    with pytest.raises(NotAllowedHere, match="inside an open transaction"), transaction.atomic():
        group(adds.s(1)).delay().wait(1)
