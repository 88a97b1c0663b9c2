"""Insert tasks: alone, alike by the thousand, behind others, below others, and those whose unique key may be taken."""

from cq import states
from cq.new import GROUP
from cq.sql.parts import (
    _ALIKE_RULES,
    _COLUMNS,
    _DUE,
    _GIVEN,
    _INSERTED,
    _PLAIN,
    _QUEUED_OR_SCHEDULED,
    _RULES,
    _SKIPPED,
    _START_BY,
    _UNFINISHED,
    _UNIQUE,
    NOW,
)

# Insert tasks that refer to no other task, and are alike but for their ids, positional arguments and (if those differ) keys; so they
# are alike in what is decided.
ENQUEUE = f"""
WITH call AS MATERIALIZED (
    SELECT make_interval(secs => %s::float8) AS delay, %s::timestamptz AS run_after, %s::text AS name, %s::text AS queue,
           %s::smallint AS priority, %s::jsonb AS options, %s::text AS created_by, %s::text AS subject, %s::int AS result_ttl,
           %s::boolean AS held, %s::float8 AS expires, %s::boolean AS at_most_once, %s::text AS unique_key, %s::text AS key,
           %s::int AS key_limit, %s::int AS rate_starts, %s::int AS rate_seconds, %s::boolean AS is_coroutine,
           %s::boolean AS fail_fast, %s::boolean AS ignore_failures, %s::jsonb AS compensate,
           %s::jsonb AS kwargs),
inserted AS (
    INSERT INTO cq_task (id, args, kwargs, name, queue, priority, options, created_by, subject, expires, at_most_once, unique_key,
                         key, key_limit, rate_starts, rate_seconds, is_coroutine, admitted,
                         fail_fast, ignore_failures, compensate, result_ttl, prune_after, delay, run_after, start_by, status)
    SELECT given.id, given.args, d.kwargs, d.name, d.queue, d.priority, d.options, d.created_by, d.subject, {_ALIKE_RULES},
           d.result_ttl, CASE WHEN d.held THEN {NOW} + make_interval(secs => d.result_ttl) END, d.delay, due, {_START_BY},
           CASE WHEN d.held THEN 'PENDING' ELSE {_QUEUED_OR_SCHEDULED} END
      FROM call AS d, LATERAL (SELECT GREATEST({NOW}, d.run_after, {NOW} + coalesce(d.delay, interval '0'))) AS at(due),
           ROWS FROM (unnest(%s::uuid[]), jsonb_array_elements(%s::jsonb), unnest(%s::text[])) AS given(id, args, key)
    RETURNING status, run_after, created_at)
SELECT status, run_after, created_at FROM inserted LIMIT 1
"""

# Insert one that is due at once: the same in a third less time …
ENQUEUE_ONE = "SELECT cq_enqueue(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"

# Insert tasks that refer to no other, each unless an unfinished one has its unique key. They are given in the order of the keys, so
# that lists of the same keys do not wait for each other crosswise.
ENQUEUE_UNIQUE = f"""
INSERT INTO cq_task (id, args, kwargs, name, queue, priority, options, created_by, subject, expires, at_most_once, unique_key,
                     key, key_limit, rate_starts, rate_seconds, is_coroutine, admitted,
                     fail_fast, ignore_failures, compensate, result_ttl, prune_after, delay, run_after, start_by, status)
SELECT d.id, d.args, d.kwargs, d.name, d.queue, d.priority, d.options, d.created_by, d.subject, {_RULES}, d.result_ttl,
       CASE WHEN d.held THEN {NOW} + make_interval(secs => d.result_ttl) END, make_interval(secs => d.delay), due, {_START_BY},
       CASE WHEN d.held THEN 'PENDING' ELSE {_QUEUED_OR_SCHEDULED} END
  FROM {_GIVEN}, LATERAL (SELECT {_DUE}) AS at(due)
    ON CONFLICT {_UNIQUE} DO NOTHING
RETURNING id, status, run_after, created_at
"""

# Who has these unique keys?
HOLDERS = f"""
SELECT t.name, t.unique_key, t.id FROM unnest(%s::text[], %s::text[]) AS g(name, unique_key)
  JOIN cq_task t ON t.name = g.name AND t.unique_key = g.unique_key AND t.status IN ({_UNFINISHED})
"""

