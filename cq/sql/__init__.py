"""Every statement that moves tasks. One comment line above each says which question it answers or what it does.

Rules that all of them keep, under READ COMMITTED, where each statement sees what was committed before it began:
- A status is written only where the row still has a source of the transition; statuses are literals, because a parameter would
  keep the planner from the partial indexes.
- Nobody waits for a task row while holding another: lists are locked with SKIP LOCKED.
- FOR NO KEY UPDATE, never FOR UPDATE: an insert that refers to the row holds KEY SHARE on it and must not be skipped.
- `= ANY(ARRAY(SELECT … LIMIT …))`, never `IN (SELECT … LIMIT …)`: the latter may be planned as a scan of the table.
- What is found by its id, or by its predecessor's, says its status so that no partial index can be used (`_IS_RUNNING`, `_IS_PENDING`), and
  whether there is a subtask is asked by `_has_below`, not EXISTS: both may be planned as a walk over what is long over.
- `statement_timestamp()`, never `now()`, which stands still inside a long transaction.
"""

from cq.sql.claim import *
from cq.sql.due import *
from cq.sql.enqueue import *
from cq.sql.explain import *
from cq.sql.finish import *
from cq.sql.journal import *
from cq.sql.keys import *
from cq.sql.look import *
from cq.sql.parts import *
from cq.sql.prune import *
from cq.sql.schedules import *
from cq.sql.settle import *
from cq.sql.verbs import *
from cq.sql.workers import *
