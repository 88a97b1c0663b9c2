"""Write how bodies have ended, and what follows at once."""

from cq import states
from cq.new import GROUP
from cq.sql.parts import (
    _ENDED_BY_ITSELF,
    _IS_PENDING,
    _IS_RUNNING,
    _RELEASE,
    _RELEASED_DUE,
    _SUSPENDED_STILL,
    _TERMINAL,
    _UNFINISHED,
    _WAS_NEW_ATTEMPT,
    NOW,
    _has_below,
)

_FINISH = """
WITH given AS (
    SELECT * FROM ROWS FROM (
        unnest(%s::uuid[], %s::int[], %s::text[], %s::text[], %s::text[], %s::float8[], %s::uuid[],
               %s::text[], %s::text[], %s::text[], %s::text[]),
        jsonb_array_elements(%s::jsonb))
        AS g(id, claims, target, outcome, charge, delay, result_of, error, exception, traceback, reason, result)),
mine AS MATERIALIZED (
    SELECT t.id, t.attempt, t.started_at, t.worker, g.target, g.outcome, g.result, g.error, g.exception, g.traceback, g.reason,
           g.delay, g.charge, g.result_of
      FROM given g JOIN cq_task t ON t.id = g.id AND t.claims = g.claims AND t.{is_running}
     WHERE t.id = ANY(ARRAY(SELECT id FROM given))
       FOR NO KEY UPDATE OF t {skip_locked}),
past AS (
    INSERT INTO cq_pastattempt (task_id, number, started_at, ended_at, worker, outcome, error, exception, traceback)
    SELECT id, attempt, started_at, {now}, worker, outcome, error, exception, traceback
      FROM mine WHERE target IN ('RETRY', 'QUEUED') AND outcome IS NOT NULL),
moved AS (
UPDATE cq_task t
   SET status = mine.target, process_id = NULL, outcome = mine.outcome, ended_at = CASE WHEN mine.outcome IS NOT NULL THEN {now} END,
       result = NULLIF(mine.result, 'null'), result_of_id = mine.result_of, reason = mine.reason,
       error = CASE WHEN mine.outcome IN ('interrupted') OR mine.outcome IS NULL THEN t.error ELSE mine.error END,
       exception = CASE WHEN mine.outcome IN ('interrupted') OR mine.outcome IS NULL THEN t.exception ELSE mine.exception END,
       traceback = CASE WHEN mine.outcome IN ('interrupted') OR mine.outcome IS NULL THEN t.traceback ELSE mine.traceback END,
       retries = t.retries + (mine.charge = 'retries')::int, transients = t.transients + (mine.charge = 'transients')::int,
       attempt = t.attempt - (mine.charge = 'unstarted')::int * {was_new_attempt},
       suspended_claim = CASE WHEN mine.charge = 'unstarted' THEN {suspended_still} END,
       run_after = CASE WHEN mine.target = 'RETRY' THEN {now} + make_interval(secs => mine.delay) ELSE t.run_after END,
       finished_at = CASE WHEN mine.target IN ({terminal}) THEN {now} END,
       prune_after = CASE WHEN mine.target IN ({terminal}) THEN {now} + make_interval(secs => t.result_ttl) END
  FROM mine WHERE t.id = mine.id
RETURNING t.id, t.status, t.queue, t.parent_id),
asked AS (
    INSERT INTO cq_settlerequest (task_id)
    SELECT parent_id FROM moved WHERE parent_id IS NOT NULL AND status IN ({terminal})
    UNION SELECT id FROM moved WHERE status = 'WAITING'
    RETURNING task_id)
SELECT id, status, queue FROM moved UNION ALL SELECT task_id, NULL, NULL FROM asked{or_fail}
"""
# A body's own transaction is broken off by an error if nothing was moved: so its COMMIT may be on the way already.
FENCED = "cq_fenced"
_OR_FAIL = f"""
UNION ALL SELECT NULL, ('{FENCED}' || n)::int::text, NULL FROM (SELECT count(*) AS n FROM moved) AS moves WHERE n = 0"""
# Write the outcomes of bodies, each only while its claim holds. Rows that somebody has locked are left for another try …
_PARTS = {
    "now": NOW,
    "is_running": _IS_RUNNING,
    "terminal": _TERMINAL,
    "was_new_attempt": _WAS_NEW_ATTEMPT,
    "suspended_still": _SUSPENDED_STILL,
}
FINISH = _FINISH.format(skip_locked="SKIP LOCKED", or_fail="", **_PARTS)
# … or waited for, by a body that ends its own transaction and holds no other task row.
FINISH_OWN = _FINISH.format(skip_locked="", or_fail=_OR_FAIL, **_PARTS)

