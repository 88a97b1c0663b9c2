"""The ticks of repeating tasks: which are due, what was decided of each."""

from cq.sql.parts import (
    _COLUMNS,
    _DUE,
    _ENDED_BY_ITSELF,
    _GIVEN,
    _PLAIN,
    _QUEUED_OR_SCHEDULED,
    _START_BY,
    _UNFINISHED,
    NOW,
)

# Of a repeating task: has it something to decide? What was edited is planned anew; a tick that waits for the run before it comes
# when that has ended.
_ODD = f"""enabled AND (NOT planned OR buffered IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM cq_task t WHERE t.schedule_id = r.id AND t.status IN ({_UNFINISHED})))"""

# In how many seconds is the next tick due of the repeating tasks that a worker of these names knows?
_NEXT_TICK = f"""(
SELECT CASE WHEN EXISTS (SELECT 1 FROM cq_repeatingtask r WHERE {_ODD} AND r.task = ANY(%s::text[])) THEN 0::float8
            ELSE (SELECT extract(epoch FROM r.next_run - {NOW})::float8 FROM cq_repeatingtask r
                   WHERE r.enabled AND r.next_run IS NOT NULL AND r.task = ANY(%s::text[]) ORDER BY r.next_run LIMIT 1) END)"""
NEXT_TICK = f"SELECT {_NEXT_TICK}"

# Lock repeating tasks that have something to decide, as far as nobody else does so.
TICKS = f"""
SELECT r.id, r.name, r.task, r.args::text, r.kwargs::text, r.crontab, r.every, r.timezone, coalesce(r.starts_at, r.created_at),
       r.starts_at, r.ends_at, r.queue, r.priority, r.result_ttl, r.overlap, r.catch_up, r.catch_up_window, r.jitter, r.next_run,
       r.planned, r.buffered, r.skipped::text, r.reason, {NOW}
  FROM cq_repeatingtask r
 WHERE r.enabled AND r.task = ANY(%s::text[]) AND (r.next_run <= {NOW} OR {_ODD})
 ORDER BY r.next_run LIMIT %s FOR NO KEY UPDATE SKIP LOCKED
"""

# Which of these repeating tasks have a run that has not ended? To be asked once they are locked, never with the locks: a tick that
# was fired in between would be missed.
RUNNING_TICKS = (
    f"SELECT DISTINCT schedule_id FROM cq_task WHERE schedule_id = ANY(%s::bigint[]) AND status IN ({_UNFINISHED})"
)

# Lock the runs of these repeating tasks that have not ended, as far as nobody has them.
LOCK_RUNS = f"""
SELECT id FROM cq_task WHERE schedule_id = ANY(%s::bigint[]) AND status IN ({_UNFINISHED}) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
"""

# Insert the tasks of ticks, and of runs by hand. One that does not come back was there already, or is not unique.
FIRE = f"""
INSERT INTO cq_task ({_COLUMNS}, result_ttl, schedule_id, scheduled_for)
SELECT {_PLAIN}, NULL, 0, due, {_START_BY}, {_QUEUED_OR_SCHEDULED}, NULL, NULL, tick.result_ttl, tick.schedule_id, tick.scheduled_for
  FROM {_GIVEN} JOIN unnest(%s::uuid[], %s::int[], %s::bigint[], %s::timestamptz[])
           AS tick(id, result_ttl, schedule_id, scheduled_for) ON tick.id = d.id,
       LATERAL (SELECT {_DUE}) AS at(due)
ON CONFLICT DO NOTHING
RETURNING id
"""

# What do the repeating tasks call that go on?
REPEATED_CALLS = "SELECT name, task, queue, args::text, kwargs::text FROM cq_repeatingtask WHERE enabled ORDER BY name"

# Which of these ticks have a task?
FIRED = """
SELECT t.schedule_id, t.scheduled_for FROM cq_task t
  JOIN unnest(%s::bigint[], %s::timestamptz[]) AS tick(schedule_id, scheduled_for) USING (schedule_id, scheduled_for)
"""

# Write what was decided.
DECIDE = """
UPDATE cq_repeatingtask r
   SET next_run = d.next_run, planned = true, last_run = GREATEST(r.last_run, d.last_run), buffered = d.buffered,
       skipped = d.skipped::jsonb, reason = d.reason
  FROM unnest(%s::bigint[], %s::timestamptz[], %s::timestamptz[], %s::timestamptz[], %s::text[], %s::text[])
       AS d(id, next_run, last_run, buffered, skipped, reason)
 WHERE r.id = d.id
"""

# Pause repeating tasks whose last runs, as many as they allow, have all gone wrong since they were enabled. Revoked runs do not count.
PAUSE_FAILING = f"""
UPDATE cq_repeatingtask r
   SET enabled = false, next_run = NULL, buffered = NULL,
       reason = format('Paused: the last %%s runs in a row went wrong. Resume it when that is mended.', r.max_failures)
 WHERE r.id = ANY(ARRAY(
        SELECT s.id FROM cq_repeatingtask s
         WHERE s.enabled AND s.max_failures IS NOT NULL AND s.max_failures = (
               SELECT count(*) FILTER (WHERE run.status <> 'SUCCESS') FROM (
                   SELECT t.status FROM cq_task t
                    WHERE t.schedule_id = s.id AND t.status IN ({_ENDED_BY_ITSELF}) AND t.status <> 'SKIPPED'
                      AND t.scheduled_for IS NOT NULL AND t.created_at > s.enabled_at
                    ORDER BY t.scheduled_for DESC LIMIT s.max_failures) AS run)
           FOR NO KEY UPDATE SKIP LOCKED))
RETURNING r.name
"""
