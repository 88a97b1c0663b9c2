"""What the supervisor does in a certain order."""

from cq.worker.options import WorkerOptions
from cq.worker.supervisor import Supervisor


def test_a_silent_child_is_told_what_others_shall_have_before_its_marks_are_read(monkeypatch):
    """What is not marked then, it does not start: the other way round, it might begin in between."""
    supervisor = Supervisor(WorkerOptions())
    (post,) = supervisor.posts
    told = []
    monkeypatch.setattr(post.marks, "started", lambda: (told.append(post.marks.handed_back.at), [])[1])

    supervisor._hand_back(post, 7.0)

    assert told == [7.0]
