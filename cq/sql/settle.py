"""What the end of a task, a revoke or an event means for its neighbours. The order is in `cq/settle.py`."""

from cq import states
from cq.new import GROUP
from cq.sql.claim import _IS_BELOW
from cq.sql.finish import _HELD
from cq.sql.parts import (
    _END_ATTEMPT,
    _IS_PENDING,
    _RELEASE,
    _RELEASED_DUE,
    _SUSPENDED,
    _TERMINAL,
    _UNFINISHED,
    _UNSUCCESSFUL,
    LATER,
    NOW,
    _has_below,
)
from cq.states import sql_list

# Which tasks are asked for, from this one on? One step of the index per task, so that no pile of requests hides another.
ASKED = """
WITH RECURSIVE asked AS (
    (SELECT task_id, 1 AS n FROM cq_settlerequest WHERE task_id > %s ORDER BY task_id LIMIT 1)
    UNION ALL
    SELECT (SELECT r.task_id FROM cq_settlerequest r WHERE r.task_id > asked.task_id ORDER BY r.task_id LIMIT 1), n + 1
      FROM asked WHERE asked.task_id IS NOT NULL AND n < %s)
SELECT task_id FROM asked WHERE task_id IS NOT NULL
"""

# Lock the tasks to be settled; somebody else is on those that are missing, and their requests stay. A claim passes over the ready
# ones meanwhile: their queues are returned, to be looked at again.
SETTLE_LOCK = f"""
SELECT id, status, fail_fast, CASE WHEN name = '{GROUP}' AND status = 'PENDING' THEN previous_id END,
       CASE WHEN status IN ({states.CLAIM.guard}) THEN queue END
  FROM cq_task WHERE id = ANY(%s::uuid[]) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
"""

# Delete their requests, and those of tasks that are gone. BEFORE looking: a request that comes later makes another look.
SETTLE_TAKE = """
DELETE FROM cq_settlerequest r WHERE r.task_id = ANY(%s::uuid[])
    OR r.task_id = ANY(%s::uuid[]) AND NOT EXISTS (SELECT 1 FROM cq_task t WHERE t.id = r.task_id)
"""

# End the parents whose subtasks have all ended, and ask for the parents above them.
SETTLE_END = f"""
WITH ended AS (
    UPDATE cq_task t
       SET status = CASE WHEN fine THEN '{states.SUCCEED.target}' ELSE '{states.FALL_SHORT.target}' END, finished_at = {LATER},
           prune_after = {LATER} + make_interval(secs => t.result_ttl),
           result = CASE WHEN t.result_of_id IS NULL THEN t.result
                         ELSE (SELECT r.result FROM cq_task r WHERE r.id = t.result_of_id) END,
           reason = CASE WHEN NOT fine THEN 'Not all of its subtasks succeeded.' END
      FROM (SELECT w.id, w.ignore_failures
                      OR {_has_below("w.id", _UNSUCCESSFUL)} IS NULL AS fine
              FROM cq_task w
             WHERE w.id = ANY(%s::uuid[]) AND w.status IN ({states.FALL_SHORT.guard})
               AND {_has_below("w.id", _UNFINISHED)} IS NULL) AS judged
     WHERE t.id = judged.id
    RETURNING t.id, t.parent_id, t.status),
asked AS (INSERT INTO cq_settlerequest (task_id) SELECT DISTINCT parent_id FROM ended WHERE parent_id IS NOT NULL)
SELECT id, status FROM ended
"""

# Revoke what is unfinished below parents that want that at the first failure; ask again where somebody had one of them locked,
# or they were too many for one round.
SETTLE_FAIL_FAST = f"""
WITH above AS MATERIALIZED (
    SELECT w.id FROM cq_task w WHERE w.id = ANY(%s::uuid[]) AND w.status = 'WAITING' AND w.fail_fast
       AND {_has_below("w.id", _UNSUCCESSFUL)}),
below AS MATERIALIZED (
    SELECT id, status AS was, process_id AS holder, key FROM cq_task
     WHERE parent_id = ANY(ARRAY(SELECT id FROM above)) AND status IN ({states.REVOKE.guard})
     ORDER BY parent_id, status LIMIT 1000 FOR NO KEY UPDATE SKIP LOCKED),
lingers AS (
    INSERT INTO cq_lingering (task_id, process_id, key) SELECT id, holder, key FROM below WHERE was = 'RUNNING'
    RETURNING task_id, process_id),
revoked AS (
    UPDATE cq_task t
       SET status = '{states.REVOKE.target}', finished_at = {LATER}, process_id = NULL, reason = 'Another subtask of its parent failed.',
           {_END_ATTEMPT}
     WHERE t.id = ANY(ARRAY(SELECT id FROM below))
    RETURNING t.id),
asked AS (
    INSERT INTO cq_settlerequest (task_id)
    SELECT id FROM revoked
    UNION SELECT id FROM above WHERE {_has_below("above.id", _UNFINISHED)})
SELECT id, (SELECT process_id FROM lingers WHERE task_id = revoked.id) FROM revoked
"""

