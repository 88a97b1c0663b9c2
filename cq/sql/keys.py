"""Admit tasks with a key: as many as its limit and its rate allow, in line."""

from cq.sql.parts import _IN_ATTEMPT, LONGEST_WAIT, NOW

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
