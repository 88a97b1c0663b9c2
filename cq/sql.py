"""Every statement that moves tasks. One comment line above each says which question it answers or what it does.

Rules that all of them keep, under READ COMMITTED, where each statement sees what was committed before it began:
- A status is written only where the row still has a source of the transition; statuses are literals, because a parameter would
  keep the planner from the partial indexes.
- Nobody waits for a task row while holding another: lists are locked with SKIP LOCKED.
- FOR NO KEY UPDATE, never FOR UPDATE: an insert that refers to the row holds KEY SHARE on it and must not be skipped.
- `= ANY(ARRAY(SELECT … LIMIT …))`, never `IN (SELECT … LIMIT …)`: the latter may be planned as a scan of the table.
- `statement_timestamp()`, never `now()`, which stands still inside a long transaction.
"""

from cq import states
from cq.new import GROUP
from cq.states import sql_list

NOW = "statement_timestamp()"
# Between its claim and its start, no task waits in a process for longer than these seconds.
LONGEST_WAIT = 0.1
# Read after the statement's snapshot was taken, so later than all that it sees: a parent ends after its subtasks, and a
# successor starts after its predecessor, also on paper.
LATER = "clock_timestamp()"
_TERMINAL = sql_list(states.TERMINAL)
_UNFINISHED = sql_list(states.UNFINISHED)
_UNSUCCESSFUL = sql_list(states.UNSUCCESSFUL)
_DELAYED = sql_list(states.DELAYED)
_SUSPENDED = sql_list(states.PROMOTE.sources & {states.Status.SUSPENDED})
_ENDED_BY_ITSELF = sql_list(states.TERMINAL - {states.REVOKE.target})

_GIVEN = """jsonb_to_recordset(%s::jsonb) AS d(
    id uuid, name text, queue text, priority smallint, run_after timestamptz, delay float8,
    parent_id uuid, previous_id uuid, maker_id uuid, maker_claims int, force_chain boolean, pass_result boolean,
    options jsonb, created_by text, subject text, args jsonb, kwargs jsonb, expires float8, at_most_once boolean,
    unique_key text, key text, key_limit int, rate_starts int, rate_seconds int, is_coroutine boolean,
    fail_fast boolean, ignore_failures boolean, compensate jsonb,
    workflow_id uuid, depth int, member int, is_empty boolean, errorback_of uuid, result_ttl int, held boolean)"""
_COLUMNS = """id, name, queue, priority, delay, parent_id, previous_id, force_chain, pass_result,
    options, created_by, subject, args, kwargs, expires, at_most_once, unique_key, key, key_limit, rate_starts, rate_seconds,
    is_coroutine, admitted, fail_fast, ignore_failures, compensate,
    workflow_id, depth, run_after, start_by, status, finished_at, reason"""
_RULES = """d.expires, coalesce(d.at_most_once, false), d.unique_key, d.key, d.key_limit, d.rate_starts, d.rate_seconds,
    coalesce(d.is_coroutine, false), d.key IS NULL, coalesce(d.fail_fast, false), coalesce(d.ignore_failures, false), d.compensate"""
_ALIKE_RULES = _RULES.replace("d.key,", "coalesce(given.key, d.key),").replace(
    "d.key IS NULL", "coalesce(given.key, d.key) IS NULL"
)
_START_BY = "due + make_interval(secs => d.expires)"
_PLAIN = f"""d.id, d.name, d.queue, d.priority, make_interval(secs => d.delay), d.parent_id, d.previous_id, d.force_chain,
    d.pass_result, d.options, d.created_by, d.subject, d.args, d.kwargs, {_RULES}"""
_INSERTED = "id, status, run_after, created_at, parent_id, workflow_id, depth, finished_at, reason"
# What a unique key forbids; the same as the index's.
_UNIQUE = f"(name, unique_key) WHERE unique_key IS NOT NULL AND status IN ({_UNFINISHED})"
UNIQUE_INDEX = "cq_task_unique"
# When a new row is due: the past means now.
_DUE = f"GREATEST({NOW}, d.run_after, {NOW} + make_interval(secs => coalesce(d.delay, 0)))"
_QUEUED_OR_SCHEDULED = f"CASE WHEN due > {NOW} THEN 'SCHEDULED' ELSE 'QUEUED' END"
# The claim that follows a suspension continues the attempt; so does the next one, if that claim never started its body.
_IS_NEW_ATTEMPT = "(t.suspended_claim IS DISTINCT FROM t.claims)::int"
_WAS_NEW_ATTEMPT = "(t.suspended_claim IS DISTINCT FROM t.claims - 1)::int"
_IN_ATTEMPT = "t.suspended_claim = t.claims"
# A revoke ends the attempt of what runs, or was suspended.
_END_ATTEMPT = f"""outcome = CASE WHEN t.status = 'RUNNING' OR {_IN_ATTEMPT} THEN 'revoked' ELSE t.outcome END,
           ended_at = CASE WHEN t.status = 'RUNNING' OR {_IN_ATTEMPT} THEN {NOW} ELSE t.ended_at END"""
