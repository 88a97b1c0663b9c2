"""CQ beside other task queues: same work, same machine, interleaved rounds. `sh tests/bench` runs it.

Every measurement is a process of its own, on an emptied database and Redis: `python -m tests.benchmarks.client SYSTEM WORK N`.
"""