# Let those that have these unique keys and have not started take over arguments, or when they are due. Waits for whoever has one of
# them, in id order: what was replaced must not be lost. One that is due later gives its place back.
REPLACE = f"""
WITH what AS (SELECT %s::boolean AS arguments, %s::boolean AS dates),
mine AS MATERIALIZED (
    SELECT t.id AS held_id, t.status AS was, t.key AS was_key, what.arguments AND NOT t.pass_result AS takes_arguments,
           what.dates AS takes_dates, due, d.*
      FROM what, {_GIVEN} JOIN cq_task t ON t.name = d.name AND t.unique_key = d.unique_key,
           LATERAL (SELECT {_DUE}) AS at(due)
     WHERE t.status IN ('PENDING', 'SCHEDULED', 'QUEUED') AND t.attempt = 0 ORDER BY t.id FOR NO KEY UPDATE OF t),
decided AS MATERIALIZED (
    SELECT *, CASE WHEN NOT takes_dates OR was = 'PENDING' THEN was ELSE {_QUEUED_OR_SCHEDULED} END AS target,
           CASE WHEN takes_arguments THEN key ELSE was_key END AS new_key
      FROM mine),
asked AS (
    INSERT INTO cq_keyrequest (key)
    SELECT was_key FROM decided WHERE was = 'QUEUED' AND was_key IS NOT NULL
    UNION SELECT new_key FROM decided WHERE was = 'QUEUED' AND new_key IS NOT NULL)
UPDATE cq_task t
   SET status = target, key = new_key,
       admitted = CASE WHEN was = 'QUEUED' AND target = 'QUEUED' AND was_key IS NOT DISTINCT FROM new_key THEN t.admitted
                       ELSE new_key IS NULL END,
       args = CASE WHEN takes_arguments THEN d.args ELSE t.args END,
       kwargs = CASE WHEN takes_arguments THEN d.kwargs ELSE t.kwargs END,
       key_limit = CASE WHEN takes_arguments THEN d.key_limit ELSE t.key_limit END,
       rate_starts = CASE WHEN takes_arguments THEN d.rate_starts ELSE t.rate_starts END,
       rate_seconds = CASE WHEN takes_arguments THEN d.rate_seconds ELSE t.rate_seconds END,
       is_coroutine = CASE WHEN takes_arguments THEN coalesce(d.is_coroutine, false) ELSE t.is_coroutine END,
       delay = CASE WHEN takes_dates THEN make_interval(secs => d.delay) ELSE t.delay END,
       run_after = CASE WHEN takes_dates THEN due ELSE t.run_after END,
       start_by = CASE WHEN takes_dates THEN due + make_interval(secs => t.expires) ELSE t.start_by END
  FROM decided AS d
 WHERE t.id = d.held_id
   AND (t.status = 'PENDING' OR t.status IN ({states.PROMOTE.guard}) OR t.status IN ({states.POSTPONE.guard}))
RETURNING t.status, t.queue
"""

# Insert successors of stored tasks, resolved at once where the predecessor has ended. A missing row: the predecessor is gone.
# The predecessor is locked against removal, the parent against ending unseen; a settle request sees to what is in flight.
_ENQUEUE_NEXT = f"""
WITH d AS MATERIALIZED (SELECT * FROM {_GIVEN}),
before AS MATERIALIZED (
    SELECT id, status, parent_id, coalesce(workflow_id, id) AS workflow_id FROM cq_task
     WHERE id = ANY(ARRAY(SELECT previous_id FROM d)) FOR KEY SHARE),
above AS MATERIALIZED (
    SELECT id, depth FROM cq_task
     WHERE id = ANY(ARRAY(SELECT parent_id FROM before)) AND status IN ({_UNFINISHED}) FOR SHARE),
inserted AS (
    INSERT INTO cq_task ({_COLUMNS})
    SELECT d.id, d.name, d.queue, d.priority, make_interval(secs => d.delay), above.id, d.previous_id, d.force_chain,
           d.pass_result, d.options, d.created_by, d.subject, d.args, d.kwargs, {_RULES}, before.workflow_id,
           coalesce(above.depth + 1, 0), due, {_START_BY}, decided.status, CASE WHEN decided.status = 'SKIPPED' THEN {NOW} END,
           CASE WHEN decided.status = 'SKIPPED' THEN '{_SKIPPED}' END
      FROM d JOIN before ON before.id = d.previous_id LEFT JOIN above ON above.id = before.parent_id,
           LATERAL (SELECT {_DUE}) AS at(due),
           LATERAL (SELECT CASE
               WHEN before.status IN ({_UNFINISHED}) THEN 'PENDING'
               WHEN before.status = 'SUCCESS' OR d.force_chain AND before.status <> 'REVOKED' THEN {_QUEUED_OR_SCHEDULED}
               ELSE 'SKIPPED' END) AS decided(status)
    {{on_conflict}}
    RETURNING {_INSERTED}, previous_id),
asked AS (
    INSERT INTO cq_settlerequest (task_id)
    SELECT previous_id FROM inserted WHERE status = 'PENDING'
    UNION SELECT parent_id FROM inserted WHERE status = 'SKIPPED' AND parent_id IS NOT NULL)
SELECT {_INSERTED} FROM inserted
"""
ENQUEUE_NEXT = _ENQUEUE_NEXT.format(on_conflict="")
# The same, unless an unfinished task has the unique key.
ENQUEUE_NEXT_UNIQUE = _ENQUEUE_NEXT.format(on_conflict=f"ON CONFLICT {_UNIQUE} DO NOTHING")

# The same for one whose predecessor is unfinished and has no parent, in a quarter of the time; no row: it is another case.
ENQUEUE_NEXT_ONE = "SELECT * FROM cq_enqueue_next(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"

