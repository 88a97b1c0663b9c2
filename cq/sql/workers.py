"""Who is alive, who has died, what they have left, and bodies that outlive their claims."""

from cq import states
from cq.sql.claim import _READY_QUEUES
from cq.sql.parts import _IN_ATTEMPT, _IS_RUNNING, _SUSPENDED_STILL, _TERMINAL, _WAS_NEW_ATTEMPT, NOW

# Show a worker's sign of life; no row: it was declared dead.
HEARTBEAT = f"""
UPDATE cq_worker SET lease_until = {NOW} + make_interval(secs => %s) WHERE id = %s AND lease_until > {NOW} RETURNING id
"""

# Enter a worker, a process; another keeper may have done it. With the worker there are more places: all keys that have tasks waiting
# are to be settled. One step of the index per key, not per task.
ENTER_WORKER = f"""
WITH RECURSIVE entered AS (
    INSERT INTO cq_worker (id, host, pid, version, queues, names, slots, coroutines, lease_until)
    VALUES (%s, %s, %s, %s, %s::jsonb, %s::jsonb, %s, %s, {NOW} + make_interval(secs => %s)) ON CONFLICT (id) DO NOTHING),
present AS (
    (SELECT key FROM cq_task WHERE key IS NOT NULL AND status IN ('QUEUED', 'RUNNING') ORDER BY key LIMIT 1)
    UNION ALL
    SELECT (SELECT t.key FROM cq_task t WHERE t.key > present.key AND t.status IN ('QUEUED', 'RUNNING') ORDER BY t.key LIMIT 1)
      FROM present WHERE present.key IS NOT NULL)
INSERT INTO cq_keyrequest (key)
SELECT key FROM present
 WHERE EXISTS (SELECT 1 FROM cq_task t WHERE t.key = present.key AND t.status = 'QUEUED' AND t.admitted < true)
"""
ENTER_PROCESS = "INSERT INTO cq_process (id, worker_id, pid) VALUES (%s, %s, %s) ON CONFLICT (id) DO NOTHING"

# Declare a process dead and keep what had started in it. Waits for a claim of it that is just being committed.
END_PROCESS = f"""
UPDATE cq_process SET ended_at = {NOW}, started = %s::jsonb, was_stopped = %s, overdue = %s::jsonb
 WHERE id = %s AND ended_at IS NULL
"""

# Declare the workers dead whose lease is over, and their processes with them. A claim in flight holds its worker's row.
END_WORKERS = f"""
WITH dead AS MATERIALIZED (SELECT id FROM cq_worker WHERE lease_until < {NOW} FOR UPDATE SKIP LOCKED),
ended AS (UPDATE cq_process SET ended_at = {NOW} WHERE ended_at IS NULL AND worker_id IN (SELECT id FROM dead))
DELETE FROM cq_worker w USING dead WHERE w.id = dead.id RETURNING w.id
"""

# A worker that stops in order blames nobody for what it could not give back, and takes itself off the register.
END_PROCESSES = f"UPDATE cq_process SET ended_at = {NOW}, was_stopped = true WHERE worker_id = %s AND ended_at IS NULL"
LEAVE = "DELETE FROM cq_worker WHERE id = %s"

# Which processes are dead?
DEAD_PROCESSES = "SELECT id FROM cq_process WHERE ended_at IS NOT NULL ORDER BY id LIMIT 100 FOR UPDATE SKIP LOCKED"

# Bodies whose time was over when their process was killed are left for so long to children, which know when they are tried again.
_LEFT_TO_CHILDREN = f"p.overdue ? t.id::text AND p.ended_at > {NOW} - interval '60 seconds'"