_SUSPENDED_STILL = "CASE WHEN t.suspended_claim = t.claims - 1 THEN t.claims ELSE t.suspended_claim END"
_SKIPPED = "Its predecessor did not succeed."
# Of tasks that are found by their predecessors or ids. It says what `status` would, but to no index: where little is known of a table
# that has just grown, the planner takes the partial one of what is not ready for short, and walks all of a long chain for each link.
_IS_PENDING = f"status || '' IN ({states.RELEASE.guard})"
# When a successor is due, and what becomes of it.
_RELEASED_DUE = f"GREATEST({NOW}, n.run_after, {NOW} + coalesce(n.delay, interval '0'))"
_RELEASE = f"""
    status = CASE WHEN NOT runs THEN '{states.SKIP.target}' WHEN t.name = '{GROUP}' THEN 'WAITING' ELSE {_QUEUED_OR_SCHEDULED} END,
    run_after = due, start_by = due + make_interval(secs => t.expires),
    finished_at = CASE WHEN NOT runs THEN {LATER} END, reason = CASE WHEN NOT runs THEN '{_SKIPPED}' END"""

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

# The same for one whose predecessor is unfinished and has no parent, in a third of the time; no row: it is another case.
ENQUEUE_NEXT_ONE = f"""
WITH before AS MATERIALIZED (
    SELECT id, coalesce(workflow_id, id) AS workflow_id FROM cq_task
     WHERE id = %s::uuid AND status IN ({_UNFINISHED}) AND parent_id IS NULL FOR KEY SHARE),
asked AS (INSERT INTO cq_settlerequest (task_id) SELECT id FROM before)
INSERT INTO cq_task (id, args, kwargs, name, queue, priority, force_chain, pass_result, options, created_by, subject,
                     delay, run_after, previous_id, workflow_id, status)
SELECT %s::uuid, %s::jsonb, %s::jsonb, %s, %s, %s::smallint, %s::boolean, %s::boolean, %s::jsonb, %s, %s,
       d.delay, GREATEST({NOW}, d.run_after, {NOW} + coalesce(d.delay, interval '0')), before.id, before.workflow_id, 'PENDING'
  FROM before, (SELECT make_interval(secs => %s::float8) AS delay, %s::timestamptz AS run_after) AS d
RETURNING created_at, run_after, workflow_id
"""
# The same for one with nothing but its place in the queue.
ENQUEUE_NEXT_PLAIN = f"""
WITH before AS MATERIALIZED (
    SELECT id, coalesce(workflow_id, id) AS workflow_id FROM cq_task
     WHERE id = %s AND status IN ({_UNFINISHED}) AND parent_id IS NULL FOR KEY SHARE),
asked AS (INSERT INTO cq_settlerequest (task_id) SELECT id FROM before)
INSERT INTO cq_task (id, args, kwargs, name, queue, priority, force_chain, pass_result, previous_id, workflow_id, status)
SELECT %s::uuid, %s::jsonb, %s::jsonb, %s, %s, %s::smallint, %s::boolean, %s::boolean, id, workflow_id, 'PENDING' FROM before
RETURNING created_at, run_after, workflow_id
"""

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
      FROM given g JOIN cq_task t ON t.id = g.id AND t.claims = g.claims AND t.status = 'RUNNING'
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
    "terminal": _TERMINAL,
    "was_new_attempt": _WAS_NEW_ATTEMPT,
    "suspended_still": _SUSPENDED_STILL,
}
FINISH = _FINISH.format(skip_locked="SKIP LOCKED", or_fail="", **_PARTS)
# … or waited for, by a body that ends its own transaction and holds no other task row.
FINISH_OWN = _FINISH.format(skip_locked="", or_fail=_OR_FAIL, **_PARTS)