# Which subtasks are to be undone, now that nothing below these parents runs any more? The last one to succeed comes first. Marks
# the parents: it happens once, and forbids to reopen them.
SETTLE_COMPENSATE = f"""
WITH marked AS (
    UPDATE cq_task p SET compensated = true
     WHERE p.id = ANY(%s::uuid[]) AND p.status IN ({_UNSUCCESSFUL}) AND NOT p.compensated
       AND EXISTS (SELECT 1 FROM cq_task c WHERE c.parent_id = p.id AND c.compensate IS NOT NULL AND c.status = 'SUCCESS')
       AND {_has_below("p.id", _UNFINISHED)} IS NULL
    RETURNING p.id, p.status, coalesce(p.workflow_id, p.id) AS workflow_id)
SELECT CASE WHEN marked.status = 'REVOKED' THEN c.id ELSE marked.id END, marked.id, marked.workflow_id, c.id, c.compensate::text,
       CASE WHEN {_IS_BELOW.format(t="c")} THEN '' ELSE coalesce(c.result::text, 'null') END
  FROM marked JOIN cq_task c ON c.parent_id = marked.id AND c.compensate IS NOT NULL AND c.status = 'SUCCESS'
 ORDER BY marked.id, c.finished_at DESC, c.id DESC
"""

# After these ends errorbacks are called.
_CALLS_ERRORBACKS = sql_list(
    frozenset({states.FAIL.target, states.FALL_SHORT.target, states.LOSE.target, states.EXPIRE.target})
)
# Keep what is to be called when a task fails; no row: it is gone. Its end may be on the way: that is what the request is for.
KEEP_ERRORBACK = f"""
WITH failing AS MATERIALIZED (SELECT id, status IN ({_CALLS_ERRORBACKS}) AS has_failed FROM cq_task WHERE id = %s FOR KEY SHARE),
kept AS (INSERT INTO cq_errorback (task_id, spec) SELECT id, %s::jsonb FROM failing),
asked AS (INSERT INTO cq_settlerequest (task_id) SELECT id FROM failing)
SELECT has_failed FROM failing
"""
# Call what has not been called yet (see the migration, where a trigger does the same in the failing transaction) …
CALL_ERRORBACKS = "SELECT cq_call_errorbacks(%s)"
# … and name the queues in which errorbacks of these are ready, whoever has called them.
SETTLE_ERRORBACKS = f"""
SELECT cq_call_errorbacks(t.id) FROM cq_task t
 WHERE t.id = ANY(%s::uuid[]) AND t.status IN ({_CALLS_ERRORBACKS})
   AND EXISTS (SELECT 1 FROM cq_errorback e WHERE e.task_id = t.id AND NOT e.called)
UNION
SELECT n.queue FROM cq_task n
 WHERE n.status = 'QUEUED'
   AND n.id = ANY(ARRAY(SELECT (e.spec ->> 'id')::uuid FROM cq_errorback e WHERE e.task_id = ANY(%s::uuid[]) AND e.called))
"""

# What stands below a task whose result is a group's: the members of the group, of groups among them, and what was returned.
MEMBERS = f"""
WITH RECURSIVE found AS (
    SELECT id, name, status, parent_id, member, result, result_of_id, coalesce(reason, error) AS error FROM cq_task WHERE id = %s
    UNION ALL
    SELECT below.* FROM found, LATERAL (
        SELECT m.id, m.name, m.status, m.parent_id, m.member, m.result, m.result_of_id, coalesce(m.reason, m.error) FROM cq_task m
         WHERE found.name = '{GROUP}' AND m.parent_id = found.id AND m.member IS NOT NULL
        UNION ALL
        SELECT r.id, r.name, r.status, r.parent_id, r.member, r.result, r.result_of_id, coalesce(r.reason, r.error) FROM cq_task r
         WHERE found.name <> '{GROUP}' AND found.result IS NULL AND r.id = found.result_of_id) AS below)
SELECT id, name = '{GROUP}', status, parent_id, member, result::text, result_of_id, error FROM found
"""

