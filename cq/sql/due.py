"""Make ready what is due, and end what is too late; when is the next?"""

from cq import states
from cq.sql.parts import _DELAYED, NOW

# A task whose last body may still run in some process is not admitted before that is gone; one with a key is in its turn.
_ADMITTED = "t.key IS NULL AND NOT EXISTS (SELECT 1 FROM cq_lingering l WHERE l.task_id = t.id)"

# Make ready what is due.
PROMOTE = f"""
UPDATE cq_task t SET status = '{states.PROMOTE.target}', admitted = {_ADMITTED}
 WHERE t.id = ANY(ARRAY(
        SELECT id FROM cq_task WHERE status IN ({states.PROMOTE.guard}) AND run_after <= {NOW}
         ORDER BY run_after LIMIT 1000 FOR NO KEY UPDATE SKIP LOCKED))
RETURNING t.queue
"""

# End what was not started in time. What has started once, it never comes too late for.
EXPIRE = f"""
UPDATE cq_task t
   SET status = '{states.EXPIRE.target}', finished_at = {NOW}, prune_after = {NOW} + make_interval(secs => t.result_ttl),
       reason = format('It was not started within %%s s after it was due.', t.expires)
 WHERE t.id = ANY(ARRAY(
        SELECT id FROM cq_task WHERE status IN ({states.EXPIRE.guard}) AND attempt = 0 AND start_by <= {NOW}
         ORDER BY start_by LIMIT 1000 FOR NO KEY UPDATE SKIP LOCKED))
RETURNING t.id
"""

# In how many seconds is the next delayed task due, or the next one too late, or may a rate let the next one start?
_NEXT_DUE = f"""(SELECT extract(epoch FROM LEAST(
    (SELECT min(run_after) FROM cq_task WHERE status IN ({_DELAYED})),
    (SELECT min(start_by) FROM cq_task WHERE status = 'QUEUED' AND attempt = 0 AND start_by IS NOT NULL),
    (SELECT min(look_at) FROM cq_key WHERE look_at IS NOT NULL)) - {NOW})::float8)"""
_TO_SETTLE = "EXISTS (SELECT 1 FROM cq_settlerequest) OR EXISTS (SELECT 1 FROM cq_keyrequest)"

# Is anything to be settled, a task or a key, and when is the next thing due?
PEEK = f"SELECT {_TO_SETTLE}, {_NEXT_DUE}"