_FINISH_LONE = f"""
UPDATE cq_task
   SET status = '{states.SUCCEED.target}', finished_at = {NOW}, ended_at = {NOW}, process_id = NULL, outcome = 'success',
       prune_after = {NOW} + make_interval(secs => result_ttl),
       result = %s::jsonb, result_of_id = NULL, reason = NULL, error = NULL, exception = NULL, traceback = NULL
 WHERE id = (SELECT id FROM cq_task WHERE id = %s::uuid AND claims = %s AND status = 'RUNNING' FOR NO KEY UPDATE {{skip_locked}})
RETURNING id, status, queue
"""
# The same for one success that no parent waits for, in half the time.
FINISH_LONE = _FINISH_LONE.format(skip_locked="SKIP LOCKED")
# … and for many such.
FINISH_LONES = f"""
UPDATE cq_task t
   SET status = '{states.SUCCEED.target}', finished_at = {NOW}, ended_at = {NOW}, process_id = NULL, outcome = 'success',
       prune_after = {NOW} + make_interval(secs => result_ttl),
       result = NULLIF(mine.result, 'null'), result_of_id = NULL, reason = NULL, error = NULL, exception = NULL, traceback = NULL
  FROM (SELECT held.id, g.result
          FROM ROWS FROM (unnest(%s::uuid[], %s::int[]), jsonb_array_elements(%s::jsonb)) AS g(id, claims, result)
          JOIN cq_task held ON held.id = g.id AND held.claims = g.claims AND held.status = 'RUNNING'
           FOR NO KEY UPDATE OF held SKIP LOCKED) AS mine
 WHERE t.id = mine.id
RETURNING t.id, t.status, t.queue
"""
FINISH_LONE_OWN = f"""
WITH moved AS ({_FINISH_LONE.format(skip_locked="")})
SELECT id, status, queue FROM moved {_OR_FAIL}
"""

_SUSPEND = f"""
WITH mine AS MATERIALIZED (
    SELECT t.id, t.attempt, g.kind, g.name, g.seconds, g.permission
      FROM unnest(%s::uuid[], %s::int[], %s::text[], %s::text[], %s::float8[], %s::text[])
               AS g(id, claims, kind, name, seconds, permission)
      JOIN cq_task t ON t.id = g.id AND t.claims = g.claims AND t.status = 'RUNNING'
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
_HELD = f"""(n.name = '{GROUP}' AND NOT n.force_chain
    AND EXISTS (SELECT 1 FROM cq_task c WHERE c.parent_id = n.id AND c.status IN ({_UNFINISHED})))"""

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

# Leave the successors of such a one, which has seldom any, to be settled. In a statement of its own, for the reason given above.
ASK_NEXT = f"""
INSERT INTO cq_settlerequest (task_id)
SELECT previous_id FROM cq_task WHERE previous_id = ANY(%s::uuid[]) AND {_IS_PENDING}
UNION SELECT unnest(%s::uuid[]) WHERE current_setting('transaction_isolation') <> 'read committed'
RETURNING task_id, NULL, NULL
"""

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
STILL_MINE = """
SELECT t.id FROM unnest(%s::uuid[], %s::int[]) AS g(id, claims)
  JOIN cq_task t ON t.id = g.id AND t.claims = g.claims AND t.status = 'RUNNING'
"""

# Ask for whatever may follow from the ends of these tasks to be settled: parents, revokes, successors.
ASK = f"""
INSERT INTO cq_settlerequest (task_id)
SELECT parent_id FROM cq_task WHERE id = ANY(%s::uuid[]) AND parent_id IS NOT NULL
UNION SELECT id FROM cq_task WHERE id = ANY(%s::uuid[]) AND status = 'REVOKED'
UNION SELECT previous_id FROM cq_task WHERE previous_id = ANY(%s::uuid[]) AND {_IS_PENDING}
RETURNING task_id
"""

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
                      OR NOT EXISTS (SELECT 1 FROM cq_task c WHERE c.parent_id = w.id AND c.status IN ({_UNSUCCESSFUL})) AS fine
              FROM cq_task w
             WHERE w.id = ANY(%s::uuid[]) AND w.status IN ({states.FALL_SHORT.guard})
               AND NOT EXISTS (SELECT 1 FROM cq_task c WHERE c.parent_id = w.id AND c.status IN ({_UNFINISHED}))) AS judged
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
       AND EXISTS (SELECT 1 FROM cq_task c WHERE c.parent_id = w.id AND c.status IN ({_UNSUCCESSFUL}))),
below AS MATERIALIZED (
    SELECT id, status AS was, process_id AS holder, key FROM cq_task
     WHERE parent_id = ANY(ARRAY(SELECT id FROM above)) AND status IN ({states.REVOKE.guard}) LIMIT 1000 FOR NO KEY UPDATE SKIP LOCKED),
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
    UNION SELECT parent_id FROM cq_task WHERE parent_id = ANY(ARRAY(SELECT id FROM above)) AND status IN ({_UNFINISHED}))
SELECT id, (SELECT process_id FROM lingers WHERE task_id = revoked.id) FROM revoked
"""

