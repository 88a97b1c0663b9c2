"""The rows: tasks and their attempts, workers and their processes, settle requests, queues, keys, statistics."""

from cq.models.attempt import Attempt, PastAttempt
from cq.models.errorback import Errorback
from cq.models.key import Key, KeyRequest, Lingering
from cq.models.queue import Queue
from cq.models.settle import SettleRequest
from cq.models.statistic import Statistic
from cq.models.task import Task
from cq.models.worker import Process, Worker

__all__ = [
    "Attempt",
    "Errorback",
    "Key",
    "KeyRequest",
    "Lingering",
    "PastAttempt",
    "Process",
    "Queue",
    "SettleRequest",
    "Statistic",
    "Task",
    "Worker",
]