_SUCCEED_LONE = f"""
UPDATE cq_task
   SET status = '{states.SUCCEED.target}', finished_at = {NOW}, ended_at = {NOW}, process_id = NULL, outcome = 'success',
       prune_after = {NOW} + make_interval(secs => result_ttl),
       result = %s::jsonb, result_of_id = NULL, reason = NULL, error = NULL, exception = NULL, traceback = NULL
 WHERE {{mine}}
RETURNING id, status, queue
"""
_MINE = f"id = %s::uuid AND claims = %s AND {_IS_RUNNING}"
# The same for one success that no parent waits for, in half the time.
FINISH_LONE = _SUCCEED_LONE.format(mine=f"id = (SELECT id FROM cq_task WHERE {_MINE} FOR NO KEY UPDATE SKIP LOCKED)")
# … and for many such.
FINISH_LONES = f"""
WITH given AS (
    SELECT * FROM ROWS FROM (unnest(%s::uuid[], %s::int[]), jsonb_array_elements(%s::jsonb)) AS g(id, claims, result))
UPDATE cq_task t
   SET status = '{states.SUCCEED.target}', finished_at = {NOW}, ended_at = {NOW}, process_id = NULL, outcome = 'success',
       prune_after = {NOW} + make_interval(secs => result_ttl),
       result = NULLIF(mine.result, 'null'), result_of_id = NULL, reason = NULL, error = NULL, exception = NULL, traceback = NULL
  FROM (SELECT held.id, g.result
          FROM given g JOIN cq_task held ON held.id = g.id AND held.claims = g.claims AND held.{_IS_RUNNING}
         WHERE held.id = ANY(ARRAY(SELECT id FROM given))
           FOR NO KEY UPDATE OF held SKIP LOCKED) AS mine
 WHERE t.id = mine.id
RETURNING t.id, t.status, t.queue
"""
# … and for a body that ends its own transaction: an error if its claim no longer holds, as above.
FINISH_LONE_OWN = _SUCCEED_LONE.format(
    mine=f"id = (SELECT coalesce((SELECT id FROM cq_task WHERE {_MINE} FOR NO KEY UPDATE), ('{FENCED}' || random())::uuid))"
)

_SUSPEND = f"""
WITH mine AS MATERIALIZED (
    SELECT t.id, t.attempt, g.kind, g.name, g.seconds, g.permission
      FROM unnest(%s::uuid[], %s::int[], %s::text[], %s::text[], %s::float8[], %s::text[])
               AS g(id, claims, kind, name, seconds, permission)
      JOIN cq_task t ON t.id = g.id AND t.claims = g.claims AND t.{_IS_RUNNING}
       FOR NO KEY UPDATE OF t {{skip_locked}}),
reached AS (
    INSERT INTO cq_step (task_id, kind, name, attempt, started_at, until, permission)
    SELECT id, kind, name, attempt, {NOW}, {NOW} + make_interval(secs => seconds), permission FROM mine
    ON CONFLICT (task_id, kind, name) DO UPDATE SET permission = excluded.permission
    RETURNING task_id, kind, name, until),
moved AS (
    UPDATE cq_task t
       SET status = '{states.SUSPEND.target}', process_id = NULL, suspended_claim = t.claims, run_after = reached.until,
           awaits = CASE WHEN reached.kind = 'event' THEN reached.name END
      FROM reached WHERE t.id = reached.task_id
    RETURNING t.id, t.status, t.queue, t.awaits),
asked AS (INSERT INTO cq_settlerequest (task_id) SELECT id FROM moved WHERE awaits IS NOT NULL RETURNING task_id)
SELECT id, status, queue FROM moved UNION ALL SELECT task_id, NULL, NULL FROM asked{{or_fail}}
"""
# Suspend bodies, each only while its claim holds, and note what they wait for. Their time counts from when this wait was first
# reached. One that waits for an event leaves a request: the event may have come while the body ran.
SUSPEND = _SUSPEND.format(skip_locked="SKIP LOCKED", or_fail="")
SUSPEND_OWN = _SUSPEND.format(skip_locked="", or_fail=_OR_FAIL)

# A group that is not to run ends when all below it has: its members are skipped one by one, and what is forced behind them runs.
_HELD = f"""coalesce(n.name = '{GROUP}' AND NOT n.force_chain AND {_has_below("n.id", _UNFINISHED)}, false)"""

_HAS_SUCCEEDED = "EXISTS (SELECT 1 FROM cq_task before WHERE before.id = n.previous_id AND before.status = 'SUCCESS')"

