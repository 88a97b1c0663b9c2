"""What keepers ask now and then, all at once: is there anything to do?"""

from cq.sql.claim import _ANY_PAUSED, _READY_QUEUES
from cq.sql.due import _NEXT_DUE, _TO_SETTLE
from cq.sql.parts import NOW
from cq.sql.schedules import _NEXT_TICK

_SERVED = "(%s::text[] IS NULL OR queue = ANY(%s::text[]))"
_UNPAUSED = f"NOT {_ANY_PAUSED.format(queue='cq_task.queue')}"
# Queue by queue, so that no pile in a paused one is walked through; and in the order of the ready index: without it the planner
# may read the whole table, past all finished rows, for the first one.
_FIRST_READY = f"""(
    {_READY_QUEUES}
    SELECT true FROM ready
     WHERE queue IS NOT NULL AND {_SERVED} AND NOT {_ANY_PAUSED.format(queue="ready.queue")}
       AND (SELECT true FROM cq_task t
             WHERE t.status = 'QUEUED' AND t.admitted AND t.queue = ready.queue AND {{crashes}} AND t.name = ANY(%s::text[])
             ORDER BY t.queue, t.priority DESC, t.run_after, t.id LIMIT 1)
     LIMIT 1)"""

# In which processes of a worker do bodies go on for three seconds that were to be interrupted?
_UNHEARD = f"""
    SELECT DISTINCT p.id FROM cq_lingering l JOIN cq_process p ON p.id = l.process_id
     WHERE p.worker_id = %s AND p.ended_at IS NULL AND l.terminate AND l.since < {NOW} - interval '3 seconds'"""

# Is there anything to do for a worker of these queues and names? (settle, ready, suspects, dead, seconds to the next due, and tick,
# its processes that do not hear)
LOOK = f"""
SELECT {_TO_SETTLE},
       {_FIRST_READY.format(crashes="crashes = 0")} IS NOT NULL,
       (SELECT count(*) FROM (
           SELECT 1 FROM cq_task
            WHERE status = 'QUEUED' AND admitted AND crashes > 0 AND {_SERVED} AND {_UNPAUSED} AND name = ANY(%s::text[])
            ORDER BY queue, priority DESC, run_after, id LIMIT 64) AS suspects),
       EXISTS (SELECT 1 FROM cq_process WHERE ended_at IS NOT NULL) OR EXISTS (SELECT 1 FROM cq_worker WHERE lease_until < {NOW}),
       {_NEXT_DUE},
       {_NEXT_TICK},
       ARRAY({_UNHEARD})
"""

# Is there still something to run in these queues, or on its way back to them? Paused ones wait for a person.
BUSY = f"""
SELECT {_TO_SETTLE}
    OR (SELECT true FROM cq_task WHERE status = 'RUNNING' AND {_SERVED} ORDER BY process_id LIMIT 1) IS NOT NULL
    OR (SELECT true FROM cq_task WHERE status = 'RETRY' AND {_SERVED} AND {_UNPAUSED} ORDER BY run_after LIMIT 1) IS NOT NULL
    OR {_FIRST_READY.format(crashes="true")} IS NOT NULL
    OR EXISTS (SELECT 1 FROM cq_lingering l, LATERAL (SELECT status FROM cq_task WHERE id = l.task_id OFFSET 0) AS t
                WHERE t.status = 'QUEUED')
"""