# Carry a revoke one level down: to unfinished subtasks, and to successors that were there when it came.
SETTLE_REVOKE = f"""
WITH above AS MATERIALIZED (
    SELECT id, finished_at, terminate FROM cq_task WHERE id = ANY(%s::uuid[]) AND status = 'REVOKED'),
below AS MATERIALIZED (
    SELECT id, parent_id, status AS was, process_id AS holder, key FROM cq_task
     WHERE parent_id = ANY(ARRAY(SELECT id FROM above)) AND status IN ({states.REVOKE.guard})
     ORDER BY parent_id, status LIMIT 1000 FOR NO KEY UPDATE SKIP LOCKED),
lingers AS (
    INSERT INTO cq_lingering (task_id, process_id, key, terminate)
    SELECT below.id, holder, key, terminate FROM below JOIN above ON above.id = below.parent_id WHERE was = 'RUNNING'
    RETURNING task_id, process_id),
revoked AS (
    UPDATE cq_task t
       SET status = '{states.REVOKE.target}', finished_at = {LATER}, process_id = NULL, terminate = above.terminate,
           {_END_ATTEMPT},
           reason = CASE WHEN above.id = t.parent_id THEN 'Its parent was revoked.' ELSE 'Its predecessor was revoked.' END
      FROM above
     WHERE (above.id = t.parent_id OR above.id = t.previous_id AND t.created_at < above.finished_at)
       AND t.id = ANY(ARRAY(SELECT id FROM below)
         || ARRAY(
            SELECT id FROM cq_task WHERE previous_id = ANY(ARRAY(SELECT id FROM above)) AND {_IS_PENDING}
             LIMIT 1000 FOR NO KEY UPDATE SKIP LOCKED))
    RETURNING t.id, t.parent_id),
asked AS (
    INSERT INTO cq_settlerequest (task_id)
    SELECT id FROM revoked UNION SELECT parent_id FROM revoked WHERE parent_id IS NOT NULL)
SELECT id, (SELECT process_id FROM lingers WHERE task_id = revoked.id) FROM revoked
"""

# Release or skip the successors of tasks that have ended, and on through those that are skipped: along a chain as far as it is free.
# A link that is not asked for has no successor yet; whoever chains onto it now leaves a request of his own.
SETTLE_RELEASE = f"""
WITH RECURSIVE walk AS (
    SELECT n.id, before.status = 'SUCCESS' OR n.force_chain AND before.status <> 'REVOKED' AS runs
      FROM cq_task n JOIN cq_task before ON before.id = n.previous_id
     WHERE n.previous_id = ANY(%s::uuid[]) AND n.{_IS_PENDING} AND before.status IN ({_TERMINAL})
       AND (before.status <> 'REVOKED' OR n.created_at >= before.finished_at) AND NOT (before.status <> 'SUCCESS' AND {_HELD})
    UNION ALL
    SELECT n.id, n.force_chain FROM walk JOIN cq_task n ON n.previous_id = walk.id
     WHERE NOT walk.runs AND n.{_IS_PENDING} AND NOT {_HELD}),
near AS MATERIALIZED (SELECT * FROM walk LIMIT 1000),
free AS MATERIALIZED (
    SELECT n.id, n.previous_id, near.runs, {_RELEASED_DUE} AS due FROM near JOIN cq_task n USING (id)
     WHERE n.{_IS_PENDING} FOR NO KEY UPDATE OF n SKIP LOCKED),
sure AS (
    SELECT * FROM free WHERE previous_id = ANY(%s::uuid[])
    UNION ALL
    SELECT free.* FROM sure JOIN free ON free.previous_id = sure.id),
moved AS (
    UPDATE cq_task t SET {_RELEASE} FROM sure WHERE t.id = sure.id
    RETURNING t.id, t.parent_id, t.status, t.queue),
asked AS (
    INSERT INTO cq_settlerequest (task_id)
    SELECT s.id FROM sure s WHERE NOT s.runs AND EXISTS (
        SELECT 1 FROM cq_task n WHERE n.previous_id = s.id AND n.{_IS_PENDING} AND NOT n.id IN (SELECT id FROM sure))
    UNION SELECT id FROM moved WHERE status = 'WAITING'
    UNION SELECT m.id FROM moved m
     WHERE m.status = 'SKIPPED'
       AND EXISTS (SELECT 1 FROM cq_task c WHERE c.parent_id = m.id AND c.compensate IS NOT NULL AND c.status = 'SUCCESS')
    UNION SELECT parent_id FROM moved WHERE status = 'SKIPPED' AND parent_id IS NOT NULL)
SELECT id, status, queue FROM moved
"""

# Make ready the suspended tasks whose event has come.
SETTLE_RESUME = f"""
UPDATE cq_task t SET status = '{states.PROMOTE.target}', run_after = {NOW}
 WHERE t.id = ANY(%s::uuid[]) AND t.status IN ({_SUSPENDED})
   AND EXISTS (SELECT 1 FROM cq_event e WHERE e.task_id = t.id AND e.name = t.awaits AND e.outcome = 'accepted')
RETURNING t.queue
"""

# Ask again for those whose neighbours somebody had locked, or that were too many for one round.
SETTLE_AGAIN = f"""
INSERT INTO cq_settlerequest (task_id)
SELECT t.id FROM cq_task t WHERE t.id = ANY(%s::uuid[]) AND t.status IN ({_TERMINAL})
   AND (EXISTS (SELECT 1 FROM cq_task n WHERE n.previous_id = t.id AND n.{_IS_PENDING}
                   AND NOT (t.status NOT IN ('SUCCESS', 'REVOKED') AND {_HELD}))
     OR {_has_below("t.id", _UNFINISHED)})
"""
