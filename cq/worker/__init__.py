"""What runs: imported by `cq_runworker` only.

    cq_runworker
    └─ supervisor      one thread, no connection, no user code: forks, kills, watches shared memory and waitpid
       ├─ keeper       no user code: heartbeat, rescue, and the poll that wakes the children when hints were lost
       ├─ child × N    claims for itself: T threads for functions, an event loop for coroutines and the channel layer,
       │               and one engine thread that finishes, settles, promotes and claims, round by round
       └─ suspect child, when there are tasks under which a process has died: runs them one at a time, alone

A child marks each body's start in memory that it shares with the supervisor; so when it dies, the supervisor knows exactly which
tasks to blame, and the keeper hands the others back uncharged. Nothing here is needed for correctness but the rows: any of these
processes may die at any moment.
"""