# Which subtasks are to be undone, now that nothing below these parents runs any more? The last one to succeed comes first. Marks
# the parents: it happens once, and forbids to reopen them.
SETTLE_COMPENSATE = f"""
WITH marked AS (
    UPDATE cq_task p SET compensated = true
     WHERE p.id = ANY(%s::uuid[]) AND p.status IN ({_UNSUCCESSFUL}) AND NOT p.compensated
       AND EXISTS (SELECT 1 FROM cq_task c WHERE c.parent_id = p.id AND c.compensate IS NOT NULL AND c.status = 'SUCCESS')
       AND NOT EXISTS (SELECT 1 FROM cq_task c WHERE c.parent_id = p.id AND c.status IN ({_UNFINISHED}))
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
     LIMIT 1000 FOR NO KEY UPDATE SKIP LOCKED),
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
     OR EXISTS (SELECT 1 FROM cq_task c WHERE c.parent_id = t.id AND c.status IN ({_UNFINISHED})))
"""

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

# What has a task behind it: its steps with their results, and the sleeps that are over.
STEPS = f"""
SELECT kind, name, result::text FROM cq_step
 WHERE task_id = %s AND (kind = 'step' OR kind = 'sleep' AND until <= {NOW})
"""

_MINE = """SELECT id, attempt FROM cq_task WHERE id = %s AND claims = %s AND status = 'RUNNING'"""
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

# A task whose last body may still run in some process is not admitted before that is gone; one with a key is in its turn.
_ADMITTED = "t.key IS NULL AND NOT EXISTS (SELECT 1 FROM cq_lingering l WHERE l.task_id = t.id)"

# Make ready what is due.
PROMOTE = f"""
UPDATE cq_task t SET status = '{states.PROMOTE.target}', admitted = {_ADMITTED}
 WHERE t.id = ANY(ARRAY(
        SELECT id FROM cq_task WHERE status IN ({states.PROMOTE.guard}) AND run_after <= {NOW}
         ORDER BY run_after LIMIT 1000 FOR NO KEY UPDATE SKIP LOCKED))
RETURNING t.queue
"""

# End what was not started in time. What has started once, it never comes too late for.
EXPIRE = f"""
UPDATE cq_task t
   SET status = '{states.EXPIRE.target}', finished_at = {NOW}, prune_after = {NOW} + make_interval(secs => t.result_ttl),
       reason = format('It was not started within %%s s after it was due.', t.expires)
 WHERE t.id = ANY(ARRAY(
        SELECT id FROM cq_task WHERE status IN ({states.EXPIRE.guard}) AND attempt = 0 AND start_by <= {NOW}
         ORDER BY start_by LIMIT 1000 FOR NO KEY UPDATE SKIP LOCKED))
RETURNING t.id
"""

# In how many seconds is the next delayed task due, or the next one too late, or may a rate let the next one start?
_NEXT_DUE = f"""(SELECT extract(epoch FROM LEAST(
    (SELECT min(run_after) FROM cq_task WHERE status IN ({_DELAYED})),
    (SELECT min(start_by) FROM cq_task WHERE status = 'QUEUED' AND attempt = 0 AND start_by IS NOT NULL),
    (SELECT min(look_at) FROM cq_key WHERE look_at IS NOT NULL)) - {NOW})::float8)"""
_TO_SETTLE = "EXISTS (SELECT 1 FROM cq_settlerequest) OR EXISTS (SELECT 1 FROM cq_keyrequest)"

# Is anything to be settled, a task or a key, and when is the next thing due?
PEEK = f"SELECT {_TO_SETTLE}, {_NEXT_DUE}"

