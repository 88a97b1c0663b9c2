"""What people and programs ask of a stored task: its state, revoke, submit, retry."""

from cq import states
from cq.sql.due import _ADMITTED
from cq.sql.parts import _END_ATTEMPT, _QUEUED_OR_SCHEDULED, _TERMINAL, _UNFINISHED, _UNSUCCESSFUL, NOW

STATE_COLUMNS = (
    *(
        "status",
        "parent_id",
        "workflow_id",
        "depth",
        "admitted",
        "claims",
        "attempt",
        "suspended_claim",
        "awaits",
        "retries",
        "crashes",
        "transients",
    ),
    *("process_id", "worker", "terminate", "result_of_id", "outcome", "error", "exception", "traceback", "reason"),
    *("run_after", "started_at", "ended_at", "finished_at", "prune_after", "result"),
)
# What has become of a task?
STATE = f"SELECT {', '.join(STATE_COLUMNS)}::text FROM cq_task WHERE id = %s"

# Stop these tasks, where they are unfinished. In id order: a person may revoke several in one transaction.
REVOKE = f"""
WITH mine AS MATERIALIZED (
    SELECT id, status AS was, process_id AS holder, key FROM cq_task
     WHERE id = ANY(%s::uuid[]) AND status IN ({states.REVOKE.guard}) ORDER BY id FOR NO KEY UPDATE),
lingers AS (
    INSERT INTO cq_lingering (task_id, process_id, key, terminate)
    SELECT id, holder, key, %s FROM mine WHERE was = 'RUNNING')
UPDATE cq_task t
   SET status = '{states.REVOKE.target}', finished_at = {NOW}, process_id = NULL, reason = %s, terminate = %s,
       prune_after = {NOW} + make_interval(secs => t.result_ttl),
       {_END_ATTEMPT}
  FROM mine WHERE t.id = mine.id
RETURNING t.id, mine.holder
"""

# Which unfinished tasks come first after these, through predecessors that have ended?
UNFINISHED_AFTER = f"""
WITH RECURSIVE after AS (
    SELECT id, status FROM cq_task WHERE previous_id = ANY(%s::uuid[])
    UNION
    SELECT n.id, n.status FROM cq_task n JOIN after ON n.previous_id = after.id AND after.status IN ({_TERMINAL}))
SELECT id FROM after WHERE status IN ({_UNFINISHED})
"""

# Let a task go that was held back until it was submitted.
SUBMIT = f"""
UPDATE cq_task t SET status = {_QUEUED_OR_SCHEDULED}, run_after = due, args = %s::jsonb, prune_after = NULL,
       unique_key = coalesce(t.unique_key, %s), key = new_key, is_coroutine = new_key IS NOT NULL AND %s, admitted = new_key IS NULL,
       start_by = due + make_interval(secs => t.expires)
  FROM (SELECT id, GREATEST({NOW}, run_after, {NOW} + coalesce(delay, interval '0')) AS due, coalesce(%s, key) AS new_key
          FROM cq_task WHERE id = %s) AS held
 WHERE t.id = held.id AND t.status IN ({states.RELEASE.guard}) AND t.previous_id IS NULL
RETURNING t.queue
"""

# Which unfinished tasks have the unique keys of these?
HELD_AGAINST = f"""
SELECT holder.id FROM cq_task t JOIN cq_task holder ON holder.name = t.name AND holder.unique_key = t.unique_key
 WHERE t.id = ANY(%s::uuid[]) AND holder.status IN ({_UNFINISHED})
"""

_UNSTARTED = "status = 'REVOKED' AND claims = 0 AND previous_id IS NOT NULL"
_HAD_RETURNED = "status = 'REVOKED' AND outcome = 'success'"

# What would be reopened with this task, and as what; and what is only to be locked with it: the task itself, and all above it.
REOPENING = f"""
WITH RECURSIVE below AS (
    SELECT id, status, outcome, claims, parent_id, previous_id FROM cq_task WHERE id = %s
    UNION
    SELECT c.* FROM below, LATERAL (
        SELECT id, status, outcome, claims, parent_id, previous_id FROM cq_task
         WHERE parent_id = below.id AND status IN ({_UNSUCCESSFUL})
        UNION ALL
        SELECT id, status, outcome, claims, parent_id, previous_id FROM cq_task
         WHERE parent_id = below.id AND status IN ({_UNFINISHED})) AS c WHERE below.status <> 'SUCCESS'),
above AS (
    SELECT p.id, p.status, p.parent_id FROM cq_task t JOIN cq_task p ON p.id = t.parent_id WHERE t.id = %s
    UNION
    SELECT p.id, p.status, p.parent_id FROM above JOIN cq_task p ON p.id = above.parent_id),
own AS (
    SELECT id, CASE WHEN status = 'SKIPPED' OR {_UNSTARTED} THEN 'PENDING'
                    WHEN status = 'INCOMPLETE' OR {_HAD_RETURNED} THEN 'WAITING' ELSE 'QUEUED' END AS target
      FROM below WHERE status IN ({_UNSUCCESSFUL})),
raised AS (SELECT id FROM above WHERE status IN ({_TERMINAL}) AND EXISTS (SELECT 1 FROM own)),
after AS (
    SELECT n.id FROM cq_task n
     WHERE n.previous_id = ANY(ARRAY(SELECT id FROM own UNION ALL SELECT id FROM raised)) AND n.status = 'SKIPPED'
    UNION
    SELECT n.id FROM after, LATERAL (
        SELECT t.id FROM cq_task t WHERE t.previous_id = after.id AND t.status = 'SKIPPED' OFFSET 0) AS n)
SELECT id, target FROM own
UNION SELECT id, 'WAITING' FROM raised
UNION SELECT id, 'PENDING' FROM after
UNION SELECT id, NULL FROM above WHERE NOT id = ANY(ARRAY(SELECT id FROM raised))
UNION SELECT id, NULL FROM below WHERE id = %s AND NOT id = ANY(ARRAY(SELECT id FROM own))
"""

