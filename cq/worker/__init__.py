"""What runs: imported by `cq_runworker` only.

    cq_runworker
    └─ supervisor      one thread, no connection, no user code: forks, kills, watches shared memory and waitpid
       ├─ keeper       no user code: heartbeat, rescue, and the poll that wakes the children when hints were lost
       ├─ child × N    claims for itself: T threads for functions, an event loop for coroutines and the channel layer,
       │               and one engine thread that finishes, settles, promotes and claims, round by round;
       │               a watchdog thread interrupts bodies whose time is over
       └─ suspect child, when there are tasks under which a process has died: runs them one at a time, alone

A child marks each body's start in memory that it shares with the supervisor; so when it dies, the supervisor knows exactly which
tasks to blame, and the keeper hands the others back uncharged. A body that does not heed its interruption ends with its process:
the child retires (claims nothing more, ends when all else in it has ended, at the latest after the grace) and another one begins
beside it; one that cannot do that any more is killed by the supervisor, which reads in the shared memory whose time is over.

Nothing here is needed for correctness but the rows: any of these processes may die at any moment.
"""
