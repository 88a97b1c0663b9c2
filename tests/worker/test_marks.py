"""What a child notes in the memory that it shares with the supervisor."""

from uuid import uuid4

from cq.worker.marks import Marks


def test_bodies_are_marked_from_their_start_to_the_end_that_is_written():
    marks, first, second = Marks(), uuid4(), uuid4()

    mark = marks.start(first)
    marks.start(second, 7.0)
    assert set(marks.started()) == {first, second}

    marks.end(mark)
    assert marks.started() == [second]


def test_those_are_overdue_that_were_to_have_ended_and_have_not_left():
    marks, late, early, endless = Marks(), uuid4(), uuid4(), uuid4()
    mark = marks.start(late, 7.0)
    marks.start(early, 9.0)
    marks.start(endless)
    assert marks.overdue(8.0) == [late]

    marks.leave(mark)
    assert marks.overdue(8.0) == []
    assert late in marks.started()


def test_a_mark_that_is_used_again_has_a_deadline_of_its_own():
    marks = Marks(entries=1)
    marks.end(marks.start(uuid4(), 7.0))

    marks.start(uuid4())

    assert marks.overdue(100.0) == []


def test_more_bodies_than_entries_go_unmarked():
    marks = Marks(entries=1)
    marks.start(uuid4())

    assert marks.start(uuid4()) is None