# Lock these, one after the other: the only place where somebody waits for tasks while holding some.
LOCK_IN_ORDER = "SELECT id FROM cq_task WHERE id = ANY(%s::uuid[]) ORDER BY id FOR NO KEY UPDATE"

# What forbids to reopen a task: a parent above it that has ended well all the same, or a predecessor that did not.
FORBIDS = f"""
WITH RECURSIVE above AS (
    SELECT id, parent_id, status FROM cq_task WHERE id = %s
    UNION
    SELECT p.id, p.parent_id, p.status FROM above JOIN cq_task p ON p.id = above.parent_id)
SELECT 'above', id, status FROM above WHERE id <> %s AND status = 'SUCCESS'
UNION ALL
SELECT 'before', before.id, before.status FROM cq_task t JOIN cq_task before ON before.id = t.previous_id
 WHERE t.id = %s AND (t.status = 'SKIPPED' OR t.{_UNSTARTED.replace("AND ", "AND t.")})
   AND before.status IN ({_UNSUCCESSFUL}) AND (before.status = 'REVOKED' OR NOT t.force_chain)
"""

# Which of these were undone below? They cannot be reopened.
UNDONE = "SELECT id, status FROM cq_task WHERE id = ANY(%s::uuid[]) AND compensated"

# Reopen tasks: bodies that had not returned run again, with fresh budgets; the others wait for what is below or before them.
REOPEN = f"""
WITH chosen AS MATERIALIZED (SELECT * FROM unnest(%s::uuid[], %s::text[]) AS c(id, target)),
past AS (
    INSERT INTO cq_pastattempt (task_id, number, started_at, ended_at, worker, outcome, error, exception, traceback)
    SELECT t.id, t.attempt, t.started_at, t.ended_at, t.worker, t.outcome,
           CASE WHEN t.outcome = 'crashed' THEN 'The worker process died.' WHEN t.outcome IN ('error', 'timeout') THEN t.error END,
           CASE WHEN t.outcome IN ('error', 'timeout') THEN t.exception END,
           CASE WHEN t.outcome IN ('error', 'timeout') THEN t.traceback END
      FROM chosen JOIN cq_task t USING (id) WHERE target = 'QUEUED' AND t.outcome IS NOT NULL ON CONFLICT DO NOTHING),
moved AS (
    UPDATE cq_task t
       SET status = target, finished_at = NULL, reason = NULL, terminate = false, start_by = NULL, prune_after = NULL,
           retries = CASE WHEN target = 'QUEUED' THEN 0 ELSE t.retries END,
           crashes = CASE WHEN target = 'QUEUED' THEN 0 ELSE t.crashes END,
           transients = CASE WHEN target = 'QUEUED' THEN 0 ELSE t.transients END,
           outcome = CASE WHEN target = 'QUEUED' THEN NULL ELSE t.outcome END,
           suspended_claim = CASE WHEN target <> 'QUEUED' THEN t.suspended_claim END,
           run_after = CASE WHEN target = 'QUEUED' THEN {NOW} ELSE t.run_after END,
           admitted = {_ADMITTED}
      FROM chosen
     WHERE t.id = chosen.id AND (target = 'QUEUED' AND t.status IN ({states.REOPEN.guard})
        OR target = 'WAITING' AND t.status IN ({states.REOPEN_PARENT.guard})
        OR target = 'PENDING' AND t.status IN ({states.REOPEN_SUCCESSOR.guard}))
    RETURNING t.id, t.status, t.queue, t.previous_id),
asked AS (
    INSERT INTO cq_settlerequest (task_id)
    SELECT id FROM moved WHERE status = 'WAITING'
    UNION SELECT previous_id FROM moved WHERE status = 'PENDING' AND previous_id IS NOT NULL)
SELECT id, status, queue FROM moved
"""

# What time is it?
CLOCK = f"SELECT {NOW}"
