"""Steps, sleeps and events of a body that is run again."""

from cq.sql.parts import _IS_RUNNING, _UNFINISHED, NOW

# What has a task behind it: its steps with their results, and the sleeps that are over.
STEPS = f"""
SELECT kind, name, result::text FROM cq_step
 WHERE task_id = %s AND (kind = 'step' OR kind = 'sleep' AND until <= {NOW})
"""

_MINE = f"SELECT id, attempt FROM cq_task WHERE id = %s AND claims = %s AND {_IS_RUNNING}"
_STEP = f"""
INSERT INTO cq_step (task_id, kind, name, attempt, started_at, ended_at, result)
SELECT id, 'step', %s, attempt, {NOW} - make_interval(secs => %s), {NOW}, %s::jsonb FROM mine RETURNING task_id
"""
# Keep what a step has returned, if the task is still this claim's: locked to the commit, which is near …
KEEP_STEP = f"WITH mine AS MATERIALIZED ({_MINE} FOR SHARE) {_STEP}"
# … or in a body's own transaction, whose end sees to that, and which may be far.
KEEP_STEP_OWN = f"WITH mine AS MATERIALIZED ({_MINE}) {_STEP}"

_COUNTS = "outcome <> 'refused'"
# What came of waiting for an event: is the wait over, has its time run out, and which event counts?
EVENT = f"""
SELECT w.ended_at IS NOT NULL, w.until <= {NOW}, e.id, e.outcome, e.payload::text, e."by", e.permission
  FROM (SELECT %s::uuid AS task_id, %s::text AS name) AS asked
  LEFT JOIN cq_step w ON w.task_id = asked.task_id AND w.kind = 'event' AND w.name = asked.name
  LEFT JOIN cq_event e ON e.task_id = asked.task_id AND e.name = asked.name AND e.{_COUNTS}
"""

# Let a body pass a wait, if the task is still this claim's.
EVENT_PASS = f"""
WITH mine AS MATERIALIZED ({_MINE} FOR SHARE)
INSERT INTO cq_step (task_id, kind, name, attempt, started_at, ended_at, permission)
SELECT id, 'event', %s, attempt, {NOW}, {NOW}, %s FROM mine
ON CONFLICT (task_id, kind, name) DO UPDATE SET ended_at = excluded.ended_at
RETURNING task_id
"""

# Refuse an event that came before it was known who may send it, if the task is still this claim's.
EVENT_REFUSE = f"""
WITH mine AS MATERIALIZED ({_MINE} FOR SHARE)
UPDATE cq_event e SET outcome = 'refused', permission = %s, reason = %s FROM mine WHERE e.task_id = mine.id AND e.id = %s
RETURNING e.task_id
"""

# Let no event count any more: the time is over. It may have to wait for a sender, and so holds no task meanwhile.
EVENT_TIME_OUT = f"""
INSERT INTO cq_event (task_id, name, outcome, reason)
SELECT task_id, name, 'timeout', 'It did not come in time.' FROM cq_step
 WHERE task_id = %s AND kind = 'event' AND name = %s AND ended_at IS NULL AND until <= {NOW}
ON CONFLICT (task_id, name) WHERE {_COUNTS} DO NOTHING
"""

# Which permission does the wait for this event ask of its sender?
EVENT_PERMISSION = "SELECT permission FROM cq_step WHERE task_id = %s AND kind = 'event' AND name = %s"

# Send an event to an unfinished task, and ask for that to be settled; no row: it does not count, or came too late.
EVENT_SEND = f"""
WITH receiver AS MATERIALIZED (SELECT id FROM cq_task WHERE id = %s AND status IN ({_UNFINISHED}) FOR KEY SHARE),
sent AS (
    INSERT INTO cq_event (task_id, name, payload, "by", comment, permission, outcome, reason)
    SELECT id, %s, %s::jsonb, %s, %s, %s, %s, %s FROM receiver
    ON CONFLICT (task_id, name) WHERE {_COUNTS} DO NOTHING
    RETURNING task_id, outcome),
asked AS (INSERT INTO cq_settlerequest (task_id) SELECT task_id FROM sent WHERE outcome = 'accepted')
SELECT outcome FROM sent
"""