# Take over what dead processes hold: charge a crash where the body had started and nobody stopped it, hand back the rest. Nobody
# starts again what may start only once.
RESCUE = f"""
WITH held AS MATERIALIZED (
    SELECT t.id, t.attempt, t.started_at, t.worker, had_started, charged, is_over, verdict
      FROM cq_task t JOIN cq_process p ON p.id = t.process_id,
           LATERAL (SELECT p.started IS NULL OR p.started ? t.id::text, coalesce(p.overdue ? t.id::text, false)) AS s(had_started, is_over),
           LATERAL (SELECT had_started AND NOT is_over AND NOT p.was_stopped) AS c(charged),
           LATERAL (SELECT CASE WHEN is_over THEN '{states.FAIL.target}'
                                WHEN had_started AND t.at_most_once OR charged AND t.crashes + 1 >= %s THEN '{states.LOSE.target}'
                                WHEN charged THEN '{states.RETRY_LATER.target}'
                                ELSE '{states.GIVE_BACK.target}' END) AS v(verdict)
     WHERE t.process_id = ANY(%s::uuid[]) AND t.status = 'RUNNING' AND ({_LEFT_TO_CHILDREN}) IS NOT TRUE
     LIMIT 1000 FOR NO KEY UPDATE OF t SKIP LOCKED),
past AS (
    INSERT INTO cq_pastattempt (task_id, number, started_at, ended_at, worker, outcome, error)
    SELECT id, attempt, started_at, {NOW}, worker, CASE WHEN charged THEN 'crashed' ELSE 'interrupted' END,
           CASE WHEN charged THEN 'The worker process died.' ELSE 'Its worker was stopped.' END
      FROM held WHERE had_started AND verdict IN ('{states.RETRY_LATER.target}', '{states.GIVE_BACK.target}'))
UPDATE cq_task t
   SET status = verdict,
       process_id = NULL, crashes = t.crashes + charged::int, attempt = t.attempt - (NOT had_started)::int * {_WAS_NEW_ATTEMPT},
       suspended_claim = CASE WHEN NOT had_started THEN {_SUSPENDED_STILL} END,
       outcome = CASE WHEN is_over THEN 'timeout' WHEN charged THEN 'crashed' WHEN had_started THEN 'interrupted' END,
       error = CASE WHEN is_over THEN 'The body ran longer than its timeout, and its process was killed.' ELSE t.error END,
       exception = CASE WHEN is_over THEN 'cq.exceptions.TaskTimeout' ELSE t.exception END,
       traceback = CASE WHEN NOT is_over THEN t.traceback END,
       ended_at = CASE WHEN had_started THEN {NOW} END,
       run_after = CASE WHEN verdict = '{states.RETRY_LATER.target}' THEN {NOW} + make_interval(secs => power(2, t.crashes) - 1)
                        ELSE t.run_after END,
       finished_at = CASE WHEN verdict IN ({_TERMINAL}) THEN {NOW} END,
       prune_after = CASE WHEN verdict IN ({_TERMINAL}) THEN {NOW} + make_interval(secs => t.result_ttl) END,
       reason = CASE WHEN verdict <> '{states.LOSE.target}' THEN NULL
                     WHEN t.at_most_once THEN format('Its worker %%s while running it, and on_lost="fail" allows no other start.',
                                                     CASE WHEN charged THEN 'died' ELSE 'was stopped' END)
                     ELSE format('Its worker process died %%s times while running it.', t.crashes + 1) END
  FROM held WHERE t.id = held.id
RETURNING t.id, t.status, t.queue
"""

# Which bodies' time was over when their process was killed for it? In the order of `Claimed`. By their ids, of which there are few:
# a join may be planned from all that runs.
OVERDUE = f"""
SELECT t.id, t.name, t.queue, t.priority, t.args::text, t.kwargs::text, t.options::text, t.claims, t.attempt, t.retries,
    t.transients, t.parent_id, t.previous_id, t.workflow_id, t.depth, date_part('epoch', t.run_after), t.scheduled_for,
    t.pass_result, NULL, t.key, 0.0, t.at_most_once
  FROM cq_task t
 WHERE t.id = ANY(ARRAY(SELECT jsonb_array_elements_text(overdue)::uuid FROM cq_process WHERE overdue IS NOT NULL AND ended_at IS NOT NULL))
   AND t.{_IS_RUNNING} AND t.name = ANY(%s::text[])
   AND EXISTS (SELECT 1 FROM cq_process p WHERE p.id = t.process_id AND p.ended_at IS NOT NULL AND p.overdue ? t.id::text)
 LIMIT 100
"""

