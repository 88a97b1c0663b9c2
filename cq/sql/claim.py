"""Which queues are ready, which are paused, and who takes what: the claim."""

from cq import states
from cq.new import GROUP
from cq.sql.parts import _IS_NEW_ATTEMPT, LATER, NOW

# Which queues have ready tasks? One step of the ready index per queue, not per task.
_READY_QUEUES = """
WITH RECURSIVE ready AS (
    (SELECT queue FROM cq_task WHERE status = 'QUEUED' AND admitted ORDER BY queue LIMIT 1)
    UNION ALL
    SELECT (SELECT t.queue FROM cq_task t WHERE t.status = 'QUEUED' AND t.admitted AND t.queue > ready.queue
             ORDER BY t.queue LIMIT 1)
      FROM ready WHERE ready.queue IS NOT NULL)
"""
# Is nothing to be claimed from a queue? What was said at run time counts, else what the settings say: by name, or as a list of names.
_PAUSED = "coalesce((SELECT q.paused FROM cq_queue q WHERE q.name = {queue}), {by_settings})"
_ONE_PAUSED = _PAUSED.format(queue="%s", by_settings="%s")
_ANY_PAUSED = _PAUSED.format(queue="{queue}", by_settings="{queue} = ANY(%s::text[])")
READY_QUEUES = f"""
{_READY_QUEUES}
SELECT queue FROM ready WHERE queue IS NOT NULL AND NOT {_ANY_PAUSED.format(queue="ready.queue")}
"""

# Pause a queue or let it go on; no row: it was so already.
PAUSE = f"""
INSERT INTO cq_queue AS q (name, paused, changed_at)
SELECT said.name, said.paused, {NOW} FROM (SELECT %s::text AS name, %s::boolean AS paused) AS said
 WHERE {_ONE_PAUSED} <> %s
    ON CONFLICT (name) DO UPDATE SET paused = excluded.paused, changed_at = excluded.changed_at WHERE q.paused <> excluded.paused
RETURNING q.name
"""
HAS_QUEUE = "SELECT 1 FROM cq_queue WHERE name = %s"
# Is a queue paused?
IS_PAUSED = f"SELECT {_ONE_PAUSED}"

# What must hold for a claim, as far as the task's own row tells, and who comes first. (`explain` says which of it does not.)
_IS_READY = f"status IN ({states.CLAIM.guard}) AND admitted"
_IS_IN_TIME = f"(start_by IS NULL OR start_by > {NOW} OR attempt > 0)"
_BEST = "priority DESC, run_after, id"
_IS_ALIVE = f"w.lease_until > {NOW}"

# Is a task's result to be read from the members of a group? Then a claim gives an empty text in its place.
_IS_BELOW = f"({{t}}.name = '{GROUP}' OR {{t}}.result IS NULL AND {{t}}.result_of_id IS NOT NULL)"
# Take the best ready tasks of one queue for a living process.
_CLAIM = f"""
WITH me AS MATERIALIZED (
    SELECT p.id, w.host || '/' || p.pid AS label FROM cq_process p JOIN cq_worker w ON w.id = p.worker_id
     WHERE p.id = %s AND p.ended_at IS NULL AND {_IS_ALIVE} AND NOT {_ONE_PAUSED}
       FOR KEY SHARE OF w FOR SHARE OF p)
UPDATE cq_task t
   SET status = '{states.CLAIM.target}', claims = t.claims + 1, attempt = t.attempt + {_IS_NEW_ATTEMPT}, process_id = me.id,
       worker = me.label, started_at = {LATER}, ended_at = NULL, outcome = NULL, admitted = t.key IS NULL
  FROM me
 WHERE t.id = ANY(ARRAY(
        SELECT id FROM cq_task
         WHERE {_IS_READY} AND queue = %s AND name = ANY(%s::text[]) AND crashes {{crashes}} AND {_IS_IN_TIME}
         ORDER BY {_BEST} LIMIT %s FOR NO KEY UPDATE SKIP LOCKED))
RETURNING t.id, t.name, t.queue, t.priority, t.args::text, t.kwargs::text, t.options::text, t.claims, t.attempt, t.retries,
    t.transients, t.parent_id, t.previous_id, t.workflow_id, t.depth, date_part('epoch', t.run_after), t.scheduled_for, t.pass_result,
    CASE WHEN t.pass_result THEN (
        SELECT CASE WHEN {_IS_BELOW.format(t="before")} THEN '' ELSE before.result::text END
          FROM cq_task before WHERE before.id = t.previous_id) END, t.key,
    date_part('epoch', {LATER} - t.run_after), t.at_most_once
"""
# Those under which no process has died …
CLAIM = _CLAIM.format(crashes="= 0")
# … and the others, which run alone.
CLAIM_SUSPECTS = _CLAIM.format(crashes="> 0")

# Mark the transaction that a body begins in; the mark is gone if it was ended behind Django's back.
MARK = "SAVEPOINT cq_body"
UNMARK = "RELEASE SAVEPOINT cq_body"
