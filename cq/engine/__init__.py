"""One function per transition: each takes a list, sends guarded statements, and returns the rows that this writer moved.

Nothing here imports the model, decides about neighbours (that is `settle`), or sends a hint before its transaction commits.

`inserts`: a task begins. `runs`: it is claimed, and ends, as `finishing` writes it. `control`: the clock or a person moves it.
`register`: its worker dies, or does not know it. `questions`: nothing moves.
"""

from cq.engine.control import expire, held_against, promote, reopen, revoke, submit
from cq.engine.finishing import Finished
from cq.engine.inserts import (
    Inserted,
    Row,
    adopt,
    check_fanout,
    check_stored,
    enqueue,
    enqueue_composed,
    enqueue_many,
    enqueue_next,
    keep_errorback,
)
from cq.engine.questions import Look, decode_options, is_busy, look, peek, ready_queues, state, unfinished_after
from cq.engine.register import (
    end_process,
    enter_process,
    enter_worker,
    hand_back,
    heartbeat,
    leave,
    overdue,
    refuse,
    rescue,
    unknown,
    unknown_names,
)
from cq.engine.runs import Exchanged, Wish, claim, count, exchange, finish, finish_own, mark, still_mine

__all__ = [
    "Exchanged",
    "Finished",
    "Inserted",
    "Look",
    "Row",
    "Wish",
    "adopt",
    "check_fanout",
    "check_stored",
    "claim",
    "count",
    "decode_options",
    "end_process",
    "enqueue",
    "enqueue_composed",
    "enqueue_many",
    "enqueue_next",
    "enter_process",
    "enter_worker",
    "exchange",
    "expire",
    "finish",
    "finish_own",
    "hand_back",
    "heartbeat",
    "held_against",
    "is_busy",
    "keep_errorback",
    "leave",
    "look",
    "mark",
    "overdue",
    "peek",
    "promote",
    "ready_queues",
    "refuse",
    "reopen",
    "rescue",
    "revoke",
    "state",
    "still_mine",
    "submit",
    "unfinished_after",
    "unknown",
    "unknown_names",
]