# Is any key to be settled besides these? In the order of the index, which learns on the way what is gone: else a key that is busy
# gets slower and slower until the next vacuum.
KEYS_ASKED = "SELECT (SELECT true FROM cq_keyrequest WHERE NOT key = ANY(%s::text[]) ORDER BY key LIMIT 1) IS NOT NULL"

# Which keys are to be settled, from this one on: asked for, or because their rate lets the next one start?
KEYS = f"""
WITH RECURSIVE asked AS (
    (SELECT key, 1 AS n FROM cq_keyrequest WHERE key > %s ORDER BY key LIMIT 1)
    UNION ALL
    SELECT (SELECT r.key FROM cq_keyrequest r WHERE r.key > asked.key ORDER BY r.key LIMIT 1), n + 1
      FROM asked WHERE asked.key IS NOT NULL AND n < %s)
SELECT key FROM asked WHERE key IS NOT NULL
 UNION (SELECT name FROM cq_key WHERE look_at <= {NOW} AND name > %s ORDER BY name LIMIT %s)
 ORDER BY 1 LIMIT %s
"""

# Make the keys that nobody has had yet. By itself: whoever makes the same one waits for this statement only.
KEY_MAKE = """
INSERT INTO cq_key (name)
SELECT name FROM unnest(%s::text[]) AS g(name)
 WHERE NOT EXISTS (SELECT 1 FROM cq_key k WHERE k.name = g.name) ORDER BY name ON CONFLICT DO NOTHING
"""

# Lock the keys, in order. Somebody else is on those that are missing, and their requests stay.
KEY_LOCK = "SELECT name FROM cq_key WHERE name = ANY(%s::text[]) ORDER BY name FOR NO KEY UPDATE SKIP LOCKED"

# Delete their requests. BEFORE counting, as in SETTLE_TAKE.
KEY_TAKE = "DELETE FROM cq_keyrequest WHERE key = ANY(%s::text[])"

# `admitted >= true` and `admitted < true` say what `admitted` and `NOT admitted` do, but to no index than that of the keys: where little
# is known of a table that has just grown, the planner takes any partial index for short, and walks all that is ready or waiting.
# A place is taken by what runs, by a body that may still run although its task moved on, and by what is admitted already.
_TAKEN = """(SELECT count(*) FROM cq_task t WHERE t.key = g.key AND t.status = 'RUNNING')
        + (SELECT count(*) FROM cq_lingering l WHERE l.key = g.key)
        + (SELECT count(*) FROM cq_task t WHERE t.key = g.key AND t.status = 'QUEUED' AND t.admitted >= true)"""
_PLACES = (
    "LEAST(coalesce({row}.key_limit, 2147483647), CASE WHEN {row}.is_coroutine THEN coroutines ELSE functions END)"
)
_WAITING = """t.key = {key} AND t.status = 'QUEUED' AND t.admitted < true
             AND NOT EXISTS (SELECT 1 FROM cq_lingering l WHERE l.task_id = t.id)"""
_IN_LINE = "t.status, t.admitted, t.priority DESC, t.run_after, t.id"
# A start that a process has not begun with any more when it gave it back is none.
_STARTS = f"""t.key = w.key AND t.started_at > w.since AND (t.status = 'RUNNING' OR t.outcome IS NOT NULL OR {_IN_ATTEMPT})
               AND NOT EXISTS (SELECT 1 FROM cq_pastattempt p WHERE p.task_id = t.id AND p.number = t.attempt)"""

# What counts for a rate, and when the first of it counts no more: starts within its time, the past attempts of those tasks included, and
# what is admitted for one.
_BEGUN = f"""
    SELECT w.key, w.rate_seconds, s.starts, LEAST(s.oldest, {NOW}) + (w.rate_seconds + {LONGEST_WAIT}) * interval '1 s' AS look_at,
           (SELECT count(*) FROM cq_task t WHERE t.key = w.key AND t.status = 'QUEUED' AND t.admitted >= true) AS admitted
      FROM (SELECT key, rate_seconds, {NOW} - (rate_seconds + {LONGEST_WAIT}) * interval '1 s' AS since FROM ({{keys}}) AS rated) AS w,
           LATERAL (
               SELECT count(*) AS starts, min(started_at) AS oldest FROM (
                   SELECT t.started_at FROM cq_task t WHERE {_STARTS}
                   UNION ALL
                   SELECT p.started_at FROM cq_task t JOIN cq_pastattempt p ON p.task_id = t.id
                    WHERE t.key = w.key AND t.started_at > w.since AND p.started_at > w.since) AS a) AS s"""