# Which of the claims that a process holds are no longer its own, and are their bodies to be interrupted?
OVERTAKEN = f"""
SELECT g.id, EXISTS (SELECT 1 FROM cq_lingering l WHERE l.task_id = g.id AND l.process_id = %s AND l.terminate)
  FROM unnest(%s::uuid[], %s::int[]) AS g(id, claims)
 WHERE NOT EXISTS (SELECT 1 FROM cq_task t WHERE t.id = g.id AND t.claims = g.claims AND t.{_IS_RUNNING})
"""

# Note that the bodies of these claims still run in a process although their tasks have just moved on; what is to run again waits for
# that. After the swap, in its transaction.
LINGER = """
WITH lingers AS (
    INSERT INTO cq_lingering (task_id, process_id, key)
    SELECT t.id, %s, t.key FROM unnest(%s::uuid[], %s::int[]) AS g(id, claims)
      JOIN cq_task t ON t.id = g.id AND t.claims = g.claims AND t.status <> 'RUNNING' AND t.outcome IN ('timeout', 'interrupted')
    RETURNING task_id)
UPDATE cq_task t SET admitted = false FROM lingers WHERE t.id = lingers.task_id AND t.status = 'QUEUED'
"""

# Lock the tasks whose old bodies are gone. Somebody who has one of them may just be deciding whether it is admitted.
LINGERING_LOCK = "SELECT id FROM cq_task WHERE id = ANY(%s::uuid[]) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED"

# Forget bodies that are gone, and admit what had to wait for them. AFTER the lock: whoever has decided before is seen. (A trigger asks
# for the keys of the others.)
LINGERING_END = """
WITH gone AS (
    DELETE FROM cq_lingering l WHERE l.process_id = ANY(%s::uuid[]) AND (l.task_id = ANY(%s::uuid[])
        OR l.task_id = ANY(%s::uuid[]) AND NOT EXISTS (SELECT 1 FROM cq_task t WHERE t.id = l.task_id))
    RETURNING l.id, l.task_id, l.key),
admitted AS (
    UPDATE cq_task t SET admitted = true
     WHERE t.id = ANY(ARRAY(SELECT task_id FROM gone)) AND t.status = 'QUEUED' AND t.key IS NULL AND NOT t.admitted
       AND NOT EXISTS (SELECT 1 FROM cq_lingering o WHERE o.task_id = t.id AND NOT o.id = ANY(ARRAY(SELECT id FROM gone)))
    RETURNING t.queue)
SELECT key, NULL FROM gone WHERE key IS NOT NULL UNION ALL SELECT NULL, queue FROM admitted
"""

# Which tasks have bodies that linger in these processes?
LINGERING_IN = "SELECT DISTINCT task_id FROM cq_lingering WHERE process_id = ANY(%s::uuid[])"
# Interrupt bodies that were only told so far, of these tasks and of what was revoked with them: few linger, so look up from those.
TERMINATE_LINGERING = """
WITH RECURSIVE up AS (
    SELECT id, task_id AS above FROM cq_lingering WHERE NOT terminate
    UNION
    SELECT up.id, a.above
      FROM up, LATERAL (SELECT status, parent_id, previous_id FROM cq_task WHERE id = up.above OFFSET 0) AS t,
           LATERAL (VALUES (t.parent_id), (t.previous_id)) AS a(above)
     WHERE t.status = 'REVOKED' AND a.above IS NOT NULL)
UPDATE cq_lingering l SET terminate = true
 WHERE l.id = ANY(ARRAY(SELECT id FROM up WHERE above = ANY(%s::uuid[]))) RETURNING l.process_id
"""

