"""Retention: which workflows are past their time, and what goes with them."""

from cq.sql.parts import _UNFINISHED, NOW

# Which roots are past their time? Whoever chains onto one from now on waits, and finds it gone, or not.
PRUNE_DUE = f"""
SELECT id, status FROM cq_task
 WHERE prune_after <= {NOW} AND workflow_id IS NULL ORDER BY prune_after LIMIT %s FOR UPDATE SKIP LOCKED
"""
# The same for these, whatever their time.
PRUNE_THESE = """
SELECT id, status FROM cq_task WHERE id = ANY(%s::uuid[]) AND workflow_id IS NULL ORDER BY id FOR UPDATE SKIP LOCKED
"""

# How large are these workflows, what in them goes on, and until when are they to be kept? What a rate counts is kept for its time.
WORKFLOWS = f"""
SELECT r.id, w.*, w.until <= {NOW} FROM cq_task r, LATERAL (
    SELECT count(*), count(*) FILTER (WHERE m.status IN ({_UNFINISHED})),
           bool_or(EXISTS (SELECT 1 FROM cq_lingering l WHERE l.task_id = m.id)
                OR EXISTS (SELECT 1 FROM cq_settlerequest s WHERE s.task_id = m.id)),
           max(GREATEST(m.finished_at + make_interval(secs => r.result_ttl), m.started_at + make_interval(secs => m.rate_seconds)))
               AS until
      FROM (SELECT r.id, r.status, r.finished_at, r.started_at, r.rate_seconds
            UNION ALL
            SELECT t.id, t.status, t.finished_at, t.started_at, t.rate_seconds FROM cq_task t
             WHERE t.workflow_id = r.id AND t.workflow_id IS NOT NULL) AS m) AS w
 WHERE r.id = ANY(%s::uuid[])
"""

# Lock their members; those are missing that somebody has locked, because he is adding to them.
LOCK_MEMBERS = """
SELECT workflow_id, count(*)
  FROM (SELECT workflow_id FROM cq_task WHERE workflow_id = ANY(%s::uuid[]) AND workflow_id IS NOT NULL
           FOR UPDATE SKIP LOCKED) AS locked GROUP BY workflow_id
"""

# Look at these roots again at another time.
POSTPONE_PRUNE = f"""
UPDATE cq_task t SET prune_after = coalesce(g.until, {NOW} + make_interval(secs => %s))
  FROM unnest(%s::uuid[], %s::timestamptz[]) AS g(id, until) WHERE t.id = g.id
"""

# Remove what belongs to the tasks of workflows …
PRUNE_RECORDS = tuple(
    statement
    for table in ("cq_pastattempt", "cq_errorback", "cq_step", "cq_event")
    for statement in (
        f"DELETE FROM {table} r USING cq_task t WHERE t.workflow_id = ANY(%s::uuid[]) AND r.task_id = t.id",
        f"DELETE FROM {table} WHERE task_id = ANY(%s::uuid[])",
    )
)
# … and then them. The references among tasks are checked at the commit, so their order is free.
PRUNE = (
    "DELETE FROM cq_task WHERE workflow_id = ANY(%s::uuid[]) AND workflow_id IS NOT NULL",
    "DELETE FROM cq_task WHERE id = ANY(%s::uuid[])",
)

# Remove counts that are older than anybody's charts.
PRUNE_STATISTICS = f"""
DELETE FROM cq_statistic WHERE id = ANY(ARRAY(
    SELECT id FROM cq_statistic WHERE minute < {NOW} - make_interval(secs => %s) ORDER BY minute LIMIT %s FOR UPDATE SKIP LOCKED))
RETURNING 1
"""