# Admit of each key as many as there are places and starts left for: in the order of the ready index, and nobody past one that must
# wait. Then say when a rate lets the next one start, ask again where there may be more to do, and forget keys that have no tasks.
ADMIT = f"""
WITH living AS MATERIALIZED (
    SELECT coalesce(sum(slots), 0) AS functions, coalesce(sum(coroutines), 0) AS coroutines
      FROM cq_worker WHERE lease_until > {NOW}),
taken AS MATERIALIZED (
    SELECT g.key, {_TAKEN} AS places FROM unnest(%s::text[]) AS g(key)),
sized AS MATERIALIZED (
    SELECT taken.key, places, functions, coroutines,
           LEAST(1000, GREATEST(0, LEAST({_PLACES.format(row="first")} - places, first.rate_starts))) + 1 AS size
      FROM living, taken, LATERAL (
           SELECT t.key_limit, t.rate_starts, t.is_coroutine FROM cq_task t WHERE {_WAITING.format(key="taken.key")}
            ORDER BY {_IN_LINE} LIMIT 1) AS first),
waiting AS MATERIALIZED (
    SELECT sized.*, c.*, row_number() OVER (PARTITION BY sized.key ORDER BY c.priority DESC, c.run_after, c.id) AS n
      FROM sized, LATERAL (
           SELECT t.id, t.priority, t.run_after, t.key_limit, t.rate_starts, t.rate_seconds, t.is_coroutine
             FROM cq_task t WHERE {_WAITING.format(key="sized.key")}
            ORDER BY {_IN_LINE} LIMIT sized.size) AS c),
begun AS MATERIALIZED ({_BEGUN.format(keys="SELECT DISTINCT key, rate_seconds FROM waiting WHERE rate_starts IS NOT NULL")}),
judged AS MATERIALIZED (
    SELECT waiting.*, places + n <= {_PLACES.format(row="waiting")} AS has_place,
           rate_starts IS NULL OR starts + admitted + n <= rate_starts AS has_start, look_at
      FROM waiting LEFT JOIN begun USING (key, rate_seconds)),
line AS MATERIALIZED (
    SELECT key, id, n, size, has_start, look_at, bool_and(has_place AND has_start) OVER (PARTITION BY key ORDER BY n) AS fits FROM judged),
free AS MATERIALIZED (
    SELECT id FROM cq_task WHERE id = ANY(ARRAY(SELECT id FROM line WHERE fits)) AND status = 'QUEUED' AND admitted < true
       FOR NO KEY UPDATE SKIP LOCKED),
moved AS (
    UPDATE cq_task t SET admitted = true FROM free WHERE t.id = free.id
    RETURNING t.id, t.queue),
again AS (
    INSERT INTO cq_keyrequest (key)
    SELECT DISTINCT key FROM line WHERE fits AND (NOT id = ANY(ARRAY(SELECT id FROM moved)) OR n = size) RETURNING key),
later AS MATERIALIZED (
    SELECT taken.key, min(line.look_at) FILTER (WHERE NOT fits AND NOT has_start) AS look_at
      FROM taken LEFT JOIN line USING (key) WHERE places > 0 OR id IS NOT NULL GROUP BY taken.key),
marked AS (
    UPDATE cq_key k SET look_at = later.look_at FROM later WHERE k.name = later.key AND k.look_at IS DISTINCT FROM later.look_at),
forgotten AS (DELETE FROM cq_key k USING taken WHERE k.name = taken.key AND NOT EXISTS (SELECT 1 FROM later WHERE later.key = taken.key))
SELECT queue, NULL::float8 FROM moved GROUP BY queue
 UNION ALL SELECT NULL, 0 WHERE EXISTS (SELECT 1 FROM again)
 UNION ALL SELECT NULL, extract(epoch FROM min(look_at) - {NOW})::float8 FROM later HAVING min(look_at) IS NOT NULL
"""

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

