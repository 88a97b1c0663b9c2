"""What several statements share: clocks, sets of statuses, and rules that have to be the same wherever they are asked for."""

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
# The same of tasks that are found by their ids: the index of what runs is short, but full of what has run until the next vacuum.
_IS_RUNNING = "status || '' = 'RUNNING'"
# When a successor is due, and what becomes of it.
_RELEASED_DUE = f"GREATEST({NOW}, n.run_after, {NOW} + coalesce(n.delay, interval '0'))"
_RELEASE = f"""
    status = CASE WHEN NOT runs THEN '{states.SKIP.target}' WHEN t.name = '{GROUP}' THEN 'WAITING' ELSE {_QUEUED_OR_SCHEDULED} END,
    run_after = due, start_by = due + make_interval(secs => t.expires),
    finished_at = CASE WHEN NOT runs THEN {LATER} END, reason = CASE WHEN NOT runs THEN '{_SKIPPED}' END"""


def _has_below(parent: str, statuses: str) -> str:
    """Say whether a task has a subtask in one of these statuses (NULL: no), by one probe of their index.

    Not EXISTS: whoever needs one row only is given a scan of the table, where the statistics of a short table say that many match.
    """
    return f"(SELECT true FROM cq_task c WHERE c.parent_id = {parent} AND c.status IN ({statuses}) ORDER BY c.status LIMIT 1)"