# Does a process hold tasks that it does not know of, and which have bodies that have lingered in it for so many seconds?
UNKNOWN = f"""
SELECT cardinality(ARRAY(SELECT id FROM cq_task WHERE process_id = %s AND status = 'RUNNING' AND NOT id = ANY(%s::uuid[]))) > 0,
       ARRAY(SELECT DISTINCT task_id FROM cq_lingering
              WHERE process_id = %s AND NOT task_id = ANY(%s::uuid[]) AND since <= {NOW} - make_interval(secs => %s))
"""

# Hand back what a process holds but for these, because it does not answer or does not know of them; nobody is charged. What may
# start only once is handed back only by the process itself: one that does not answer may just be starting it.
HAND_BACK = f"""
UPDATE cq_task t
   SET status = '{states.GIVE_BACK.target}', process_id = NULL, attempt = t.attempt - {_WAS_NEW_ATTEMPT},
       suspended_claim = {_SUSPENDED_STILL}
 WHERE t.id = ANY(ARRAY(
        SELECT id FROM cq_task
         WHERE process_id = %s AND status IN ({states.GIVE_BACK.guard}) AND NOT id = ANY(%s::uuid[]) AND (%s OR NOT at_most_once)
           AND started_at <= %s FOR NO KEY UPDATE SKIP LOCKED))
RETURNING t.id, t.status, t.queue
"""

# Strike dead processes off the register that hold nothing any more, and in which nothing lingers.
STRIKE_OFF = """
DELETE FROM cq_process p WHERE p.id = ANY(%s::uuid[])
   AND NOT EXISTS (SELECT 1 FROM cq_task t WHERE t.process_id = p.id AND t.status = 'RUNNING')
   AND NOT EXISTS (SELECT 1 FROM cq_lingering l WHERE l.process_id = p.id)
"""

# End what dead processes still have open in the database, so that their locks do not hold up the next attempt.
TERMINATE = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
 WHERE application_name = ANY(%s::text[]) AND state <> 'idle' AND pid <> pg_backend_pid()
"""

# Which names among the first ready tasks of each queue does no living worker know? Further back, they wait for their turn anyway.
UNKNOWN_NAMES = f"""
{_READY_QUEUES}
SELECT DISTINCT q.name
  FROM ready, LATERAL (SELECT t.name FROM cq_task t WHERE t.status = 'QUEUED' AND t.admitted AND t.queue = ready.queue
                        ORDER BY t.priority DESC, t.run_after, t.id LIMIT 1000) AS q
 WHERE NOT EXISTS (SELECT 1 FROM cq_worker w WHERE w.lease_until > {NOW} AND w.names ? q.name)
"""

# Fail what no living worker has known the name of for too long.
REFUSE = f"""
UPDATE cq_task t
   SET status = '{states.REFUSE.target}', finished_at = {NOW}, prune_after = {NOW} + make_interval(secs => t.result_ttl),
       exception = 'cq.exceptions.TaskNotRegistered', outcome = CASE WHEN {_IN_ATTEMPT} THEN 'error' ELSE t.outcome END,
       ended_at = CASE WHEN {_IN_ATTEMPT} THEN {NOW} ELSE t.ended_at END,
       error = format('No worker knows a task %%L. Is its module imported? Installed apps are searched for tasks.py.', t.name)
 WHERE t.id = ANY(ARRAY(
        SELECT q.id FROM cq_task q
         WHERE q.status IN ({states.REFUSE.guard}) AND q.admitted AND q.name = ANY(%s::text[])
           AND q.run_after < {NOW} - make_interval(secs => %s)
           AND NOT EXISTS (SELECT 1 FROM cq_worker w WHERE w.lease_until > {NOW} AND w.names ? q.name)
         LIMIT 1000 FOR NO KEY UPDATE SKIP LOCKED))
RETURNING t.id
"""