# Insert what bodies have made (subtasks, siblings, chains on them), in the transaction that ends the body; nothing if the
# maker has been overtaken. A sibling asks for its parent to be settled: if that one was revoked, the revoke goes down to it.
_HAS_MAKER = "maker.id = d.maker_id AND maker.claims = d.maker_claims AND maker.status IN ('WAITING', 'SUCCESS')"
# A group has no body: it waits for its members from the start, or succeeds without any.
_COMPOSED = f"""CASE WHEN d.previous_id IS NOT NULL THEN 'PENDING' WHEN d.is_empty THEN 'SUCCESS' WHEN d.name = '{GROUP}' THEN 'WAITING'
    ELSE {_QUEUED_OR_SCHEDULED} END"""
_BODILESS = f"d.member, CASE WHEN d.name = '{GROUP}' THEN 'success' END"
ENQUEUE_MADE = f"""
WITH d AS MATERIALIZED (SELECT * FROM {_GIVEN}),
inserted AS (
    INSERT INTO cq_task ({_COLUMNS}, member, outcome)
    SELECT {_PLAIN}, coalesce(above.workflow_id, above.id, maker.workflow_id, maker.id), coalesce(above.depth + 1, d.depth, 0), due,
           {_START_BY}, as_made, CASE WHEN as_made = 'SUCCESS' THEN {NOW} END, NULL, {_BODILESS}
      FROM d JOIN cq_task maker ON {_HAS_MAKER} LEFT JOIN cq_task above ON above.id = d.parent_id,
           LATERAL (SELECT {_DUE}) AS at(due), LATERAL (SELECT {_COMPOSED}) AS decided(as_made)
     WHERE d.errorback_of IS NULL
    ON CONFLICT (id) DO NOTHING
    RETURNING id, status, queue, parent_id),
kept AS (
    INSERT INTO cq_errorback (task_id, spec)
    SELECT d.errorback_of, to_jsonb(d) FROM d JOIN cq_task maker ON {_HAS_MAKER} WHERE d.errorback_of IS NOT NULL),
asked AS (
    INSERT INTO cq_settlerequest (task_id)
    SELECT d.parent_id FROM inserted JOIN d USING (id) WHERE d.parent_id <> d.maker_id
    UNION SELECT id FROM inserted WHERE status = 'SUCCESS')
SELECT DISTINCT queue FROM inserted WHERE status IN ('QUEUED', 'SCHEDULED')
"""

# Insert a composition: tasks that refer to each other, and to no others but those that the inserter has locked.
ENQUEUE_COMPOSED = f"""
WITH d AS MATERIALIZED (SELECT * FROM {_GIVEN}),
inserted AS (
    INSERT INTO cq_task ({_COLUMNS}, member, outcome, result_ttl, prune_after)
    SELECT {_PLAIN}, d.workflow_id, coalesce(d.depth, 0), due, {_START_BY}, as_made, CASE WHEN as_made = 'SUCCESS' THEN {NOW} END,
           NULL, {_BODILESS}, d.result_ttl, CASE WHEN as_made = 'SUCCESS' THEN {NOW} + make_interval(secs => d.result_ttl) END
      FROM d, LATERAL (SELECT {_DUE}) AS at(due), LATERAL (SELECT {_COMPOSED}) AS decided(as_made)
     WHERE d.errorback_of IS NULL
    RETURNING {_INSERTED}),
kept AS (
    INSERT INTO cq_errorback (task_id, spec) SELECT d.errorback_of, to_jsonb(d) FROM d WHERE d.errorback_of IS NOT NULL),
asked AS (
    INSERT INTO cq_settlerequest (task_id)
    SELECT id FROM inserted WHERE status = 'SUCCESS'
    UNION SELECT parent_id FROM inserted WHERE status = 'SUCCESS' AND parent_id IS NOT NULL)
SELECT {_INSERTED} FROM inserted WHERE id = ANY(%s::uuid[])
"""

# A list of outcomes does not wait long for whoever is just making a task with the unique key of one that they leave.
SHORT_WAIT = "SET LOCAL lock_timeout = '10ms'"

# Make a chain that the body itself has enqueued its subtask.
ADOPT = """
WITH maker AS MATERIALIZED (
    SELECT id, coalesce(workflow_id, id) AS workflow_id, depth + 1 AS below, %s::uuid[] AS ids FROM cq_task WHERE id = %s),
members AS (
    UPDATE cq_task t SET workflow_id = maker.workflow_id, depth = t.depth + maker.below
      FROM maker WHERE t.workflow_id = ANY(maker.ids) AND t.parent_id IS NOT NULL)
UPDATE cq_task t SET parent_id = maker.id, workflow_id = maker.workflow_id, depth = maker.below, result_ttl = NULL, prune_after = NULL
  FROM maker WHERE t.id = ANY(maker.ids) AND t.parent_id IS NULL
RETURNING t.id
"""