# Which bodies' time was over when their process was killed for it? In the order of `Claimed`.
OVERDUE = """
SELECT t.id, t.name, t.queue, t.priority, t.args::text, t.kwargs::text, t.options::text, t.claims, t.attempt, t.retries,
    t.transients, t.parent_id, t.previous_id, t.workflow_id, t.depth, date_part('epoch', t.run_after), t.scheduled_for,
    t.pass_result, NULL, t.key, 0.0, t.at_most_once
  FROM cq_process p JOIN cq_task t ON t.process_id = p.id AND t.status = 'RUNNING'
 WHERE p.overdue IS NOT NULL AND p.ended_at IS NOT NULL AND p.overdue ? t.id::text AND t.name = ANY(%s::text[])
 LIMIT 100
"""

# Which of the claims that a process holds are no longer its own, and are their bodies to be interrupted?
OVERTAKEN = """
SELECT g.id, EXISTS (SELECT 1 FROM cq_lingering l WHERE l.task_id = g.id AND l.process_id = %s AND l.terminate)
  FROM unnest(%s::uuid[], %s::int[]) AS g(id, claims)
 WHERE NOT EXISTS (SELECT 1 FROM cq_task t WHERE t.id = g.id AND t.claims = g.claims AND t.status = 'RUNNING')
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
# … for longer than so many seconds, and are unknown there?
LINGERING_UNKNOWN = f"""
SELECT DISTINCT task_id FROM cq_lingering
 WHERE process_id = %s AND NOT task_id = ANY(%s::uuid[]) AND since <= {NOW} - make_interval(secs => %s)
"""
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
# In which processes of a worker do bodies go on for so long that were to be interrupted?
UNHEARD = f"""
SELECT DISTINCT p.id FROM cq_lingering l JOIN cq_process p ON p.id = l.process_id
 WHERE p.worker_id = %s AND p.ended_at IS NULL AND l.terminate AND l.since < {NOW} - make_interval(secs => %s)
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
           AND started_at <= {NOW} - make_interval(secs => %s) FOR NO KEY UPDATE SKIP LOCKED))
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

_SERVED = "(%s::text[] IS NULL OR queue = ANY(%s::text[]))"
_UNPAUSED = f"NOT {_ANY_PAUSED.format(queue='cq_task.queue')}"
# Queue by queue, so that no pile in a paused one is walked through; and in the order of the ready index: without it the planner
# may read the whole table, past all finished rows, for the first one.
_FIRST_READY = f"""(
    {_READY_QUEUES}
    SELECT true FROM ready
     WHERE queue IS NOT NULL AND {_SERVED} AND NOT {_ANY_PAUSED.format(queue="ready.queue")}
       AND (SELECT true FROM cq_task t
             WHERE t.status = 'QUEUED' AND t.admitted AND t.queue = ready.queue AND {{crashes}} AND t.name = ANY(%s::text[])
             ORDER BY t.queue, t.priority DESC, t.run_after, t.id LIMIT 1)
     LIMIT 1)"""

# Is there anything to do for a worker of these queues and names? (settle, ready, suspects, dead, seconds to the next due, and tick)
LOOK = f"""
SELECT {_TO_SETTLE},
       {_FIRST_READY.format(crashes="crashes = 0")} IS NOT NULL,
       (SELECT count(*) FROM (
           SELECT 1 FROM cq_task
            WHERE status = 'QUEUED' AND admitted AND crashes > 0 AND {_SERVED} AND {_UNPAUSED} AND name = ANY(%s::text[])
            ORDER BY queue, priority DESC, run_after, id LIMIT 64) AS suspects),
       EXISTS (SELECT 1 FROM cq_process WHERE ended_at IS NOT NULL) OR EXISTS (SELECT 1 FROM cq_worker WHERE lease_until < {NOW}),
       {_NEXT_DUE},
       {_NEXT_TICK}
"""

# Is there still something to run in these queues, or on its way back to them? Paused ones wait for a person.
BUSY = f"""
SELECT {_TO_SETTLE}
    OR (SELECT true FROM cq_task WHERE status = 'RUNNING' AND {_SERVED} ORDER BY process_id LIMIT 1) IS NOT NULL
    OR (SELECT true FROM cq_task WHERE status = 'RETRY' AND {_SERVED} AND {_UNPAUSED} ORDER BY run_after LIMIT 1) IS NOT NULL
    OR {_FIRST_READY.format(crashes="true")} IS NOT NULL
    OR EXISTS (SELECT 1 FROM cq_lingering l, LATERAL (SELECT status FROM cq_task WHERE id = l.task_id OFFSET 0) AS t
                WHERE t.status = 'QUEUED')
"""

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

# What time is it?
CLOCK = f"SELECT {NOW}"