# What follows at once from bodies that have ended, while the swap still holds their rows: release or skip their successors. Those
# that somebody has locked are asked for. After the swap, with a newer snapshot: whoever chains onto one of them concurrently
# leaves a request of his own. In a body's transaction of a higher level, which cannot see him, it is asked for in any case.
FOLLOW = f"""
WITH after AS MATERIALIZED (
    SELECT n.id, n.previous_id, before.status = 'SUCCESS' OR n.force_chain AS runs, {_RELEASED_DUE} AS due
      FROM cq_task n JOIN cq_task before ON before.id = n.previous_id
     WHERE n.previous_id = ANY(%s::uuid[]) AND n.{_IS_PENDING} AND before.status IN ({_ENDED_BY_ITSELF})
       AND NOT (before.status <> 'SUCCESS' AND {_HELD})
     LIMIT 1000),
free AS MATERIALIZED (
    SELECT id FROM cq_task WHERE id = ANY(ARRAY(SELECT id FROM after)) AND {_IS_PENDING}
       FOR NO KEY UPDATE SKIP LOCKED),
moved AS (
    UPDATE cq_task t SET {_RELEASE} FROM after JOIN free USING (id) WHERE t.id = after.id
    RETURNING t.id, t.parent_id, t.status, t.queue),
asked AS (
    INSERT INTO cq_settlerequest (task_id)
    SELECT id FROM moved WHERE status IN ('SKIPPED', 'WAITING')
    UNION SELECT parent_id FROM moved WHERE status = 'SKIPPED' AND parent_id IS NOT NULL
    UNION SELECT previous_id FROM after WHERE NOT id = ANY(ARRAY(SELECT id FROM moved)) OR 1000 = (SELECT count(*) FROM after)
    UNION SELECT unnest(%s::uuid[]) WHERE current_setting('transaction_isolation') <> 'read committed'
    RETURNING task_id)
SELECT id, status, queue FROM moved UNION ALL SELECT task_id, NULL, NULL FROM asked
"""

# The same behind one success that no parent waits for, in half the time.
FOLLOW_LONE = f"""
WITH free AS MATERIALIZED (
    SELECT n.id, {_RELEASED_DUE} AS due, true AS runs
      FROM cq_task n WHERE n.previous_id = %s::uuid AND n.{_IS_PENDING} AND {_HAS_SUCCEEDED}
     LIMIT 1000 FOR NO KEY UPDATE SKIP LOCKED),
moved AS (
    UPDATE cq_task t SET {_RELEASE} FROM free WHERE t.id = free.id
    RETURNING t.id, t.status, t.queue),
asked AS (
    INSERT INTO cq_settlerequest (task_id)
    SELECT id FROM moved WHERE status = 'WAITING'
    UNION ALL SELECT %s::uuid
     WHERE current_setting('transaction_isolation') <> 'read committed'
        OR EXISTS (SELECT 1 FROM cq_task n WHERE n.previous_id = %s::uuid AND n.{_IS_PENDING} AND {_HAS_SUCCEEDED}
                      AND NOT n.id = ANY(ARRAY(SELECT id FROM moved)))
    RETURNING task_id)
SELECT id, status, queue FROM moved UNION ALL SELECT task_id, NULL, NULL FROM asked
"""

# Leave the successors of such a one, which has seldom any, to be settled. In a statement of its own, for the reason given above.
_ASK_NEXT = f"""
INSERT INTO cq_settlerequest (task_id)
SELECT previous_id FROM cq_task WHERE previous_id = {{them}} AND {_IS_PENDING}
UNION SELECT {{each}} WHERE current_setting('transaction_isolation') <> 'read committed'
RETURNING task_id, NULL, NULL
"""
ASK_NEXT = _ASK_NEXT.format(them="ANY(%s::uuid[])", each="unnest(%s::uuid[])")
# For one alone, PostgreSQL keeps a plan; for lists, it makes one each time.
ASK_NEXT_LONE = _ASK_NEXT.format(them="%s::uuid", each="%s::uuid")

# Add to what a process has counted in this minute. Nobody else writes its rows.
COUNT = f"""
INSERT INTO cq_statistic AS s (minute, process_id, queue, name, outcome, bucket, count, run_seconds, wait_seconds)
SELECT date_trunc('minute', {NOW}), %s::uuid, c.*
  FROM unnest(%s::text[], %s::text[], %s::text[], %s::int[], %s::int[], %s::float8[], %s::float8[]) AS c
    ON CONFLICT (minute, process_id, queue, name, outcome, bucket)
    DO UPDATE SET count = s.count + excluded.count, run_seconds = s.run_seconds + excluded.run_seconds,
                  wait_seconds = s.wait_seconds + excluded.wait_seconds
"""

# Which of these claims still hold? (A row that was skipped is locked by somebody; one that is not here was overtaken.)
STILL_MINE = f"""
SELECT t.id FROM unnest(%s::uuid[], %s::int[]) AS g(id, claims)
  JOIN cq_task t ON t.id = g.id AND t.claims = g.claims AND t.{_IS_RUNNING}
"""

# Ask for whatever may follow from the ends of these tasks to be settled: parents, revokes, successors.
ASK = f"""
INSERT INTO cq_settlerequest (task_id)
SELECT parent_id FROM cq_task WHERE id = ANY(%s::uuid[]) AND parent_id IS NOT NULL
UNION SELECT id FROM cq_task WHERE id = ANY(%s::uuid[]) AND status = 'REVOKED'
UNION SELECT previous_id FROM cq_task WHERE previous_id = ANY(%s::uuid[]) AND {_IS_PENDING}
RETURNING task_id
"""
