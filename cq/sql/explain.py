"""Why is it not running? And what would the functions that are registered now say to the stored calls?"""

from cq import states
from cq.new import GROUP
from cq.sql.claim import _ANY_PAUSED, _BEST, _IS_ALIVE, _IS_IN_TIME, _IS_READY
from cq.sql.keys import _BEGUN
from cq.sql.parts import _UNFINISHED, NOW
from cq.states import sql_list

# What would a claim want of this task, and what of it holds? (worker: the living ones that serve its queue, and that know its name)
EXPLAIN = f"""
WITH task AS MATERIALIZED (
    SELECT *, {_IS_READY} AS is_ready, {_IS_IN_TIME} AS is_in_time, {_ANY_PAUSED.format(queue="cq_task.queue")} AS is_paused
      FROM cq_task WHERE id = %s),
worker AS MATERIALIZED (
    SELECT w.id, w.slots, w.names ? task.name AS knows,
           jsonb_typeof(w.queues) IS DISTINCT FROM 'array' OR w.queues ? task.queue AS serves
      FROM task, cq_worker w WHERE {_IS_ALIVE})
SELECT t.id, t.name, t.queue, t.status, t.attempt, t.crashes, t.exception, t.error, t.outcome, t.force_chain, t.key, t.key_limit,
       t.rate_starts, t.rate_seconds, t.run_after, t.awaits,
       (SELECT s.permission FROM cq_step s WHERE s.task_id = t.id AND s.kind = 'event' AND s.name = t.awaits),
       t.start_by, t.prune_after, {NOW}, t.is_ready, t.is_in_time, t.is_paused,
       (SELECT q.changed_at FROM cq_queue q WHERE q.name = t.queue AND q.paused),
       before.id, before.name, before.status,
       EXISTS (SELECT 1 FROM cq_lingering l WHERE l.task_id = t.id),
       (SELECT count(*) FROM worker WHERE serves), (SELECT count(*) FROM worker WHERE serves AND knows),
       (SELECT count(*) FROM worker WHERE knows),
       (SELECT coalesce(sum(slots), 0) FROM worker WHERE serves AND knows),
       (SELECT count(*) FROM worker w JOIN cq_process p ON p.worker_id = w.id JOIN cq_task r ON r.process_id = p.id
         WHERE w.serves AND w.knows AND r.status = 'RUNNING')
  FROM task t LEFT JOIN cq_task before ON before.id = t.previous_id
"""

# How many ready tasks come before this one, as far as it is among the first of its queue?
EXPLAIN_PLACE = f"""
SELECT place FROM (
    SELECT id, row_number() OVER () - 1 AS place FROM (
        SELECT id FROM cq_task WHERE {_IS_READY} AND queue = (SELECT queue FROM cq_task WHERE id = %s)
         ORDER BY {_BEST} LIMIT 1001) AS first) AS placed
 WHERE id = %s
"""

# How many unfinished subtasks has this one, and which are the first?
EXPLAIN_SUBTASKS = f"""
SELECT (SELECT count(*) FROM cq_task WHERE parent_id = %s AND status IN ({_UNFINISHED})), id, name, status
  FROM cq_task WHERE parent_id = %s AND status IN ({_UNFINISHED}) ORDER BY id LIMIT %s
"""

# Who has the places of this key?
EXPLAIN_KEY = """
SELECT id FROM cq_task WHERE key = %s AND status IN ('QUEUED', 'RUNNING') AND (status = 'RUNNING' OR admitted)
UNION ALL SELECT task_id FROM cq_lingering WHERE key = %s
"""
# How many starts, or tasks admitted for one, count for the rate of this key, and when does the first of them count no more?
EXPLAIN_STARTS = f"""
SELECT starts + admitted, look_at FROM ({_BEGUN.format(keys="SELECT %s::text AS key, %s::int AS rate_seconds")}) AS begun
"""

# What are the next calls whose bodies have yet to run? Page by page in the order of ids: no cursor stays open.
STORED_CALLS = f"""
SELECT id, name, queue, args::text, kwargs::text, pass_result::int, status = 'PENDING' AND previous_id IS NULL FROM cq_task
 WHERE id > %s AND name <> '{GROUP}'
   AND status IN ({sql_list(states.UNFINISHED - {states.Status.RUNNING, states.Status.WAITING})}) ORDER BY id LIMIT %s
"""
# Which calls are stored for when an unfinished task fails?
STORED_ERRORBACKS = f"""
SELECT e.id, t.id, e.spec ->> 'name', e.spec ->> 'queue', e.spec ->> 'args', e.spec ->> 'kwargs'
  FROM cq_errorback e JOIN cq_task t ON t.id = e.task_id
 WHERE e.id > %s AND NOT e.called AND t.status IN ({_UNFINISHED}) ORDER BY e.id LIMIT %s
"""
# Which subtasks may have to be undone: those that can still succeed, and those that have, below a parent that can still fail?
STORED_COMPENSATIONS = f"""
SELECT t.id, t.compensate ->> 'name', t.compensate ->> 'queue' FROM cq_task t JOIN cq_task p ON p.id = t.parent_id
 WHERE t.id > %s AND t.compensate IS NOT NULL
   AND (t.status IN ({_UNFINISHED}) OR t.status = 'SUCCESS' AND p.status <> 'SUCCESS' AND NOT p.compensated)
 ORDER BY t.id LIMIT %s
"""
